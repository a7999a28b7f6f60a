import asyncio
import base64
import io
import json
import sqlite3
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook

from media_callbacks.__main__ import main
from media_callbacks.assembly.sources import build_source
from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.moments import read_moment
from media_callbacks.config.settings import load_settings
from media_callbacks.model.times import format_time, in_words
from media_callbacks.rehearsal.simulate import PAYLOADS, http_request
from media_callbacks.sources.base import PARSER_VERSION, Callback
from media_callbacks.sources.intake import build_receipt
from tests.factories.fake_admin import (
    FakeAdmin,
    attempt_item,
    delivery_item,
    event_detail,
    event_item,
    fake_admin,
    job_hit,
    make_id,
    problem,
    receipt_item,
    replay_item,
    run_command,
    sink_item,
)
from tests.factories.running import WEBHOOK_SECRET, receiving, run_service
from tests.inbox.timed import TimedSqliteInbox

CONFIG = """
[store]
url = "sqlite:///{folder}/test.db"
[sources.vod]
product = "vod"
transport = "http"
path = "/callbacks/vod"
url = "https://cb.example.com/callbacks/vod"
keys = ["Example1Key"]
[sinks.out]
kind = "stdout"
"""
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "media-callbacks.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def keep_what_nobody_understood(config: Path) -> None:
    """Two receipts of one job and a broken one, as a version would have kept them that could read none of them."""
    settings = load_settings(config, environ={})
    source = build_source("vod", settings.callback_sources["vod"])
    payload = PAYLOADS["vod"]["DynamicImageComplete"]("job-1", NOW, False)

    async def keep() -> None:
        inbox = TimedSqliteInbox(settings.store.sqlite_path)
        await inbox.open()
        for body in (json.dumps(payload).encode(), json.dumps(payload, indent=1).encode(), b"\xff"):
            request = http_request(source, body, now=NOW)  # type: ignore[arg-type]
            headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
            callback = Callback("POST", b"/callbacks/vod", b"", headers, request.body)
            message = source.verify(callback, now=NOW, public_key=None)
            await inbox.put(build_receipt(source, message, received_at=NOW, route=lambda _: ("out",)))
        await inbox.close()

    asyncio.run(keep())
    with sqlite3.connect(config.parent / "test.db") as connection:
        for table in ("event_receipts", "event_bodies", "deliveries", "events"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("UPDATE receipts SET state = 'unparsed', parser = 0")


def count(config: Path, table: str) -> int:
    with sqlite3.connect(config.parent / "test.db") as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_reparse_counts_first_then_emits_and_then_has_nothing_to_do(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_what_nobody_understood(config)
    expected = {"receipts": 3, "accepted": 1, "changed": 0, "unparsed": 1, "skipped": 0}

    assert main(["events", "reparse", "--config", str(config), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected | {"dry_run": True}
    assert (count(config, "events"), count(config, "deliveries")) == (0, 0)

    assert main(["events", "reparse", "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected | {"dry_run": False}
    assert (count(config, "events"), count(config, "deliveries")) == (1, 1)
    with sqlite3.connect(config.parent / "test.db") as connection:
        rows = connection.execute("SELECT state, parser FROM receipts ORDER BY id").fetchall()
    assert rows == [("accepted", PARSER_VERSION), ("duplicate", PARSER_VERSION), ("unparsed", PARSER_VERSION)]

    assert main(["events", "reparse", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert "1 receipts were read again" in out, "the broken one is looked at each time"
    assert "0 new events" in out


def test_receipts_of_sources_that_are_gone_are_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_what_nobody_understood(config)
    config.write_text(config.read_text().replace("[sources.vod]", "[sources.other]"))
    assert main(["events", "reparse", "--config", str(config)]) == 0
    assert "3 receipts are of sources that are not configured any more" in capsys.readouterr().out


# The others ask the admin API


@pytest.fixture
async def admin(monkeypatch):
    monkeypatch.setattr("media_callbacks.commands.events.replay._POLL_S", 0)
    for command in ("list", "show", "replay"):
        monkeypatch.setattr(f"media_callbacks.commands.events.{command}.utc_now", lambda: NOON)
    async with fake_admin() as fake:
        fake.answers["GET /v1/sinks"] = {"sinks": []}
        yield fake


NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def keep(admin: FakeAdmin, count: int) -> None:
    """Events 1 to ``count``, in a list with pages and by their ids."""
    newest_first = [event_item(number) for number in range(count, 0, -1)]

    def page(asked):
        start, size = int(asked.query.get("cursor", 0)), int(asked.query["limit"])
        assert size <= 500, "the most that the API gives"
        end = start + size
        return {"events": newest_first[start:end], "cursor": str(end) if end < count else None}

    admin.answers["GET /v1/events"] = page
    for number in range(1, count + 1):
        admin.answers[f"GET /v1/events/{make_id(number)}"] = event_detail(number)


def at_a_terminal(monkeypatch, answer: str = "") -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    keyboard = io.StringIO(answer)
    monkeypatch.setattr(keyboard, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", keyboard)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("today", "2026-11-21T00:00:00Z"),
        ("yesterday", "2026-11-20T00:00:00Z"),
        ("2026-11-20", "2026-11-20T00:00:00Z"),
        ("2026-11-20T08:30:00Z", "2026-11-20T08:30:00Z"),
        ("2026-11-20T08:30:00+08:00", "2026-11-20T00:30:00Z"),
        ("2026-11-20 08:30", "2026-11-20T08:30:00Z"),
        ("90s", "2026-11-21T11:58:30Z"),
        ("30m", "2026-11-21T11:30:00Z"),
        ("2h", "2026-11-21T10:00:00Z"),
        ("7d", "2026-11-14T12:00:00Z"),
        ("1w", "2026-11-14T12:00:00Z"),
    ],
)
def test_times_are_dates_days_and_ages(text, expected):
    assert format_time(read_moment("--since", text, now=NOON)) == expected


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "2h30", "-2h", "9999999w", "2026-13-01", "\x1b[2J", "0001-01-01T00:00:00+08:00"]
)
def test_what_is_no_time_is_wrong_usage(text):
    with pytest.raises(UsageError, match="--since: expected 2026-11-20") as raised:
        read_moment("--since", text, now=NOON)
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0, "0 s"),
        (0.0214, "0.021 s"),
        (5.34, "5.34 s"),
        (59, "59 s"),
        (59.9, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86400, "1 d"),
        (90000, "1 d 1 h"),
        (-61, "-1 min 1 s"),
    ],
)
def test_lengths_of_time_are_told_in_two_units(seconds, words):
    assert in_words(timedelta(seconds=seconds)) == words


async def test_a_list_in_a_pipe_is_one_line_per_event(admin, capsys):
    keep(admin, 2)
    newest = event_item(3, job_id=None, media_id=None, deliveries={}, revision=2, outcome="failed")
    oldest = event_item(1, job_id="a\tb\x1b[2J", deliveries={"bus": "dead", "orders": "retrying"})
    admin.answers["GET /v1/events"] = {"events": [newest, oldest], "cursor": None}
    assert await admin.run("events", "list") == 0
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [
        ["2026-11-20T09:00:03Z", make_id(3), "vod", "animated_image", "failed", "2", "-", "-", "none"],
        [
            "2026-11-20T09:00:01Z",
            make_id(1),
            "vod",
            "animated_image",
            "succeeded",
            "1",
            "a\\tb\\x1b[2J",
            "media-1",
            "bus dead, orders retrying",
        ],
    ]
    assert await admin.run("events", "list", "--json") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [newest, oldest]


async def test_every_filter_is_asked_for_by_its_name(admin):
    admin.answers["GET /v1/events"] = {"events": [], "cursor": None}
    options = ["--job-id", "j&=+ ö", "--media-id", "m", "--product", "vod", "--kind", "snapshot", "--outcome", "failed"]
    options += ["--state", "dead", "--sink", "orders", "--since", "yesterday", "--until", "2h"]
    assert await admin.run("events", "list", *options) == 0
    assert admin.asked[0].query == {
        "job_id": "j&=+ ö",
        "media_id": "m",
        "product": "vod",
        "kind": "snapshot",
        "outcome": "failed",
        "state": "dead",
        "sink": "orders",
        "since": "2026-11-20T00:00:00Z",
        "until": "2026-11-21T10:00:00Z",
        "limit": "50",
    }


@pytest.mark.parametrize("limit, pages", [("7", 1), ("450", 3), ("1000", 3)])
async def test_a_list_is_as_long_as_asked_for_over_pages(admin, capsys, limit, pages):
    keep(admin, 500)
    assert await admin.run("events", "list", "--limit", limit) == 0
    ids = [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()]
    assert ids == [make_id(number) for number in range(500, 500 - min(int(limit), 500), -1)]
    assert len(admin.asked) == pages


async def test_a_list_on_a_terminal_is_a_table_that_says_when_there_is_more(admin, capsys, monkeypatch):
    keep(admin, 3)
    at_a_terminal(monkeypatch)
    assert await admin.run("events", "list", "--limit", "2") == 0
    out = capsys.readouterr().out
    assert all(text in out for text in (make_id(3), make_id(2), "job job-3", "orders delivered", "09:00:03"))
    assert "these are the newest 2; there are more: --limit N" in out
    assert await admin.run("events", "list", "--limit", "3") == 0
    assert "there are more" not in capsys.readouterr().out
    odd = event_item(1, job_id=None, media_id="[red]m\x1b]0;title\x07", revision=2, deliveries={})
    admin.answers["GET /v1/events"] = {"events": [odd], "cursor": None}
    assert await admin.run("events", "list") == 0
    out = capsys.readouterr().out
    assert all(text in out for text in ("vod media [red]m\\x1b]0;title\\x07", "revision 2", "none"))
    admin.answers["GET /v1/events"] = {"events": [], "cursor": None}
    assert await admin.run("events", "list") == 0
    assert "no event fits" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["list", "--limit", "0"], "--limit: expected a number above zero"),
        (["list", "--state", "lost"], "--state: expected one of "),
        (["list", "--kind", "snapshots"], 'came snapshots; did you mean "snapshot"?'),
        (["list", "--snk", "orders"], '--snk: there is no such option; did you mean "--sink"?'),
        (["list", "orders"], "expected no further argument, came orders"),
        (["list", "--since", "today", "--until", "yesterday"], "--since, --until: expected a time and a later one"),
        (["show"], "expected the ID of an event, or --job-id"),
        (["show", make_id(1), "--job-id", "j"], "expected the ID of an event, or --job-id"),
        (["show", "../sinks"], "ID: expected evt_ and 34 hexadecimal digits"),
        (["replay", "--yes"], "expected IDs, or options that choose events"),
        (["replay", "--yes", "evt_1"], "ID: expected evt_"),
        (["replay", "--yes", make_id(1), "--sink", "orders"], "came both; a sink to send to is --to-sink"),
        (["replay", "--yes", "--state", "dead", "--rate", "0"], "--rate: expected a number above zero"),
        (["replay", "--yes", "--state", "dead", "--rate", "nan"], "--rate: expected a number above zero"),
        (["replay", "--yes", "--state", "dead", "--to", "http://h/", "--to-sink", "a"], "expected one of them"),
        (["replay", "--yes", "--state", "dead", "--secret-file", "f"], "--secret-file is for --to"),
        (["replay", "--yes", "--state", "dead", "--to", "h"], "--to: expected an absolute URL"),
        (["replay", "--yes", "--state", "dead", "--to", "http://h", "--secret-file", "/x"], "cannot read /x"),
        (["replay", "--state", "dead"], "expected --yes to send, or --dry-run to count"),
        (["replay", make_id(1), make_id(2)], "expected --yes to send, or --dry-run to count"),
        (["replay", "--status", "../1"], "expected the number of a replay"),
        (["replay", "--cancel", ""], "expected the number of a replay"),
        (["replay", "--cancel", "1", "--status", "2"], "--status and --cancel stand alone"),
        (["replay", make_id(1), "--cancel", "1"], "--status and --cancel stand alone"),
    ],
)
async def test_wrong_usage_is_told_and_nothing_is_asked_of_the_service(admin, capsys, arguments, message):
    assert await admin.run("events", *arguments) == 2
    assert message in capsys.readouterr().err
    assert admin.asked == []


# show


async def test_the_life_of_an_event_is_every_receipt_and_attempt_with_the_times_between(admin, capsys):
    detail = event_detail(
        1,
        receipts=[
            receipt_item(1, warnings=["/Extra\x1b[2J"]),
            receipt_item(2, received_at="2026-11-20T09:00:30.480Z", state="duplicate", transport="mns-push"),
        ],
        deliveries=[
            delivery_item(
                state="retrying",
                attempts=2,
                due_at="2026-11-21T12:01:30Z",
                error="answered HTTP 503",
                history=[
                    attempt_item(result="retrying", error="TimeoutError"),
                    attempt_item(number=2, started_at="2026-11-20T09:00:06Z", result="interrupted"),
                    attempt_item(
                        number=2, started_at="2026-11-20T09:02:06Z", result="retrying", error="answered HTTP 503"
                    ),
                ],
            ),
            delivery_item(sink="bus"),
            delivery_item(sink="crm", state="parked", attempts=0, history=[]),
            delivery_item(sink="big", state="dead", error="an event of 300000 bytes", history=[], attempts=0),
            delivery_item(sink="bus", state="dead", history=[], attempts=0),
            delivery_item(sink="old", state="pending", attempts=0, history=[]),
            delivery_item(sink="bus", replay=1, state="pending", due_at="2026-11-21T11:59:00Z", history=[], attempts=0),
        ],
    )
    admin.answers[f"GET /v1/events/{make_id(1)}"] = detail
    assert await admin.run("events", "show", make_id(1)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[: lines.index("event")] == [
        f"{make_id(1)}  media.animated_image.succeeded",
        "accepted 2026-11-20T09:00:00.500Z, 1 d 3 h ago, job job-1, media media-1",
        "",
        "receipts",
        "  2026-11-20T09:00:00.480Z                  accepted  through vod (http), verified by signature",
        "                                            not understood: /Extra\\x1b[2J",
        "  2026-11-20T09:00:30.480Z  +30 s           duplicate  through vod (mns-push), verified by signature",
        "",
        "to orders: retrying, 2 attempts",
        "  2026-11-20T09:00:00.750Z  +0.25 s         retrying  attempt 1, 0.021 s: TimeoutError",
        "  2026-11-20T09:00:06Z      +5.25 s         interrupted  attempt 2, 0.021 s",
        "  2026-11-20T09:02:06Z      +2 min          retrying  attempt 2, 0.021 s: answered HTTP 503",
        "  next attempt 2026-11-21T12:01:30Z, in 1 min 30 s",
        "",
        "to bus: delivered, 1 attempt",
        "  2026-11-20T09:00:00.750Z  +0.25 s         delivered  attempt 1, 0.021 s",
        "",
        "to crm: parked",
        "  waits until the sink is resumed: media-callbacks sinks resume crm",
        "",
        "to big: dead",
        "  because: an event of 300000 bytes",
        "  given up 2026-11-20T09:00:01Z; to send it again: media-callbacks events replay "
        + make_id(1)
        + " --to-sink big",
        "",
        "to bus: dead",
        "  given up 2026-11-20T09:00:01Z; sent again since",
        "",
        "to old: pending",
        "  next attempt: one is under way, or an earlier outcome of the job goes first",
        "",
        "to bus, replay 1: pending",
        "  due since 2026-11-21T11:59:00Z, 1 min; what holds it back: media-callbacks sinks list",
        "",
    ]
    shown = json.loads("".join(lines[lines.index("event") + 1 :]))
    assert shown == detail["event"]

    assert await admin.run("events", "show", make_id(1), "--json") == 0
    assert json.loads(capsys.readouterr().out) == detail


async def test_what_is_gone_or_was_never_routed_is_said(admin, capsys):
    route = f"GET /v1/events/{make_id(1)}"
    admin.answers[route] = event_detail(1, event=None, receipts=[])
    assert await admin.run("events", "show", make_id(1)) == 0
    assert capsys.readouterr().out.count("the retention period is over") == 3
    admin.answers[route] = event_detail(1, is_routed=False)
    assert await admin.run("events", "show", make_id(1)) == 0
    assert f"media-callbacks events replay {make_id(1)} --to-sink NAME" in capsys.readouterr().out
    failed = event_detail(1)["event"] | {"data": {"error": {"code": "NoSuchKey", "message": "gone\x1b"}, "revision": 2}}
    admin.answers[route] = event_detail(1, event=failed, receipts=[receipt_item(1, reason="bound")])
    assert await admin.run("events", "show", make_id(1)) == 0
    out = capsys.readouterr().out
    assert "the job failed: NoSuchKey: gone\\x1b" in out
    assert "revision 2" in out
    assert "verified by signature: bound" in out


async def test_all_events_of_a_job_are_shown_oldest_first(admin, capsys):
    keep(admin, 2)
    assert await admin.run("events", "show", "--job-id", "job-1") == 0
    assert admin.asked[0].query == {"job_id": "job-1", "limit": "200"}
    out = capsys.readouterr().out
    assert 0 <= out.index(f"{make_id(1)}  media") < out.index(f"{make_id(2)}  media")
    assert await admin.run("events", "show", "--job-id", "job-1", "--json") == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == [make_id(1), make_id(2)]


async def test_a_job_or_event_that_is_not_there_is_an_error_with_a_hint(admin, capsys):
    admin.answers["GET /v1/events"] = {"events": [], "cursor": None}
    admin.answers["GET /v1/search"] = {"hits": []}
    assert await admin.run("events", "show", "--job-id", "job-1") == 1
    assert capsys.readouterr().err == "no event has this job id, and nothing else is known of such a job\n"
    assert await admin.run("events", "show", make_id(1)) == 1
    assert capsys.readouterr().err == "no event has this id\n"


@pytest.mark.parametrize(
    ("state", "told"), [("overdue", "it is overdue"), (None, "something came for it that gave none")]
)
async def test_a_job_that_is_known_without_an_event_is_not_denied(admin, capsys, state, told):
    admin.answers["GET /v1/events"] = {"events": [], "cursor": None}
    admin.answers["GET /v1/search"] = {"hits": [job_hit(1, state=state, outcome=None, event_id=None)]}
    assert await admin.run("events", "show", "--job-id", "job-1") == 1
    err = capsys.readouterr().err
    assert err == (
        f"no event has this job id yet, and the job is known: {told}; see `media-callbacks jobs show job-1`\n"
    )


async def test_the_life_on_a_terminal_has_no_escapes_but_ours(admin, capsys, monkeypatch):
    admin.answers[f"GET /v1/events/{make_id(1)}"] = event_detail(
        1, receipts=[receipt_item(1, source="[bold]vod\x1b[2J")], deliveries=[delivery_item(sink="[/]")]
    )
    at_a_terminal(monkeypatch)
    assert await admin.run("events", "show", make_id(1)) == 0
    out = capsys.readouterr().out
    assert "through [bold]vod\\x1b[2J (http)" in out
    assert "to [/]: " in out
    assert "\x1b[2J" not in out


# replay by the service


def count_and_begin(admin: FakeAdmin, total: int, *records: Any) -> None:
    """A replay whose record is the next of ``records`` each time it is asked for."""
    left = list(records) or [replay_item(7, total=total, done=total)]

    def order(asked):
        if asked.document.get("dry_run"):
            return web.json_response({"dry_run": True, "total": total})
        return replay_item(7, state="running", total=total, done=0)

    admin.answers["POST /v1/replays"] = order
    admin.answers["GET /v1/replays/7"] = lambda asked: left.pop(0) if len(left) > 1 else left[0]


async def test_yesterdays_failures_go_to_their_sink_again(admin, capsys):
    progress = [replay_item(7, state="running", total=3, done=done) for done in (0, 2)]
    count_and_begin(admin, 3, *progress, replay_item(7))
    chosen = ["--sink", "orders", "--given-up-since", "yesterday", "--given-up-until", "today"]
    assert await admin.run("events", "replay", *chosen, "--rate", "5", "--reason", "database is back", "--yes") == 0
    counted, begun = (asked.document for asked in admin.asked_for("POST /v1/replays"))
    assert (counted.pop("dry_run"), begun.pop("dry_run", None)) == (True, None)
    assert "@" in begun.pop("requested_by")
    assert begun == {
        "filter": {
            "sink": "orders",
            "given_up_since": "2026-11-20T00:00:00Z",
            "given_up_until": "2026-11-21T00:00:00Z",
        },
        "sinks": ["orders"],
        "rate": 5.0,
        "reason": "database is back",
    }
    assert {key: counted[key] for key in begun} == begun, "what is counted is what is sent"
    assert len(admin.asked_for("GET /v1/replays/7")) == 3
    captured = capsys.readouterr()
    assert captured.err == "3 events to be sent again to orders\n"
    assert captured.out == "replay 7 finished: 3 of 3 events are on their way again\n"


async def test_whether_the_destination_is_well_again_is_said_before_it_is_asked(admin, capsys):
    count_and_begin(admin, 3)
    failing = {"last_error": "answered HTTP 500\x1b[2J", "last_error_at": "2026-11-21T11:59:00Z"}
    admin.answers["GET /v1/sinks"] = {"sinks": [sink_item("orders", **failing), sink_item("bus", **failing)]}
    assert await admin.run("events", "replay", "--state", "dead", "--sink", "orders", "--dry-run") == 0
    assert capsys.readouterr().err == (
        "orders: answered HTTP 500\\x1b[2J, last 2026-11-21T11:59:00Z; nothing taken within a day\n"
    )


async def test_other_sinks_can_be_named_and_nothing_is_said_of_them_when_none_is_meant(admin, capsys):
    count_and_begin(admin, 1)
    assert await admin.run("events", "replay", "--sink", "a", "--to-sink", "b", "--to-sink", "c", "--yes") == 0
    assert admin.asked_for("POST /v1/replays")[-1].document["sinks"] == ["b", "c"]
    assert "1 event to be sent again to b and c\n" in capsys.readouterr().err
    assert await admin.run("events", "replay", "--state", "dead", "--yes", "--json") == 0
    assert "sinks" not in admin.asked_for("POST /v1/replays")[-1].document
    captured = capsys.readouterr()
    assert "to where each went before\n" in captured.err
    assert json.loads(captured.out) == replay_item(7, total=1, done=1)


async def test_a_dry_run_counts_and_sends_nothing(admin, capsys):
    count_and_begin(admin, 3)
    keep(admin, 2)
    assert await admin.run("events", "replay", "--state", "dead", "--dry-run") == 0
    assert capsys.readouterr().out == "3 events would be sent again to where each went before\n"
    assert await admin.run("events", "replay", "--state", "dead", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"dry_run": True, "total": 3}
    assert await admin.run("events", "replay", make_id(1), "--dry-run", "--to-sink", "bus") == 0
    assert capsys.readouterr().out == "1 event would be sent again to bus\n"
    assert await admin.run("events", "replay", "--state", "dead", "--dry-run", "--to", "http://127.0.0.1:9/") == 0
    captured = capsys.readouterr()
    assert captured.out == "2 events would be sent again to http://127.0.0.1:9/ by this command\n"
    assert captured.err == "", "a secret that signs nothing is not printed"
    posted = [asked for asked in admin.asked if asked.method == "POST"]
    assert posted
    assert all(asked.document["dry_run"] for asked in posted)


async def test_a_replay_is_followed_until_its_events_have_arrived(admin, capsys):
    def became(waiting: int, delivered: int) -> dict[str, Any]:
        return {"deliveries": {"waiting": waiting, "delivered": delivered, "dead": 0}}

    count_and_begin(admin, 3, *(replay_item(7, **became(3 - done, done)) for done in range(4)))
    assert await admin.run("events", "replay", "--state", "dead", "--yes") == 0
    assert len(admin.asked_for("GET /v1/replays/7")) == 4
    told = "3 of 3 events are on their way again; deliveries: 0 waiting, 3 delivered, 0 dead"
    assert capsys.readouterr().out == f"replay 7 finished: {told}\n"
    assert await admin.run("events", "replay", "--status", "7") == 0
    assert "\t3 of 3 0 waiting, 3 delivered, 0 dead\t" in capsys.readouterr().out


async def test_what_does_not_arrive_is_not_waited_for(admin, capsys):
    stuck = replay_item(7, deliveries={"waiting": 3, "delivered": 0, "dead": 0})
    count_and_begin(admin, 3, *[stuck] * 40)
    assert await admin.run("events", "replay", "--state", "dead", "--yes") == 0
    assert len(admin.asked_for("GET /v1/replays/7")) < 15
    assert "deliveries: 3 waiting" in capsys.readouterr().out


async def test_nothing_to_send_is_fine(admin, capsys):
    count_and_begin(admin, 0)
    assert await admin.run("events", "replay", "--state", "dead", "--yes") == 0
    assert capsys.readouterr().err == "0 events to be sent again to where each went before\n"
    assert len(admin.asked_for("POST /v1/replays")) == 1


@pytest.mark.parametrize("answer, code", [("y\n", 0), ("Yes\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
async def test_on_a_terminal_several_events_are_asked_for(admin, capsys, monkeypatch, answer, code):
    count_and_begin(admin, 2)
    at_a_terminal(monkeypatch, answer)
    assert await admin.run("events", "replay", "--state", "dead") == code
    err = capsys.readouterr().err
    assert "send them? [y/N] " in err
    assert ("nothing was sent" in err) == bool(code)
    assert len(admin.asked_for("POST /v1/replays")) == 2 - code


async def test_one_event_on_a_terminal_is_sent_without_asking(admin, capsys, monkeypatch):
    count_and_begin(admin, 1)
    at_a_terminal(monkeypatch)
    assert await admin.run("events", "replay", "--job-id", "job-1") == 0
    captured = capsys.readouterr()
    assert "[y/N]" not in captured.err
    assert "finished" in captured.out


async def test_events_can_be_named(admin, capsys):
    keep(admin, 2)
    count_and_begin(admin, 1)
    admin.answers["GET /v1/replays/8"] = replay_item(8, total=1, done=1)
    for number in (1, 2):
        admin.answers[f"POST /v1/events/{make_id(number)}/replay"] = replay_item(6 + number, state="running", done=0)
    ids = [make_id(number) for number in (2, 1, 2)]
    assert (
        await admin.run("events", "replay", *ids, "--to-sink", "bus", "--reason", "why", "--yes", "--rate", "1000") == 0
    )
    posted = [asked for asked in admin.asked if asked.method == "POST"]
    assert [asked.path.split("/")[3] for asked in posted] == [make_id(2), make_id(1)], "each once"
    assert posted[0].document["sinks"] == ["bus"]
    assert posted[0].document["reason"] == "why"
    captured = capsys.readouterr()
    assert captured.err.startswith("2 events to be sent again to bus\n")
    assert "replay 8 finished: 1 of 1" in captured.out
    assert "replay 7 finished: 1 of 1" in captured.out


async def test_when_one_named_event_is_not_there_none_is_sent(admin, capsys):
    keep(admin, 1)
    assert await admin.run("events", "replay", make_id(1), make_id(2), "--yes") == 1
    assert capsys.readouterr().err == f"{make_id(2)}: no event has this id\n"
    assert [asked for asked in admin.asked if asked.method == "POST"] == []


async def test_a_replay_that_somebody_cancels_is_no_success(admin, capsys):
    count_and_begin(admin, 3, replay_item(7, state="cancelled", done=1))
    assert await admin.run("events", "replay", "--state", "dead", "--yes") == 1
    assert capsys.readouterr().out == "replay 7 cancelled: 1 of 3 events are on their way again\n"


@pytest.mark.parametrize("cause", ["interrupted", "unreachable"])
async def test_left_alone_a_replay_goes_on_and_it_is_said_how_to_find_it(admin, capsys, monkeypatch, cause):
    count_and_begin(admin, 3, replay_item(7, state="running", done=0))

    def interrupt(delay: float) -> None:
        if delay:
            raise KeyboardInterrupt
        admin.answers["GET /v1/replays/7"] = problem(503, "stopping")

    monkeypatch.setattr("media_callbacks.commands.events.replay._POLL_S", 1 if cause == "interrupted" else 0)
    monkeypatch.setattr("media_callbacks.commands.events.replay.pause", interrupt)
    code = await admin.run("events", "replay", "--state", "dead", "--yes")
    assert code == (130 if cause == "interrupted" else 1)
    err = capsys.readouterr().err
    assert "replay 7 goes on in the service" in err
    assert "media-callbacks events replay --status 7" in err
    assert "media-callbacks events replay --cancel 7" in err


async def test_replays_can_be_looked_at_and_cancelled(admin, capsys):
    running = replay_item(
        8,
        state="running",
        done=1,
        filter={"state": "dead", "since": "2026-11-20T00:00:00Z"},
        sinks=["a", "b"],
        reason="x\x1b",
    )
    admin.answers["GET /v1/replays"] = {"replays": [running, replay_item(7)], "cursor": None}
    admin.answers["GET /v1/replays/8"] = running
    admin.answers["POST /v1/replays/8/cancel"] = replay_item(8, state="cancelled", done=1)
    assert await admin.run("events", "replay", "--status") == 0
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [
        [
            "8",
            "running",
            "1 of 3",
            "2026-11-21T10:00:00Z kim@desk",
            "state=dead since=2026-11-20T00:00:00Z",
            "a b",
            "x\\x1b",
        ],
        ["7", "finished", "3 of 3", "2026-11-21T10:00:00Z kim@desk", "", "as before", "-"],
    ]
    assert await admin.run("events", "replay", "--status", "8", "--json") == 0
    assert json.loads(capsys.readouterr().out) == running
    assert await admin.run("events", "replay", "--cancel", "8") == 0
    assert capsys.readouterr().out.startswith("8\tcancelled\t1 of 3")
    assert await admin.run("events", "replay", "--cancel", "9") == 1


# replay by the command


async def test_for_development_the_command_posts_the_events_itself(admin, capsys, monkeypatch):
    keep(admin, 3)
    monkeypatch.setenv("MEDIA_CALLBACKS_REPLAY_SECRET", WEBHOOK_SECRET)
    async with receiving() as receiver:
        started = time.monotonic()
        code = await admin.run("events", "replay", "--state", "dead", "--to", receiver.url, "--rate", "20", "--yes")
        assert code == 0
        assert time.monotonic() - started >= 0.1, "three events at 20 a second"
    assert [event["id"] for event in receiver.events] == [make_id(number) for number in (1, 2, 3)], "oldest first"
    assert receiver.ids == [make_id(number) for number in (1, 2, 3)]
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"{make_id(number)}  media.animated_image.succeeded  delivered" for number in (1, 2, 3)
    ]
    assert captured.err == f"3 events to be sent again to {receiver.url} by this command\n3 of 3 delivered\n"
    assert WEBHOOK_SECRET not in captured.err + captured.out
    assert [asked for asked in admin.asked if asked.method == "POST"] == [], "the service sends nothing"


class Consumer:
    """Answers what it is told to and keeps requests."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.requests: list[tuple[dict[str, str], bytes]] = []

    async def __aenter__(self) -> "Consumer":
        app = web.Application()
        app.router.add_post("/", self.receive)
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}/"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.runner.cleanup()

    async def receive(self, request: web.Request) -> web.Response:
        self.requests.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=self.statuses.pop(0))


async def test_a_new_secret_is_made_and_printed_once(admin, capsys):
    keep(admin, 2)
    async with Consumer(200, 204) as consumer:
        assert await admin.run("events", "replay", make_id(1), make_id(2), "--to", consumer.url, "--yes") == 0
    err = capsys.readouterr().err
    [secret] = [line.rpartition(" ")[2] for line in err.splitlines() if "whsec_" in line]
    for headers, body in consumer.requests:
        Webhook(secret).verify(body, headers)
        assert headers["content-type"] == "application/cloudevents+json"
        assert headers["media-callbacks-replay"] == "1"


async def test_what_could_not_be_sent_is_told_and_the_rest_is_sent(admin, capsys, tmp_path):
    keep(admin, 4)
    admin.answers[f"GET /v1/events/{make_id(2)}"] = event_detail(2, event=None)
    secret_file = tmp_path / "secret"
    secret_file.write_text(WEBHOOK_SECRET + "\n")
    async with Consumer(500, 302, 200) as consumer:
        arguments = ("--to", consumer.url, "--secret-file", str(secret_file), "--yes", "--json", "--state", "delivered")
        assert await admin.run("events", "replay", *arguments) == 1
    captured = capsys.readouterr()
    results = [json.loads(line) for line in captured.out.splitlines()]
    assert [result["is_delivered"] for result in results] == [False, False, False, True]
    assert "HTTP 500" in results[0]["error"]
    assert results[1] == {"id": make_id(2), "is_delivered": False, "error": "not sent: its retention period is over"}
    assert "HTTP 302" in results[2]["error"]
    assert results[3] == {"id": make_id(4), "is_delivered": True, "error": None}
    assert captured.err.endswith("1 of 4 delivered\n")
    for headers, body in consumer.requests:
        Webhook(WEBHOOK_SECRET).verify(body, headers)


async def test_nobody_there_is_a_failure_of_each_event(admin, capsys, monkeypatch):
    keep(admin, 1)
    monkeypatch.setenv("MEDIA_CALLBACKS_REPLAY_SECRET", WEBHOOK_SECRET)
    assert await admin.run("events", "replay", make_id(1), "--to", "http://127.0.0.1:9/", "--yes") == 1
    assert f"{make_id(1)}  media.animated_image.succeeded  ClientConnectorError" in capsys.readouterr().out


@pytest.mark.parametrize("secret", ["whsec_" + base64.b64encode(b"short").decode(), "no base64!"])
async def test_a_secret_that_can_not_sign_is_refused_and_not_shown(admin, capsys, monkeypatch, secret):
    monkeypatch.setenv("MEDIA_CALLBACKS_REPLAY_SECRET", secret)
    assert await admin.run("events", "replay", make_id(1), "--to", "http://127.0.0.1:9/", "--yes") == 2
    err = capsys.readouterr().err
    assert "MEDIA_CALLBACKS_REPLAY_SECRET: expected" in err
    assert secret not in err


async def test_declining_sends_nothing_to_the_address(admin, monkeypatch):
    keep(admin, 2)
    at_a_terminal(monkeypatch, "n\n")
    async with Consumer() as consumer:
        assert await admin.run("events", "replay", "--state", "dead", "--to", consumer.url) == 1
        assert (
            await admin.run("events", "replay", "--job-id", "x", "--until", "7d", "--to", consumer.url, "--dry-run")
            == 0
        )
    assert consumer.requests == []


# The real API


async def test_the_three_questions_of_an_operator(tmp_path, capsys, monkeypatch):
    """What is stuck, what happened to a job, and sending failures again, against the service itself."""
    async with run_service(tmp_path) as service:
        where = ("--url", f"http://{service.admin_address}")
        for number in (1, 2):
            await service.send(service.build("vod", f"job-{number}"))
        await service.receiver.wait_for(2)

        async def rows(*arguments: str) -> list[list[str]]:
            assert await run_command("events", "list", *arguments, *where) == 0
            return [line.split("\t") for line in capsys.readouterr().out.splitlines()]

        while len(found := await rows("--state", "delivered", "--sink", "orders", "--since", "1h")) < 2:
            pass  # the consumer had it a moment ago, and the store has it soon
        assert [row[6] for row in found] == ["job-2", "job-1"]
        assert {row[8] for row in found} == {"orders delivered"}
        assert await rows("--state", "dead") == []

        assert await run_command("events", "show", "--job-id", "job-1", *where) == 0
        out = capsys.readouterr().out
        assert "accepted  through vod (http), verified by signature" in out
        assert "delivered  attempt 1" in out

        chosen = ("--state", "delivered", "--sink", "orders", "--since", "1h", "--rate", "100")
        assert await run_command("events", "replay", *chosen, "--dry-run", "--json", *where) == 0
        assert json.loads(capsys.readouterr().out) == {"dry_run": True, "total": 2}
        assert await run_command("events", "replay", *chosen, "--reason", "a test", "--yes", *where) == 0
        captured = capsys.readouterr()
        assert "2 events to be sent again to orders" in captured.err
        assert "finished: 2 of 2 events are on their way again" in captured.out
        await service.receiver.wait_for(4)
        assert {event["data"]["job_id"] for event in service.receiver.events[2:]} == {"job-1", "job-2"}

        assert await run_command("events", "replay", found[0][1], "--to-sink", "orders", "--yes", *where) == 0
        await service.receiver.wait_for(5)
        capsys.readouterr()
        assert await run_command("events", "replay", "--status", *where) == 0
        states = [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()]
        assert states == ["finished", "finished"]

        monkeypatch.setenv("MEDIA_CALLBACKS_REPLAY_SECRET", WEBHOOK_SECRET)
        async with receiving() as mine:
            assert (
                await run_command("events", "replay", "--kind", "animated_image", "--to", mine.url, "--yes", *where)
                == 0
            )
        first = sorted(service.receiver.events[:2], key=lambda event: event["data"]["job_id"])
        assert mine.events == first, "oldest first, each as a sink gets it"
