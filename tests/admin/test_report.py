"""Whether every expected job ended in an event, and how soon."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from media_callbacks.admin.report import build_report
from media_callbacks.inbox.records import ReportRow
from tests.factories.fake_admin import fake_admin, make_report
from tests.factories.operators import NOW, Operators, operating
from tests.inbox.conformance import make_event, make_receipt

HOUR = datetime(2026, 11, 21, 3, tzinfo=UTC)


def row(product: Any, state: Any, transport: Any = None, *seconds: float, count: int = 0, **fields: Any) -> ReportRow:
    fields = {"hour": HOUR, "notification": None} | fields
    return ReportRow(
        product=product, state=state, transport=transport, count=count or len(seconds), seconds=seconds, **fields
    )


def build(*rows: ReportRow) -> Any:
    return build_report(rows, since=HOUR, until=HOUR + timedelta(hours=2)).model_dump(mode="json")


def counts(line: Any) -> dict[str, int]:
    """Those that are not 0."""
    names = ("submitted", "completed", "healed", "overdue", "unknown", "expected")
    return {name: line[name] for name in names if line[name]}


# From what the inbox counted


def test_jobs_are_counted_by_hour_product_and_transport():
    found = build(
        row("mts", "healed", "query", 4000.0),
        row("vod", "completed", "http", 5.0, hour=HOUR + timedelta(hours=1)),
        row("vod", "expected", count=2),
        row("vod", "completed", "mns-queue", 3.0),
        row("vod", "overdue", count=1),
        row("vod", "completed", "http", 1.0, 2.0),
        row("vod", "unknown", "query", 90_000.0),
    )
    lines = [(line["hour"][11:13], line["product"], line["transport"], counts(line)) for line in found["rows"]]
    assert lines == [
        ("03", "vod", None, {"submitted": 3, "expected": 2, "overdue": 1}),
        ("03", "vod", "http", {"submitted": 2, "completed": 2}),
        ("03", "vod", "mns-queue", {"submitted": 1, "completed": 1}),
        ("03", "vod", "query", {"submitted": 1, "unknown": 1}),
        ("03", "mts", "query", {"submitted": 1, "healed": 1}),
        ("04", "vod", "http", {"submitted": 1, "completed": 1}),
    ]
    assert [(total["product"], counts(total)) for total in found["totals"]] == [
        ("vod", {"submitted": 8, "completed": 4, "overdue": 1, "unknown": 1, "expected": 2}),
        ("mts", {"submitted": 1, "healed": 1}),
    ]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([7.0], (7.0, 7.0, 7.0)),
        ([1.0, 2.0], (1.0, 2.0, 2.0)),
        ([1.0, 2.0, 3.0], (2.0, 3.0, 3.0)),
        ([float(number) for number in range(1, 11)], (5.0, 9.0, 10.0)),
        ([float(number) for number in range(1, 101)], (50.0, 90.0, 99.0)),
        ([float(number) for number in range(1, 1001)], (500.0, 900.0, 990.0)),
    ],
    ids=["1", "2", "3", "10", "100", "1000"],
)
def test_percentiles_are_those_of_nearest_rank(seconds, expected):
    # As the inbox gives them: in several rows, each in order.
    found = build(
        *(row("vod", "completed", "http", *part) for part in (seconds[::2], seconds[1::2]) if part),
    )
    (line,) = found["rows"]
    assert tuple(line["time_to_callback_s"].values()) == expected
    assert list(line["time_to_callback_s"]) == ["p50", "p90", "p99"]


def test_what_was_given_up_or_still_waits_has_no_time():
    found = build(row("vod", "unknown", "query", 90_000.0), row("vod", "expected", count=3))
    assert [line["time_to_callback_s"] for line in found["rows"]] == [None, None]
    assert found["totals"][0]["time_to_callback_s"] is None


def test_totals_measure_callbacks_and_not_how_long_healing_took():
    found = build(row("vod", "completed", "http", 1.0), row("vod", "healed", "query", 4000.0))
    assert found["totals"][0]["time_to_callback_s"] == {"p50": 1.0, "p90": 1.0, "p99": 1.0}
    assert found["rows"][1]["time_to_callback_s"] == {"p50": 4000.0, "p90": 4000.0, "p99": 4000.0}


def test_mts_says_what_was_lost_on_the_way_and_what_was_never_sent():
    found = build(
        row("mts", "healed", "query", 1.0, 2.0, notification="sent"),
        row("mts", "healed", "query", 3.0, notification="not sent: 403"),
        row("mts", "healed", "query", 4.0, 5.0, notification="not configured"),
        row("mts", "healed", "query", 6.0),
        row("mts", "unknown", "query", 7.0, notification="sent"),
        row("vod", "healed", "query", 8.0),
    )
    vod, mts = found["totals"]
    assert (mts["lost_on_the_way"], mts["never_sent"], mts["healed"]) == (2, 3, 6)
    assert (vod["lost_on_the_way"], vod["never_sent"]) == (None, None)


def test_nothing_is_a_report_too():
    assert build() == {"since": "2026-11-21T03:00:00Z", "until": "2026-11-21T05:00:00Z", "rows": [], "totals": []}


# Through the API


@pytest.fixture
async def operators(tmp_path) -> AsyncIterator[Operators]:
    async with operating(tmp_path) as found:
        yield found


async def test_the_report_is_about_what_the_store_holds(operators):
    jobs = [
        {"product": "vod", "family": "animated_image", "job_id": name, "media_id": "m", "deadline": deadline}
        for name, deadline in (
            ("job-1", "2026-11-21T05:00:00Z"),
            ("late", "2026-11-21T04:10:00Z"),
            ("waits", "2026-11-22T04:00:00Z"),
        )
    ]
    assert (await operators.post("/v1/jobs", jobs))[0] == 200
    operators.now += timedelta(minutes=2)
    await operators.inbox.put(make_receipt(make_event("job-1"), at=operators.now))
    operators.now += timedelta(minutes=30)
    found = await operators.get("/v1/report")
    assert (found["since"], found["until"]) == ("2026-11-20T04:32:00Z", "2026-11-21T04:32:00Z")
    assert [(line["transport"], counts(line)) for line in found["rows"]] == [
        (None, {"submitted": 2, "overdue": 1, "expected": 1}),
        ("http", {"submitted": 1, "completed": 1}),
    ]
    (total,) = found["totals"]
    assert total["time_to_callback_s"] == {"p50": 120.0, "p90": 120.0, "p99": 120.0}
    assert counts(total) == {"submitted": 3, "completed": 1, "overdue": 1, "expected": 1}


@pytest.mark.parametrize(
    ("query", "since", "until"),
    [
        ({}, "2026-11-20T04:00:00Z", "2026-11-21T04:00:00Z"),
        ({"until": "2026-11-10T00:00:00Z"}, "2026-11-09T00:00:00Z", "2026-11-10T00:00:00Z"),
        ({"since": "2026-11-21T03:30:00+01:00"}, "2026-11-21T02:30:00Z", "2026-11-21T04:00:00Z"),
        (
            {"since": "2026-10-01T00:00:00Z", "until": "2026-11-01T00:00:00Z"},
            "2026-10-01T00:00:00Z",
            "2026-11-01T00:00:00Z",
        ),
    ],
    ids=str,
)
async def test_it_is_about_the_last_day_unless_told_otherwise(operators, query, since, until):
    assert await operators.get("/v1/report", **query) == {"since": since, "until": until, "rows": [], "totals": []}


RANGE = "since, until: expected a time and a later one, at most 31 days apart"


@pytest.mark.parametrize(
    ("target", "detail"),
    [
        ("/v1/report?since=2026-11-21T04:00:00Z", RANGE),
        ("/v1/report?since=2026-11-20T00:00:00Z&until=2026-11-19T00:00:00Z", RANGE),
        ("/v1/report?since=2026-10-01T00:00:00Z&until=2026-11-01T00:00:01Z", RANGE),
        ("/v1/report?since=0001-01-01T00:00:00Z", RANGE),
        ("/v1/report?until=0001-01-01T00:00:00Z", RANGE),
        ("/v1/report?since=yesterday", "since: expected an RFC 3339 time"),
        ("/v1/report?limit=5", "limit: not known here; expected one of since, until"),
    ],
)
async def test_a_time_that_makes_no_sense_is_refused(operators, target, detail):
    answer = await operators.ask("GET", target)
    assert (answer.status_code, answer.json()["detail"][: len(detail)]) == (400, detail)


# By the command


@pytest.fixture
async def admin():
    async with fake_admin() as fake:
        fake.answers["GET /v1/report"] = make_report()
        yield fake


async def test_the_command_prints_one_line_per_row_and_per_product(admin, capsys):
    assert await admin.run("report") == 0
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [
        ["2026-11-21T03:00:00Z", "vod", "-", "3", "0", "0", "1", "0", "2", "-", "-", "-", "-", "-"],
        ["2026-11-21T03:00:00Z", "mts", "mns-push", "9", "9", "0", "0", "0", "0", "1.500", "4.000", "90.250", "-", "-"],
        ["total", "vod", "-", "3", "0", "0", "1", "0", "2", "-", "-", "-", "-", "-"],
        ["total", "mts", "-", "12", "9", "3", "0", "0", "0", "1.500", "4.000", "90.250", "2", "1"],
    ]
    assert admin.asked_for("GET /v1/report")[0].query == {}


async def test_the_command_shows_a_table_on_a_terminal(admin, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert await admin.run("report") == 0
    shown = capsys.readouterr().out
    assert "jobs registered from 2026-11-21 03:00 to 2026-11-21 05:00 UTC" in shown
    assert "1.5 s / 4 s / 1 min 30 s" in shown
    assert "3 healed" in shown
    assert "mts: of the healed, 2 notifications were sent and lost on the way, 1 never sent" in shown
    admin.answers["GET /v1/report"] = make_report(rows=[], totals=[])
    assert await admin.run("report") == 0
    assert "none" in capsys.readouterr().out


async def test_the_command_gives_the_answer_as_json(admin, capsys):
    assert await admin.run("report", "--json") == 0
    assert json.loads(capsys.readouterr().out) == make_report()


async def test_the_command_asks_about_the_time_that_is_given(admin, monkeypatch):
    monkeypatch.setattr("media_callbacks.commands.report.utc_now", lambda: NOW)
    for arguments, query in (
        (["--hours", "1.5"], {"since": "2026-11-21T02:30:00Z", "until": "2026-11-21T04:00:00Z"}),
        (["--since", "yesterday"], {"since": "2026-11-20T00:00:00Z"}),
        (["--since", "2d", "--until", "today"], {"since": "2026-11-19T04:00:00Z", "until": "2026-11-21T00:00:00Z"}),
    ):
        assert await admin.run("report", *arguments) == 0
        assert admin.asked[-1].query == query


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--hours", "0"], "--hours: expected more than 0 and at most 744, came 0"),
        (["--hours", "745"], "--hours: expected more than 0 and at most 744, came 745"),
        (["--hours", "nan"], "--hours: expected more than 0 and at most 744, came nan"),
        (["--hours", "2", "--since", "today"], "--hours: expected alone"),
        (["--since", "today", "--until", "yesterday"], "--since, --until: expected a time and a later one"),
        (["--since", "soon"], "--since: expected"),
    ],
    ids=str,
)
async def test_the_command_refuses_times_that_make_no_sense(admin, capsys, arguments, text):
    assert await admin.run("report", *arguments) == 2
    assert capsys.readouterr().err.startswith(f"media-callbacks report: {text}")
    assert admin.asked == []
