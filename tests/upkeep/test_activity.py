"""What is noted every few seconds of what came and what was refused; a flood of refusals costs neither memory nor writes."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from structlog.testing import capture_logs

from media_callbacks.config.settings import build_settings
from media_callbacks.edge.answers import Refusals
from media_callbacks.inbox.records import ActivityWord, RefusedRow, SourceNews
from media_callbacks.model.errors import BadSignature, InboxUnavailable
from media_callbacks.observe.metrics import Metrics
from media_callbacks.observe.refused import (
    MAX_ALIKE,
    MAX_BODY_BYTES,
    MAX_BYTES,
    MAX_HEAD_BYTES,
    RefusedRequest,
    RefusedRequests,
)
from media_callbacks.sources.base import Callback
from media_callbacks.timing.limited_log import LimitedLog
from media_callbacks.upkeep.activity import MAX_KEPT, ActivityKeeper, Explain
from tests.factories.running import make_tables

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FOUND = {"notes": [], "steps": [], "events": [], "warnings": [], "findings": [{"cause": "key_case"}]}


class Store:
    def __init__(self) -> None:
        self.is_away = False
        self.refused: list[RefusedRow] = []
        self.news: list[Sequence[SourceNews]] = []
        self.counts: list[Sequence[tuple[ActivityWord, str, int]]] = []
        self.sources: list[Mapping[str, str]] = []

    def _write(self) -> None:
        if self.is_away:
            raise InboxUnavailable("away")

    async def keep_refused(self, refused: Sequence[RefusedRow]) -> None:
        self._write()
        self.refused += refused

    async def note_sources(self, configurations: Mapping[str, str]) -> None:
        self._write()
        self.sources.append(configurations)

    async def note_activity(
        self, news: Sequence[SourceNews], counted: Sequence[tuple[ActivityWord, str, int]] = ()
    ) -> None:
        self._write()
        self.news.append(news)
        self.counts.append(sorted(counted))

    async def summarise(self) -> None:
        self._write()


class Noted:
    """An edge that refuses, and whoever keeps what it noted."""

    def __init__(self, explain: Explain | None = lambda _: FOUND, changes: Mapping[str, Any] | None = None) -> None:
        self.store, self.metrics, self.requests = Store(), Metrics(), RefusedRequests(lambda: NOW)
        self.refusals = Refusals(self.metrics, LimitedLog(), self.requests)
        self.keeper = ActivityKeeper(
            self.store,
            build_settings(make_tables(Path("unused"), {}, changes), environ={}),
            metrics=self.metrics,
            refused=self.requests,
            explain=explain,
            wait=self._wait,
        )

    async def _wait(self, *_: Any) -> None:
        """At once."""

    def refuse(self, reason: str = "signature_mismatch", *, source: str = "vod", body: bytes = b"{}") -> None:
        callback = Callback("POST", b"/callbacks/vod", b"", [(b"host", b"cb.example.com")], body)
        self.refusals.answer(source, BadSignature("no key fits", reason=reason), callback)

    def kept(self) -> list[tuple[str, str, str]]:
        return [(row.source, row.reason, row.cause) for row in self.store.refused]


async def test_a_refused_request_is_kept_with_what_explains_it() -> None:
    noted = Noted()
    noted.refuse()
    await noted.keeper.note()
    (row,) = noted.store.refused
    assert (row.refused_at, row.source, row.status, row.reason) == (NOW, "vod", 403, "signature_mismatch")
    assert (row.cause, row.detail) == ("key_case", "no key fits")
    assert json.loads(row.document)["explanation"] == FOUND
    assert row.job_id is None
    await noted.keeper.note()
    assert len(noted.store.refused) == 1


async def test_which_job_it_is_about_is_told_as_far_as_it_may_be() -> None:
    """Of a job id that holds a secret no more than of the rest."""
    key = make_tables(Path("unused"), {})["sources"]["vod"]["keys"][0]
    for job_id, told in (
        ("job-7", "job-7"),
        (f"job {key}", f"job <{len(key)} characters>"),
        ("\ud800", "?"),
        (None, None),
    ):
        found = FOUND | {"events": [{"data": {"job_id": job_id}}, {"data": {"job_id": "another"}}]}
        noted = Noted(explain=Mock(return_value=found))
        noted.refuse()
        await noted.keeper.note()
        assert [row.job_id for row in noted.store.refused] == [told]


async def test_where_nobody_explains_the_request_is_kept() -> None:
    noted = Noted(explain=None)
    noted.refuse()
    await noted.keeper.note()
    assert noted.kept() == [("vod", "signature_mismatch", "")]


async def test_whatever_explaining_comes_to_the_request_is_kept() -> None:
    def fail(_: RefusedRequest) -> Any:
        raise RecursionError("with a secret")

    noted = Noted(explain=fail)
    noted.refuse()
    with capture_logs() as logs:
        await noted.keeper.note()
    assert noted.kept() == [("vod", "signature_mismatch", "")]
    assert [line for line in logs if line["event"] == "explaining_failed"] == [
        {"event": "explaining_failed", "log_level": "error", "error": "RecursionError"}
    ]


async def test_what_has_not_come_whole_is_not_explained() -> None:
    noted = Noted()
    noted.refuse("body_too_large", body=b"x" * (MAX_BODY_BYTES + 1))
    noted.refusals.answer("vod", BadSignature("cut"), Callback("POST", b"/", b"", [], b"x"), is_whole=False)
    await noted.keeper.note()
    assert [(json.loads(row.document)["explanation"], row.cause) for row in noted.store.refused] == [(None, "")] * 2


# Floods


async def test_a_hundred_thousand_refusals_are_a_few_rows() -> None:
    noted = Noted()
    for number in range(100_000):
        noted.refuse(f"reason {number % 10}", source=("vod", "ims", "none")[number % 3])
    await noted.keeper.note()
    assert len(noted.store.refused) == MAX_KEPT
    assert len(set(noted.kept())) == MAX_KEPT
    assert [sum(one.refused for one in news) for news in noted.store.news] == [66_667]
    await noted.keeper.note()
    assert len(noted.store.refused) == MAX_KEPT


async def test_however_many_kinds_are_refused_each_has_its_turn() -> None:
    """Those of which few were kept come first: no stranger keeps a new kind out."""
    noted = Noted()
    for _ in range(5):
        for number in range(40):
            noted.refuse(f"reason {number}")
        await noted.keeper.note()
    assert len(set(noted.kept())) == 40
    for number in range(40):
        noted.refuse(f"reason {number}")
    noted.refuse("a genuine one")
    await noted.keeper.note()
    assert ("vod", "a genuine one", "key_case") in noted.kept()


def test_what_is_noted_is_bounded_and_has_room_for_each_kind() -> None:
    requests = RefusedRequests(lambda: NOW)

    def note(reason: str) -> None:
        headers = [(b"x-%d" % number, b"v" * 1000) for number in range(15)]
        callback = Callback("POST", b"/callbacks/vod", b"", headers, b"x" * 1_000_000)
        requests.note("vod", 401, reason, "", callback, is_whole=True)

    for number in range(200):
        for _ in range(10):
            note(f"reason {number}")
    taken = requests.take()
    assert len(taken) == 200
    assert all(1 <= len(alike) <= MAX_ALIKE for alike in taken.values())
    size = sum(len(one.callback.body) for alike in taken.values() for one in alike)
    assert size < MAX_BYTES + 200 * MAX_BODY_BYTES
    assert requests.take() == {}


def test_of_an_endless_head_next_to_nothing_is_noted() -> None:
    requests = RefusedRequests(lambda: NOW)
    callback = Callback("GET", b"/" + b"p" * MAX_HEAD_BYTES, b"q" * 100_000, [(b"a", b"b" * 100_000)], b"")
    requests.note("none", 431, "headers_too_large", "", callback, is_whole=True)
    ((one,),) = requests.take().values()
    assert not one.is_whole
    assert (len(one.callback.raw_path), one.callback.query, one.callback.headers) == (1000, b"", ())


# The store


async def test_while_the_store_is_away_nothing_grows_and_no_count_is_lost() -> None:
    noted = Noted()
    noted.store.is_away = True
    for _ in range(5):
        for _ in range(1000):
            noted.refuse()
        with capture_logs() as logs:
            await noted.keeper.note()
        assert [line["event"] for line in logs if line["event"] != "callback_refused"] == ["activity_not_noted"]
    noted.store.is_away = False
    noted.refuse()
    await noted.keeper.note()
    assert [list(news) for news in noted.store.news] == [[SourceNews("vod", 0, 5001)]]
    assert len(noted.store.refused) <= MAX_ALIKE


async def test_where_nothing_comes_nothing_is_written() -> None:
    noted = Noted()
    for _ in range(3):
        await noted.keeper.note()
    assert (len(noted.store.sources), noted.store.news, noted.store.refused) == (1, [], [])


async def test_what_no_source_listens_to_makes_no_source() -> None:
    noted = Noted()
    noted.refuse("unknown_path", source="none")
    await noted.keeper.note()
    assert [list(news) for news in noted.store.news] == [[]]
    assert noted.store.counts == [[("refused", "none", 1)]]
    assert noted.kept() == [("none", "unknown_path", "key_case")]


async def test_what_was_delivered_and_refused_is_counted_once() -> None:
    noted = Noted()
    for _ in range(3):
        noted.metrics.attempt_finished(sink="orders", result="delivered", duration_s=0.1)
    noted.metrics.attempt_finished(sink="orders", result="retrying", duration_s=0.1)
    noted.refuse()
    await noted.keeper.note()
    noted.metrics.attempt_finished(sink="orders", result="delivered", duration_s=0.1)
    noted.store.is_away = True
    await noted.keeper.note()
    noted.store.is_away = False
    await noted.keeper.note()
    await noted.keeper.note()
    assert noted.store.counts == [
        [("delivered", "orders", 3), ("refused", "vod", 1)],
        [("delivered", "orders", 1)],
    ]


async def test_a_source_is_another_when_its_table_is() -> None:
    async def noted_of(changes: Mapping[str, Any] | None = None) -> Mapping[str, str]:
        noted = Noted(changes=changes)
        await noted.keeper.note()
        return noted.store.sources[0]

    plain = await noted_of()
    assert await noted_of({"server.body_timeout_s": 3.0}) == plain
    for changes in (
        {"sources.vod.keys": ["another-key"]},
        {"sources.vod.path": "/other"},
        {"sources.vod.max_age_s": 9},
    ):
        changed = await noted_of(changes)
        assert {name for name in plain if plain[name] != changed[name]} == {"vod"}
    # Too short to tell whether a guess is right.
    assert all(len(text) == 4 for text in plain.values())
