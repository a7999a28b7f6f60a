"""What there is to see on the page, and what can be ordered there."""

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from media_callbacks.config.settings import build_settings
from media_callbacks.inbox.records import RefusedRow, SeenTrouble, SourceNews
from media_callbacks.model.errors import InboxUnavailable
from media_callbacks.model.jobs import ExpectedJob, JobReference
from media_callbacks.page.app import MAX_ATTEMPTS, MAX_FORM_BYTES
from tests.factories.operators import NOW
from tests.factories.running import make_tables
from tests.inbox.conformance import make_event, make_receipt
from tests.page.visiting import TOKEN, Visitor, visiting

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202egpj.exe\u0007\u2066"
VIEWS = (
    "",
    "events",
    "events/{event}",
    "receipts",
    "refused",
    "refused/1",
    "sinks/orders",
    "sinks/bus",
    "search?q=evt_",
    "jobs",
    "jobs/vod/{job}",
    "receipts/1",
    "report",
    "replays",
    "replays/new",
    "replays/new?state=dead",
    "replays/1",
)


@pytest.fixture
async def visitor(tmp_path: Path) -> AsyncIterator[Visitor]:
    async with visiting(tmp_path) as visitor:
        yield visitor


async def furnish(visitor: Visitor, text: str) -> str:
    """Something of everything, with this text wherever somebody from outside can have put one. Gives an event's id."""
    operators, inbox = visitor.operators, visitor.operators.inbox
    event = make_event(text)
    await inbox.put(make_receipt(event, sinks=("orders", "bus"), at=NOW, warnings=(text,)))
    operators.now = NOW
    await operators.attempt("orders", "retrying", error=text)
    await operators.attempt("bus", "dead", error=text)
    reference = JobReference(product="vod", account="default", family="transcode", job_id=text, media_id=text)
    await inbox.expect([ExpectedJob(reference=reference, deadline=timedelta(hours=1), user_data=text)])
    await inbox.set_sink_state("bus", "paused", reason=text, changed_by=text)
    document = {
        "request": {"method": text, "target": text, "headers": [[text, text]], "body": text, "body_bytes": 3},
        "explanation": {
            "findings": [{"cause": text, "text": text, "remedy": text}],
            "events": [{"data": {"kind": text, "job_id": text}}],
            "steps": [{"name": text, "status": "failed", "expected": text, "came": text, "lines": [text]}],
            "verdict": {"state": "rejected", "answer": 403, "reason": text, "text": text},
        },
    }
    await inbox.keep_refused([RefusedRow(NOW, text, 403, text, text, text, text, json.dumps(document))])
    await operators.post("/v1/replays", {"filter": {"job_id": text}, "reason": text, "requested_by": text})
    return event.id


def text_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", html))


# What is seen


async def test_every_view_is_there_when_there_is_nothing(visitor: Visitor):
    for view in VIEWS:
        if not re.search(r"[{1]|sinks", view):
            await visitor.look(f"/ui/{view}")


@pytest.mark.parametrize("view", VIEWS)
async def test_what_comes_from_outside_is_text(visitor: Visitor, view):
    event_id = await furnish(visitor, HOSTILE)
    html = await visitor.look("/ui/" + view.format(event=event_id, job=quote(HOSTILE, safe="")))
    assert html.count("<script") == 1
    assert "<img" not in html
    assert not re.search(r"[\u0000-\u0008\u000b-\u001f\u202e\u2066]", html)
    if view not in ("report", "search?q=evt_", "replays/new", "replays/new?state=dead", "sinks/orders"):
        assert "\u27e8U+202E\u27e9gpj.exe\u27e8U+0007\u27e9" in text_of(html), view


async def test_what_is_very_long_is_cut_and_says_how_long_it_is(visitor: Visitor):
    event_id = await furnish(visitor, "x" * 900)
    html = await visitor.look(f"/ui/events/{event_id}")
    assert "x" * 301 not in re.sub(r"<pre.*?</pre>|<[^>]*>", "", html, flags=re.DOTALL)
    assert "(900 characters)" in text_of(html)


async def test_it_says_in_a_sentence_whether_it_is_well(visitor: Visitor):
    visitor.operators.breakers = {}
    assert "All is well." in text_of(await visitor.look("/ui/"))


async def test_what_is_wrong_is_said_with_why_since_when_and_what_to_do(visitor: Visitor):
    visitor.operators.breakers = {}
    await visitor.operators.put("job-1", sinks=("bus",))
    await visitor.operators.attempt("bus", "dead", error="answered HTTP 418")
    text = text_of(await visitor.look("/ui/"))
    assert "Wrong: sink bus." in text
    assert "1 event was given up; it said: answered HTTP 418" in text
    assert "since 2026-11-21 04:00:00" in text
    assert 'href="/ui/replays/new?sink=bus&amp;state=dead"' in await visitor.look("/ui/")
    assert "answered HTTP 418, last 2026-11-21 04:00:00; nothing taken within a day" in text


async def test_what_is_given_up_says_why_and_when_though_its_attempts_are_gone(visitor: Visitor, tmp_path: Path):
    (event_id,) = await visitor.operators.put("job-1", sinks=("bus", "orders"))
    await visitor.operators.attempt("bus", "dead", error="answered HTTP 418")
    await visitor.operators.attempt("orders", "retrying", error="answered HTTP 503")
    with closing(sqlite3.connect(tmp_path / "inbox.db")) as connection:
        connection.execute("DELETE FROM attempts")
        connection.commit()
    for view in (f"events/{event_id}", "jobs/vod/job-1", "sinks/bus"):
        text = text_of(await visitor.look(f"/ui/{view}"))
        assert (
            "1 attempt, which is not kept any more, because: answered HTTP 418; the last 2026-11-21 04:00:00." in text
        )
        assert "Not tried yet" not in text
    text = text_of(await visitor.look(f"/ui/events/{event_id}"))
    assert "Given up 2026-11-21 04:00:00." in text
    assert "Next attempt 2026-11-22 04:00:00." in text


async def test_a_replay_says_what_has_arrived(visitor: Visitor):
    await visitor.operators.put("job-1", "job-2")
    await visitor.operators.attempt("orders", "dead")
    await visitor.operators.post("/v1/replays", {"filter": {"state": "dead"}, "sinks": ["orders"]})
    await visitor.operators.inbox.advance_replays()
    await visitor.operators.attempt("orders", "delivered", limit=1)
    await visitor.operators.attempt("orders", "dead", limit=1)
    html = await visitor.look("/ui/replays/1")
    told = re.sub(r"\s+", " ", text_of(re.findall(r"<dl class=.figures.*?</dl>", html, re.DOTALL)[0])).strip()
    assert told == "waiting0 delivered1 dead1"
    (link,) = re.findall(r'href="(/ui/events[?][^"]*given_up_since[^"]*)"', html)
    assert await visitor.look(unescape(link))


async def test_why_a_job_failed_stands_beside_that_it_failed(visitor: Visitor):
    event = make_event("job-1", "failed")
    error = {"code": "InvalidParameter", "message": "The input is bad", "retryable": False}
    event = event.model_copy(update={"data": event.data.model_copy(update={"error": error})})
    await visitor.operators.inbox.put(make_receipt(event, at=NOW))
    text = text_of(await visitor.look("/ui/jobs/vod/job-1"))
    assert "It has ended: failed: InvalidParameter: The input is bad." in text
    assert "2026-11-21 04:00:00.000" in text
    html = re.sub(r"<pre.*?</pre>", "", await visitor.look(f"/ui/events/{event.id}"), flags=re.DOTALL)
    assert "InvalidParameter: The input is bad" in html


async def test_an_event_is_sent_again_to_where_it_is_dead(visitor: Visitor):
    (event_id,) = await visitor.operators.put("job-1", sinks=("bus", "orders"))
    await visitor.operators.attempt("orders", "delivered")
    await visitor.operators.attempt("bus", "dead", error="answered HTTP 418")
    html = await visitor.look(f"/ui/events/{event_id}")
    assert '<select name="to_sink"><option value="bus">where it is dead: bus</option><option value="">' in html
    assert (await visitor.order(f"/ui/events/{event_id}/replay", {"to_sink": "bus orders"})).status_code == 303
    (replay,) = (await visitor.operators.get("/v1/replays"))["replays"]
    assert replay["sinks"] == ["bus", "orders"]
    await visitor.operators.inbox.advance_replays()
    assert "where it is dead" not in await visitor.look(f"/ui/events/{event_id}")


async def test_whether_a_destination_is_well_again_stands_with_its_sink_and_before_sending_again(visitor: Visitor):
    await visitor.operators.put("job-1", sinks=("bus",))
    await visitor.operators.inbox.note_activity([], [("delivered", "bus", 1)])
    visitor.operators.now += timedelta(minutes=5)
    await visitor.operators.attempt("bus", "dead", error="answered HTTP 418")
    for view in ("sinks/bus", "replays/new?state=dead&sink=bus", "replays/new?state=dead&to_sink=bus"):
        text = text_of(await visitor.look(f"/ui/{view}"))
        assert "answered HTTP 418, last 2026-11-21 04:05:00; took something last 2026-11-21 04:00:00" in text
    assert "given up from 2026-11-21 04:05:00 to 2026-11-21 04:05:00" in text_of(await visitor.look("/ui/sinks/bus"))


async def test_troubles_are_on_the_first_page_and_their_events_where_they_are_asked_for(visitor: Visitor):
    trouble = SeenTrouble(trouble="journal_set_aside", subject="host-2", detail="1 <receipt>")
    (event,) = await visitor.operators.inbox.note_troubles([trouble], instance="host-2", route=lambda _: ("orders",))
    visitor.operators.breakers = {}
    first = text_of(await visitor.look("/ui/"))
    assert "Wrong: host host-2." in first
    assert "though it worked; 1 <receipt>" in first
    assert "since 2026-11-21 04:00:00" in first
    assert event.id not in await visitor.look("/ui/events")
    assert event.id in await visitor.look("/ui/events?kind=operational&outcome=began")
    assert "media.operational.journal_set_aside.began" in await visitor.look(f"/ui/events/{event.id}")


async def test_a_filter_says_what_it_is_and_gives_what_fits(visitor: Visitor):
    await visitor.operators.put("job-1", "job-2")
    html = await visitor.look("/ui/events?job_id=job-1&state=&since=2026-11-21T03:00&until=")
    assert "job-1" in text_of(html)
    assert "job-2" not in text_of(html)
    assert 'value="job-1"' in html
    assert 'value="2026-11-21T03:00"' in html


@pytest.mark.parametrize("asked", ["media-of-7", "order 7", "ord"])
async def test_a_job_is_found_by_what_is_known_of_it(visitor: Visitor, asked):
    reference = JobReference(
        product="vod", account="default", family="transcode", job_id="a/b?c", media_id="media-of-7"
    )
    await visitor.operators.inbox.expect(
        [ExpectedJob(reference=reference, deadline=timedelta(hours=1), user_data="order 7", requested_by="shop")]
    )
    html = await visitor.look(f"/ui/search?q={quote(asked)}")
    (target,) = re.findall(r'href="(/ui/jobs/[^"]*)"', html)
    text = text_of(await visitor.look(unescape(target)))
    assert "It has not ended: expected." in text
    assert "registered as vod transcode of account default by shop" in text


async def test_a_job_that_was_refused_alone_is_found(visitor: Visitor):
    await furnish(visitor, HOSTILE)
    html = await visitor.look(f"/ui/search?q={quote(HOSTILE[-10:])}")
    assert "0 jobs found" in text_of(html)
    assert 'href="/ui/refused/1"' in html
    assert "no refused request that is kept" in text_of(await visitor.look("/ui/search?q=nothing"))


async def test_what_was_refused_is_chosen_by_the_words_that_there_are_and_by_a_text(visitor: Visitor):
    for number, (reason, cause) in enumerate([("signature_mismatch", "key_case"), ("stale", ""), ("stale", "clock")]):
        document = json.dumps({"request": {"body": f'{{"JobId":"job-{number}"}}'}, "explanation": None})
        row = RefusedRow(NOW, "vod", 403, reason, cause, "wrong", f"job-{number}", document)
        await visitor.operators.inbox.keep_refused([row])
    html = await visitor.look("/ui/refused?text=job-1&reason=gone")
    offered = re.findall(r'<option value="(\w+)"( selected)?', html)
    assert offered[offered.index(("none", "")) + 1 :] == [
        ("gone", " selected"),
        ("signature_mismatch", ""),
        ("stale", ""),
        ("clock", ""),
        ("key_case", ""),
    ]
    assert '<input name="text" value="job-1"' in html
    assert "/ui/refused/" not in html
    html = await visitor.look("/ui/refused?text=job-1&reason=stale&cause=")
    assert re.findall(r'href="/ui/refused/(\d)"', html) == ["2"]


async def test_of_a_source_the_last_refusal_leads_to_what_was_refused(visitor: Visitor):
    inbox = visitor.operators.inbox
    visitor.operators.sources.update(build_settings(make_tables(Path("unused"), {}), environ={}).sources)
    await inbox.note_sources({"vod": "a", "ims": "a"})
    await inbox.note_activity([SourceNews("vod", 0, 1)])
    await inbox.note_activity([SourceNews("vod", 1, 0)])
    rows = (await visitor.look("/ui/")).partition('id="live-sources"')[2].partition("</table>")[0].split("</tr>")
    (vod,) = (row for row in rows if "receipts?source=vod" in row)
    (ims,) = (row for row in rows if "receipts?source=ims" in row)
    assert re.search(r'data-label="last refusal" class="time"><a href="/ui/refused\?source=vod">', vod)
    assert '<td data-label="refused in a row" class="number">0</td>' in vod
    assert "/ui/refused" not in ims


async def test_a_list_goes_on_on_the_next_page(visitor: Visitor):
    await visitor.operators.put(*(f"job-{number}" for number in range(60)))
    first = await visitor.look("/ui/events?sink=orders")
    (older,) = re.findall(r'href="([^"]*)" rel="next"', first)
    second = await visitor.look(unescape(older))
    assert first.count('href="/ui/events/evt_') == 50
    assert second.count('href="/ui/events/evt_') == 10
    # What is not the newest does not change by itself.
    assert "data-live" in first
    assert "data-live" not in second


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("events/evt_" + "0" * 34, 404),
        ("events/x", 404),
        ("events?state=x", 400),
        ("events?nonsense=1", 400),
        ("events?since=yesterday", 400),
        ("events?cursor=-1", 400),
        ("events?job_id=%00", 400),
        ("events?job_id=%ff", 200),
        ("events?job_id=" + "x" * 5000, 400),
        ("sinks/nobody", 404),
        ("jobs/vod/nobody", 404),
        ("jobs/x/nobody", 404),
        ("jobs/vod/x?wait=50", 404),
        ("receipts/x", 404),
        ("search?q=%00", 400),
        ("search?q=" + "x" * 5000, 400),
        ("search?x=1", 400),
        ("sinks/%3Cscript%3E", 404),
        ("refused/x", 404),
        ("refused/99999999999999999999999", 404),
        ("replays/99999", 404),
        ("replays/new?sink=nobody", 422),
        ("replays/new?state=unrouted", 422),
        ("replays/new?rate=fast&state=dead", 400),
        ("replays/new?x=1", 400),
        ("report?since=2020-01-01T00:00", 400),
        ("nothing", 404),
    ],
)
async def test_what_makes_no_sense_is_said_to(visitor: Visitor, target, status):
    answer = await visitor.ask("GET", f"/ui/{target}")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("text/html")


async def test_while_the_store_is_away_it_says_so(visitor: Visitor, monkeypatch):
    async def fail(*_: object, **__: object) -> None:
        raise InboxUnavailable("the disk is on fire")

    monkeypatch.setattr(visitor.operators.inbox, "_read", fail)
    for view in ("", "events", "sinks/orders"):
        answer = await visitor.ask("GET", f"/ui/{view}")
        assert answer.status_code == 503
        assert "the disk is on fire" in answer.text


async def test_a_defect_is_answered_by_a_page(visitor: Visitor, monkeypatch):
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(visitor.operators.inbox, "list_sinks", fail)
    answer = await visitor.ask("GET", "/ui/")
    assert answer.status_code == 500
    assert "A defect" in answer.text


async def test_a_hundred_open_pages_ask_the_store_once(visitor: Visitor, monkeypatch):
    asked = 0
    list_events = visitor.operators.inbox.list_events

    async def count(*arguments: object, **options: object) -> object:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return await list_events(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(visitor.operators.inbox, "list_events", count)
    parts = await asyncio.gather(*[visitor.ask("GET", "/ui/events", headers={"x-part": "1"}) for _ in range(100)])
    assert asked == 1
    assert {part.status_code for part in parts} == {200}
    assert "<header" not in parts[0].text
    assert 'id="live-events"' in parts[0].text


# Who is signed in


@pytest.mark.parametrize("view", VIEWS)
async def test_whoever_is_not_signed_in_sees_nothing(visitor: Visitor, view):
    visitor.cookie = None
    answer = await visitor.ask("GET", f"/ui/{view}")
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/ui/sign-in?next=%2Fui%2F")
    assert (await visitor.ask("GET", f"/ui/{view}", headers={"x-part": "1"})).status_code == 303


@pytest.mark.parametrize("cookie", ["", "x", "AAAA", "a; media_callbacks=b", "\u00ff", "=" * 4000])
async def test_a_cookie_that_is_none_leads_to_the_sign_in(visitor: Visitor, cookie):
    headers = [(b"cookie", b"media_callbacks=" + cookie.encode("latin-1"))]
    assert (await visitor.ask("GET", "/ui/", headers=headers)).status_code == 303
    assert (
        await visitor.ask("POST", "/ui/sinks/orders/pause", headers=[*headers, (b"sec-fetch-site", b"same-origin")])
    ).status_code == 401
    assert not await visitor.operators.inbox.list_sinks()


async def test_a_bearer_token_opens_the_api_and_not_the_page(visitor: Visitor):
    visitor.cookie = None
    answer = await visitor.ask("GET", "/ui/", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 303


async def test_signing_in_leads_to_where_one_wanted_to_go(visitor: Visitor):
    visitor.cookie = None
    led = await visitor.ask("GET", "/ui/events?state=dead&sink=bus")
    form = await visitor.look(led.headers["location"])
    (target,) = re.findall(r'name="next" value="([^"]*)"', form)
    answer = await visitor.order("/ui/sign-in", {"token": TOKEN, "name": "kim", "next": unescape(target)})
    assert answer.headers["location"] == "/ui/events?state=dead&sink=bus"
    cookie = answer.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/ui"))
    assert TOKEN not in cookie


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/v1/sinks",
        "/ui/\\x",
        "/ui/sign-out",
        "/ui/\r\nx: y",
        "",
    ],
)
async def test_signing_in_leads_nowhere_else(visitor: Visitor, target):
    answer = await visitor.order("/ui/sign-in", {"token": TOKEN, "name": "kim", "next": target})
    assert answer.headers["location"] == "/ui/"


@pytest.mark.parametrize(("origin", "is_secure"), [("https://127.0.0.1:8081", True), ("http://127.0.0.1:8081", False)])
async def test_by_https_the_cookie_stays_on_it(visitor: Visitor, origin, is_secure):
    answer = await visitor.order("/ui/sign-in", {"token": TOKEN, "name": "kim"}, headers={"origin": origin})
    assert ("Secure" in answer.headers["set-cookie"]) is is_secure


async def test_a_wrong_token_takes_its_time_and_says_nothing_of_it(visitor: Visitor):
    visitor.cookie = None
    with capture_logs() as logs:
        answer = await visitor.sign_in("a-wrong-token-0123456")
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert visitor.slept_s == [1.0]
    assert "a-wrong-token-0123456" not in answer.text + str(logs)


async def test_many_can_not_be_tried_at_once(visitor: Visitor):
    answers = await asyncio.gather(*[visitor.sign_in("a-wrong-token-0123456") for _ in range(MAX_ATTEMPTS * 3)])
    assert {answer.status_code for answer in answers} <= {401, 429}
    begun = asyncio.Event()
    release = asyncio.Event()

    async def sleep(_: float) -> None:
        begun.set()
        await release.wait()

    visitor.page._sleep = sleep
    waiting = [asyncio.create_task(visitor.sign_in("a-wrong-token-0123456")) for _ in range(MAX_ATTEMPTS)]
    while visitor.page._attempts < MAX_ATTEMPTS:  # noqa: ASYNC110 - it has no event for it
        await asyncio.sleep(0)
    assert (await visitor.sign_in()).status_code == 429
    release.set()
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {401}
    assert (await visitor.sign_in()).status_code == 303


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "a\u202eb"])
async def test_whoever_signs_in_has_a_name(visitor: Visitor, name):
    assert (await visitor.sign_in(name=name)).status_code == 422


async def test_signing_out_takes_the_cookie_away(visitor: Visitor):
    answer = await visitor.order("/ui/sign-out")
    assert answer.headers["location"] == "/ui/sign-in"
    assert "media_callbacks=; Path=/ui; Max-Age=0" in answer.headers["set-cookie"]


# Orders


async def test_a_sink_is_paused_resumed_and_tried(visitor: Visitor):
    assert (await visitor.order("/ui/sinks/orders/pause", {"reason": "moving"})).headers[
        "location"
    ] == "/ui/sinks/orders"
    text = text_of(await visitor.look("/ui/sinks/orders"))
    assert "moving by kim (page)" in text
    (sink,) = await visitor.operators.inbox.list_sinks()
    assert (sink.state, sink.reason, sink.changed_by) == ("paused", "moving", "kim (page)")
    assert (await visitor.order("/ui/sinks/orders/resume")).status_code == 303
    await visitor.operators.put("job-1")
    await visitor.operators.attempt("orders", "retrying")
    answer = await visitor.order("/ui/sinks/orders/retry")
    assert answer.headers["location"] == "/ui/sinks/orders?brought_forward=1"
    assert "Tried now: 1" in text_of(await visitor.look(answer.headers["location"]))


async def test_what_is_dead_is_counted_and_sent_again(visitor: Visitor):
    await visitor.operators.put("job-1", "job-2")
    await visitor.operators.attempt("orders", "dead")
    sink = await visitor.look("/ui/sinks/orders")
    (today,) = list(re.findall(r'href="(/ui/replays/new[^"]*)">what is dead, given up today', sink))
    counted = await visitor.look(unescape(today))
    assert "2 events would be sent again to orders." in text_of(counted)
    assert not await visitor.operators.inbox.list_replays(limit=1)
    form = dict(re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', counted)) | {"reason": "it is well again"}
    answer = await visitor.order("/ui/replays", form)
    assert answer.headers["location"] == "/ui/replays/1"
    (replay,) = await visitor.operators.inbox.list_replays(limit=2)
    assert (replay.total, replay.request.requested_by, replay.request.reason) == (2, "kim (page)", "it is well again")
    assert (replay.request.filter.state, replay.request.filter.sink) == ("dead", "orders")
    assert (replay.request.filter.since, replay.request.filter.given_up_since) == (None, NOW.replace(hour=0))
    assert visitor.operators.created == 1
    with capture_logs() as logs:
        cancelled = await visitor.order("/ui/replays/1/cancel")
    assert cancelled.headers["location"] == "/ui/replays/1"
    assert ("replay_cancelled", "kim (page)") in [(line["event"], line.get("requested_by")) for line in logs]
    assert "cancelled" in text_of(await visitor.look("/ui/replays/1"))


async def test_an_event_is_sent_again(visitor: Visitor):
    (event_id,) = await visitor.operators.put("job-1")
    answer = await visitor.order(f"/ui/events/{event_id}/replay", {"to_sink": "bus", "reason": "lost"})
    assert answer.headers["location"] == "/ui/replays/1"
    (replay,) = await visitor.operators.inbox.list_replays(limit=1)
    assert (replay.request.sinks, replay.request.requested_by, replay.request.reason) == (
        ("bus",),
        "kim (page)",
        "lost",
    )
    assert (await visitor.order(f"/ui/events/{event_id}/replay", {"to_sink": ""})).status_code == 303


@pytest.mark.parametrize(
    ("target", "form", "status"),
    [
        ("sinks/nobody/pause", {"reason": ""}, 404),
        ("sinks/orders/explode", {"reason": ""}, 404),
        ("sinks/orders/pause", {"reason": "x" * 1001}, 422),
        ("sinks/orders/pause", {"reason": "\x00"}, 422),
        ("replays", {"reason": "all"}, 422),
        ("replays", {"state": "dead", "to_sink": "nobody"}, 422),
        ("replays", {"state": "x"}, 422),
        ("replays", {"everything": "yes"}, 400),
        ("replays/7/cancel", {"reason": ""}, 404),
        ("events/evt_x/replay", {"reason": ""}, 404),
        ("nothing", {"reason": ""}, 404),
    ],
)
async def test_an_order_that_makes_no_sense_changes_nothing(visitor: Visitor, target, form, status):
    answer = await visitor.order(f"/ui/{target}", form)
    assert answer.status_code == status, answer.text
    assert not await visitor.operators.inbox.list_sinks()
    assert not await visitor.operators.inbox.list_replays(limit=1)


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"{}", "application/json", 415),
        (b"reason=x", "text/plain", 415),
        (b"reason=x", "multipart/form-data; boundary=x", 415),
        (b"reason=x&reason=y", "application/x-www-form-urlencoded", 400),
        (b"reason=%ff", "application/x-www-form-urlencoded", 400),
        (b"reason=\xff", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"a%d=1" % i for i in range(60)), "application/x-www-form-urlencoded", 400),
        (b"reason=" + b"x" * MAX_FORM_BYTES, "application/x-www-form-urlencoded", 413),
    ],
)
@pytest.mark.parametrize("target", ["sinks/orders/pause", "sign-in"])
async def test_what_is_no_form_of_ours_changes_nothing(visitor: Visitor, target, content, media_type, status):
    headers = {"content-type": media_type, "sec-fetch-site": "same-origin"}
    answer = await visitor.ask("POST", f"/ui/{target}", content=content, headers=headers)
    assert answer.status_code == status
    assert not await visitor.operators.inbox.list_sinks()


ORDERS = (
    "sinks/orders/pause",
    "sinks/orders/resume",
    "sinks/orders/retry",
    "replays",
    "replays/1/cancel",
    "events/{event}/replay",
)


@pytest.mark.parametrize("target", ORDERS)
async def test_by_getting_nothing_is_ordered(visitor: Visitor, target):
    event_id = await furnish(visitor, "text")
    answer = await visitor.ask("GET", "/ui/" + target.format(event=event_id))
    assert answer.status_code in (200, 404, 405)
    assert {sink.name: sink.state for sink in await visitor.operators.inbox.list_sinks()}["orders"] == "active"


@pytest.mark.parametrize("target", ORDERS)
async def test_read_only_it_obeys_nobody(tmp_path: Path, target):
    async with visiting(tmp_path, page="read-only") as visitor:
        event_id = await furnish(visitor, "text")
        for view in VIEWS:
            html = await visitor.look("/ui/" + view.format(event=event_id, job="text"))
            assert set(re.findall(r'method="post" action="([^"]*)"', html)) == {"/ui/sign-out"}, view
            assert "read-only" in html
        before = await visitor.operators.inbox.list_sinks()
        answer = await visitor.order("/ui/" + target.format(event=event_id), {"state": "dead"})
        assert answer.status_code == 403
        assert await visitor.operators.inbox.list_sinks() == before
        assert len(await visitor.operators.inbox.list_replays(limit=5)) == 1
