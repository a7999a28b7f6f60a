"""What one genuine message may turn into is bounded, whatever is in it; what is beyond is kept and means nothing."""

import gc
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from media_callbacks.healing.queries.base import QuerySource
from media_callbacks.inbox.rows import size_bytes
from media_callbacks.model.identity import Key
from media_callbacks.model.receipts import Receipt
from media_callbacks.sources.base import MAX_EVENTS, Message, Parsed
from media_callbacks.sources.intake import MAX_EVENTS_BYTES, build_receipt
from tests.factories.hostile_bodies import BODIES, hostile_bodies
from tests.sources.test_intake import transcode
from tests.sources.test_mutations import META, NOW, SOURCES

MIB = 2**20
SIZE_BYTES = 150_000
# Thirty times what was sent, as JSON may take as objects of Python, and what may come of it. What grows with the number
# of events times what they share would be 37 MiB and more.
PEAK_BYTES = 16 * MIB
NAMES = [(product, name) for product in BODIES for name in hostile_bodies(product, 2000)]


@pytest.fixture(autouse=True)
def _every_event_keeps_the_contract():
    """Other tests look at each event; here they are too many, and only counted."""


def keep(product: str, body: bytes) -> Receipt:
    message = Message(body, body, "signature", meta=META)
    return build_receipt(SOURCES[product], message, received_at=NOW, route=lambda _: ("orders",))


def keep_vod(event_type: str, **members: Any) -> Receipt:
    return keep("vod", json.dumps({"EventType": event_type, "VideoId": "video-1", **members}).encode())


@contextmanager
def measured() -> Iterator[list[int]]:
    """Puts the peak of what was allocated meanwhile, in bytes, and what is left of it, into a list."""
    figures: list[int] = []
    gc.collect()
    tracemalloc.start()
    try:
        yield figures
        peak = tracemalloc.get_traced_memory()[1]
        gc.collect()
        figures += [peak, tracemalloc.get_traced_memory()[0]]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("product", "name"), NAMES)
def test_no_body_means_more_than_its_size_allows(product, name):
    body = hostile_bodies(product, SIZE_BYTES)[name]
    assert len(body) < 3 * SIZE_BYTES
    keep(product, b"{}")
    with measured() as figures:
        receipt = keep(product, body)
    assert figures[0] < PEAK_BYTES
    assert receipt.body == body
    assert bool(receipt.entries) != bool(receipt.reason)
    assert len(receipt.entries) <= MAX_EVENTS
    assert sum(len(entry.body) for entry in receipt.entries) <= MAX_EVENTS_BYTES
    assert len(receipt.reason or "") <= 500
    assert "failed" not in (receipt.reason or "")
    assert sum(map(len, receipt.warnings)) <= 20_000
    # What is waited for is counted, give or take a text that is no ASCII.
    assert figures[1] < 4 * size_bytes(receipt) + 100_000


def test_five_hundred_events_and_no_more():
    infos = [{"JobId": f"job-{number}"} for number in range(501)]
    receipt = keep_vod("SnapshotComplete", SnapshotInfos=infos[:500])
    assert (len(receipt.entries), receipt.reason) == (500, None)
    receipt = keep_vod("SnapshotComplete", SnapshotInfos=infos)
    assert receipt.entries == ()
    assert receipt.reason == "expected at most 500 elements in SnapshotInfos, found 501"
    # The task is an event of its own.
    assert len(keep_vod("TranscodeComplete", StreamInfos=infos[:499]).entries) == 500
    receipt = keep_vod("TranscodeComplete", StreamInfos=infos[:500])
    assert (receipt.entries, receipt.reason) == ((), "expected at most 500 events, found 501")


def test_activities_that_give_no_event_do_not_count():
    ended = [{"Type": "Transcode", "JobId": f"job-{number}", "State": "Success"} for number in range(499)]
    others = [{"Type": "Start", "State": "Success"}] * 600

    def report(activities: list[Any]) -> Receipt:
        execution = {"RunId": "run-1", "State": "Completed", "ActivityList": activities}
        return keep("mts", json.dumps({"Type": "Report", "MediaWorkflowExecution": execution}).encode())

    assert len(report(ended + others).entries) == 500
    assert report([*ended, ended[0] | {"JobId": "job-500"}]).reason == "expected at most 500 events, found 501"


def test_four_mebibytes_of_events_and_no_more():
    infos = [{"JobId": f"job-{number:03}"} for number in range(4)]
    usual = sum(len(entry.body) for entry in keep_vod("SnapshotComplete", SnapshotInfos=infos, Extend="").entries)
    most = (MAX_EVENTS_BYTES - usual) // 4
    receipt = keep_vod("SnapshotComplete", SnapshotInfos=infos, Extend="x" * most)
    assert (len(receipt.entries), receipt.reason) == (4, None)
    assert receipt.entries[3].event.data.user_data == "x" * most
    receipt = keep_vod("SnapshotComplete", SnapshotInfos=infos, Extend="x" * (most + 1))
    assert receipt.entries == ()
    assert receipt.reason is not None
    assert receipt.reason.startswith(
        f"expected at most {MAX_EVENTS_BYTES} bytes of events, the first 4 of 4 have 41943"
    )


def test_nothing_is_built_beyond_what_may_be():
    """However many there would be, and however large."""
    routed = []
    completions = tuple(transcode(id=(f"job-{number}",), user_data="x" * MIB) for number in range(500))
    source = QuerySource(name="mts", product="mts", account="a", parser=lambda _: Parsed(completions))

    def route(event: Any) -> tuple[str, ...]:
        routed.append(event.id)
        return ()

    receipt = build_receipt(source, Message(b"{}", b"{}", "signature"), received_at=NOW, route=route)
    assert receipt.entries == ()
    assert len(routed) == 4


def test_ids_may_be_long_and_not_long_times_many():
    receipt = keep_vod("SnapshotComplete", SnapshotInfos=[{"SnapshotCount": 1}] * 400, SubType="x" * 20_000)
    assert receipt.entries == ()
    assert receipt.reason is not None
    assert receipt.reason.startswith(f"expected at most {MAX_EVENTS_BYTES} characters in ids of events, found 8")
    (entry,) = keep_vod("SnapshotComplete", SnapshotInfos=[{}], SubType="x" * MIB).entries
    assert len(entry.event.id) == 38


def test_warnings_are_few_and_short_whatever_a_parser_says():
    receipt = keep_vod("SnapshotComplete", SnapshotInfos=[{"JobId": "j", "SnapshotCount": "many"}] * 500)
    assert len(receipt.warnings) == 100

    assert all(len(path) <= 200 for path in receipt.warnings)
    source = QuerySource(
        name="vod", product="vod", account="a", parser=lambda _: Parsed((transcode(),), ("x" * MIB,) * 1000)
    )
    receipt = build_receipt(source, Message(b"{}", b"{}", "signature"), received_at=NOW, route=lambda _: ())
    assert [len(path) for path in receipt.warnings] == [200] * 100


# Identity


def digest(*parts: str, family: str = "transcode") -> bytes:
    return Key("vod", "main", family, parts).digest()


def test_long_parts_of_an_id_tell_events_apart_as_short_ones_do():
    long = "x" * 257
    digests = {
        digest(long),
        digest(long + "x"),
        digest("x" * 256),
        digest(long, ""),
        digest("", long),
        digest(long, family=long),
        digest("", family=long),
        digest("", family=long + "x"),
        digest("", family="x" * 256),
    }
    assert len(digests) == 9
    assert digest(long, family=long) == digest("x" * 257, family="x" * 257)


def test_what_short_parts_count_by_never_changes():
    """Or all that was ever accepted would come again."""
    assert digest("job-1").hex() == "026ab639c21df8aabf1e3e248f50e669"
    assert digest("y" * 256, "", family="x" * 256).hex() == "80fa903654ca03d131f583e0acda34a8"


def test_nothing_is_kept_of_long_families():
    digest("job-1")
    with measured() as figures:
        for number in range(100):
            digest("job-1", family=f"{number}" + "x" * 100_000)
    assert figures[1] < 100_000
