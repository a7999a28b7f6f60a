"""
What every inbox must do about erasures. Like ``conformance``, this is for a database's own test module, with the fixtures
``inbox`` and ``reopen``.
"""

import base64
import html
import json
from typing import Any

import pytest

from media_callbacks.inbox.database import Database
from media_callbacks.inbox.operating import erasures
from media_callbacks.inbox.records import (
    AttemptResult,
    ErasureCounts,
    ErasureRecord,
    ErasureRequest,
    EventFilter,
    Reparsed,
    ReplayRequest,
)
from media_callbacks.model.events import Event
from tests.inbox.conformance import (
    DAY,
    NOW,
    SECOND,
    Reopen,
    attempt,
    deliver,
    find,
    find_delivery,
    finish_replays,
    ids,
    make_event,
    make_receipt,
    pause,
    purge,
    put,
    resume,
)
from tests.inbox.conformance_jobs import (
    DEADLINE,
    answer,
    claim_one,
    expect,
    find_job,
    held,
    listed,
    nameless,
    nameless_event,
    settle,
)
from tests.inbox.timed import Timed

HERS, HIS = 'user "7" \u5a92\u4f53', "user 8"
LATER = NOW + 5 * SECOND


def request(matched: Any = "user_data", value: str = HERS, **further: Any) -> ErasureRequest:
    return ErasureRequest(matched=matched, value=value, **further)


async def erase(inbox: Timed, wanted: ErasureRequest, *, dry_run: bool = False) -> ErasureCounts:
    """All parts of it."""
    counts, erasure_id, position = ErasureCounts(), None, None
    while True:
        step = await inbox.erase(wanted, erasure_id=erasure_id, position=position, dry_run=dry_run)
        counts, erasure_id, position = counts + step.counts, step.id, step.position
        if position is None:
            return counts


async def bodies(inbox: Timed) -> list[bytes | None]:
    """Of receipts, in the order of their arrival."""

    async def read(database: Database) -> Any:
        return await database.fetch("SELECT body FROM receipts ORDER BY id")

    return [body for (body,) in await inbox._read(read)]


async def everything(inbox: Timed) -> str:
    """Whatever the store holds, apart from what is said of erasures."""
    tables = ("receipts", "events", "event_bodies", "deliveries", "attempts", "held", "jobs", "erased_events")

    async def read(database: Database) -> list[Any]:
        return [[tuple(row) for row in await database.fetch(f"SELECT * FROM {table}")] for table in tables]

    return str(await inbox._read(read))


async def rows_of(inbox: Timed, table: str) -> int:
    async def read(database: Database) -> Any:
        return await database.fetch_value(f"SELECT count(*) FROM {table}")

    return int(await inbox._read(read))


def raw(event: Event, **further: Any) -> bytes:
    return json.dumps({"UserData": event.data.user_data, "JobId": event.data.job_id, **further}).encode()


async def bring(inbox: Timed, *events: Event) -> None:
    for event in events:
        await inbox.put(make_receipt(event, body=raw(event)))


class ErasuresConformance:
    async def test_content_goes_and_what_is_known_stays(self, inbox: Timed, reopen: Reopen) -> None:
        hers, further = make_event("job-1", user_data=HERS), make_event("job-1", "failed", user_data=HERS)
        his = make_event("job-2", user_data=HIS)
        await bring(inbox, hers, further)
        await attempt(inbox, "a", "retrying", error=f"they said {HERS}", delay_s=1)
        await bring(inbox, his)
        await deliver(inbox, "a", now=NOW + SECOND)
        await expect(inbox, "job-3", user_data=HERS)
        expected = ErasureCounts(events=2, receipts=2, jobs=1)

        assert await erase(inbox, request(), dry_run=True) == expected
        assert (await inbox.list_erasures(limit=9), (await find(inbox, hers)).erased_at) == ((), None)
        assert HERS.encode() in ((await find(inbox, hers)).body or b"").replace(b"\\", b"")
        inbox.clock.now = LATER
        assert await erase(inbox, request(requested_by="kim", reason="asked")) == expected

        inbox = await reopen()
        for event, revision in ((hers, 1), (further, 2)):
            record = await find(inbox, event)
            assert (record.body, record.erased_at) == (None, LATER)
            assert [(one.state, one.error) for one in record.deliveries] == [("delivered", None)]
            assert {attempt.error for one in record.deliveries for attempt in one.history} <= {None}
            (summary,) = [one for one in await inbox.list_events(EventFilter(), limit=9) if one.id == event.id]
            assert (summary.revision, summary.job_id) == (revision, "job-1")
        assert await bodies(inbox) == [None, None, raw(his)]
        assert (await find(inbox, his)).body is not None
        assert (await find_job(inbox, "job-3")).state == "expected"
        text = await everything(inbox)
        assert "\u5a92" not in text
        assert "u5a92" not in text

        (listed_record,) = await inbox.list_erasures(limit=9)
        assert listed_record == ErasureRecord(
            id=listed_record.id,
            erased_at=LATER,
            finished_at=LATER,
            matched="user_data",
            digest=erasures.digest_of(request()),
            requested_by="kim",
            reason="asked",
            counts=expected,
        )
        assert await erase(inbox, request()) == ErasureCounts(), "there is nothing left"

    async def test_what_comes_again_is_a_duplicate_and_brings_nothing_back(self, inbox: Timed) -> None:
        stream, other = make_event("stream", user_data=HERS), make_event("other", user_data=HIS)
        await bring(inbox, stream)
        await deliver(inbox, "a")
        await erase(inbox, request())
        for body in (raw(stream), raw(stream, otherwise=True)):
            assert (await inbox.put(make_receipt(stream, body=body))).state == "duplicate"
        # With something that is new, and by way of the vendor's answer.
        verdict = await inbox.put(make_receipt(other, stream, body=raw(stream)))
        assert (verdict.state, ids(*verdict.accepted)) == ("accepted", [other.id])
        assert (await inbox.put(held(stream, body=raw(stream)))).state == "duplicate"
        await expect(inbox, "stream", family="transcode", deadline_at=NOW)
        await settle(inbox, await claim_one(inbox), receipt=answer(stream, body=raw(stream)))
        assert await bodies(inbox) == [None] * 6
        assert (await find(inbox, stream)).body is None
        assert (await find(inbox, other)).body is not None
        # Another outcome is new.
        failed = make_event("stream", "failed", user_data=HERS)
        assert (await inbox.put(make_receipt(failed, body=b"new"))).accepted == (failed.with_revision(2),)
        assert (await bodies(inbox))[-1] == b"new"

    @pytest.mark.parametrize("matched, value", [("job_id", "job-1"), ("media_id", "media-1")])
    async def test_by_ids_of_the_vendor(self, inbox: Timed, matched: str, value: str) -> None:
        meant, other = make_event("job-1", user_data=HERS), make_event("job-2", media_id="media-2", user_data=HERS)
        await bring(inbox, meant, other)
        await deliver(inbox, "a")
        await expect(inbox, "job-1", user_data=HERS)
        await expect(inbox, "job-2", media_id="media-2", user_data=HERS)
        expected = ErasureCounts(events=1, receipts=1, jobs=1)
        assert await erase(inbox, request(matched, value), dry_run=True) == expected
        assert await erase(inbox, request(matched, value)) == expected
        assert [(await find(inbox, event)).body is None for event in (meant, other)] == [True, False]
        assert {job.reference.job_id: job.user_data for job in await listed(inbox)} == {"job-1": None, "job-2": HERS}
        assert await erase(inbox, request(matched, value)) == ErasureCounts()

    async def test_a_job_is_of_whom_it_was_registered_for(self, inbox: Timed) -> None:
        # The vendor's messages say nothing of it.
        event = make_event("job-1")
        await put(inbox, event)
        await deliver(inbox, "a")
        await inbox.put(held(make_event("job-2")))
        await expect(inbox, "job-1", "job-2", user_data=HERS)
        expected = ErasureCounts(events=2, receipts=2, held=1, jobs=2)
        assert await erase(inbox, request(may_drop=True), dry_run=True) == expected
        assert await erase(inbox, request(may_drop=True)) == expected
        assert (await find(inbox, event)).body is None

    async def test_what_is_not_yet_delivered_is_left_unless_it_may_be_dropped(self, inbox: Timed) -> None:
        first, second = make_event("job-1", "failed", user_data=HERS), make_event("job-1", user_data=HIS)
        await bring(inbox, first, second)
        await expect(inbox, "job-1", user_data=HERS)
        await inbox.put(held(make_event("job-2", user_data=HERS), body=raw(first)))
        before = await everything(inbox)
        # The events of her job, and what is held.
        left = ErasureCounts(undelivered=3)
        assert await erase(inbox, request(), dry_run=True) == left
        assert await erase(inbox, request()) == left
        assert await everything(inbox) == before
        assert [record.counts for record in await inbox.list_erasures(limit=9)] == [left]

    async def test_what_may_be_dropped_is_dead_and_what_waited_for_it_goes(self, inbox: Timed) -> None:
        first, second = make_event("job-1", "failed", user_data=HERS), make_event("job-1", user_data=HIS)
        await bring(inbox, first, second)
        await inbox.put(held(make_event("job-2", user_data=HERS), body=raw(first)))
        told: list[str] = []
        inbox.listen(told.extend)
        counts = await erase(inbox, request(may_drop=True))
        assert counts == ErasureCounts(events=2, receipts=2, held=1, dead=1)
        delivery = await find_delivery(inbox, first)
        assert (delivery.state, delivery.due_at, delivery.error) == ("dead", None, "erased before it was delivered")
        assert "a" in told
        assert await deliver(inbox, "a") == [second.id]
        assert (await inbox.count_waiting()).held == {}
        assert (await inbox.put(held(make_event("job-2", user_data=HERS), body=raw(first)))).state == "duplicate"
        assert await bodies(inbox) == [None, raw(second), None, None]

    async def test_what_is_dead_and_erased_is_no_matter_of_anybody(self, inbox: Timed) -> None:
        dead, dropped, his = (
            make_event("job-1", user_data=HERS),
            make_event("job-2", user_data=HERS),
            make_event("job-3"),
        )
        await bring(inbox, dead, his)
        for _ in range(2):
            await attempt(inbox, "a", "dead", error=f"they said {HERS}")
        await bring(inbox, dropped)
        assert await erase(inbox, request(may_drop=True)) == ErasureCounts(events=2, receipts=2, dead=1)
        (sink,) = await inbox.list_sinks()
        assert sink.deliveries == {"dead": 1}
        assert [one.id for one in await inbox.list_events(EventFilter(state="dead"), limit=9)] == [his.id]
        assert [(await find_delivery(inbox, event)).state for event in (dead, dropped)] == ["dead", "dead"]
        assert await erase(inbox, request("job_id", "job-2")) == ErasureCounts()
        assert (await find_delivery(inbox, dropped)).error == "erased before it was delivered"

    async def test_a_held_claim_takes_nothing_along_that_was_accepted_of_somebody_else(self, inbox: Timed) -> None:
        his = make_event("job-1", user_data=HIS)
        await inbox.put(held(make_event("job-1", user_data=HERS), body=b"hers"))
        await bring(inbox, his)
        assert await erase(inbox, request(may_drop=True)) == ErasureCounts(receipts=1, held=1)
        assert await bodies(inbox) == [None, raw(his)]
        assert ((await find(inbox, his)).body is None, await deliver(inbox, "a")) == (False, [his.id])

    async def test_an_event_that_names_no_job_is_of_the_one_that_it_has_ended(self, inbox: Timed) -> None:
        await inbox.put(nameless(1, "succeeded", takes_name=False))
        await inbox.put(nameless(2, "succeeded", takes_name=False))
        await deliver(inbox, "a")
        await expect(inbox, "job-1", user_data=HERS)
        (job,) = await listed(inbox)
        assert job.event_id == nameless_event(1, "succeeded").id
        expected = ErasureCounts(events=1, receipts=1, jobs=1)
        assert await erase(inbox, request(), dry_run=True) == expected
        assert await erase(inbox, request()) == expected
        bodies_left = [(await find(inbox, nameless_event(number, "succeeded"))).body is None for number in (1, 2)]
        assert bodies_left == [True, False]

    async def test_what_a_version_without_erasures_has_kept_and_left_is_set_right(self, inbox: Timed) -> None:
        event = make_event(user_data=HERS)
        await bring(inbox, event)
        await deliver(inbox, "a")
        await erase(inbox, request())
        await inbox.put(make_receipt(event, body=raw(event)))

        async def keep(database: Database) -> None:
            await database.execute("UPDATE receipts SET body = $1 WHERE id = 2", raw(event))

        await inbox._write(keep)
        assert await erase(inbox, request("job_id", "job-1")) == ErasureCounts(receipts=1)
        assert await bodies(inbox) == [None, None]

        async def purge_as_before(database: Database) -> None:
            await database.execute("DELETE FROM events")

        await inbox._write(purge_as_before)
        await bring(inbox, event)
        await deliver(inbox, "a")
        assert (await erase(inbox, request("job_id", "job-1"))).events == 1
        assert (await find(inbox, event)).body is None

    async def test_what_is_erased_when_its_key_is_old_leaves_nothing(self, inbox: Timed) -> None:
        await bring(inbox, make_event(user_data=HERS))
        await attempt(inbox, "a", "retrying", delay_s=1)
        inbox.clock.now = NOW + 3 * DAY
        await erase(inbox, request(may_drop=True))
        await purge(inbox, payloads_before=NOW + DAY, keys_before=NOW + DAY)
        for table in ("events", "deliveries", "attempts", "erased_events"):
            assert await rows_of(inbox, table) == 0, table

    async def test_what_is_being_delivered_just_now_is_late(self, inbox: Timed) -> None:
        event = make_event(user_data=HERS)
        await bring(inbox, event)
        (claimed,) = await inbox.claim("a", limit=9, lease_s=20)
        await erase(inbox, request(may_drop=True))
        assert await inbox.record([AttemptResult(claimed, "delivered", started_at=NOW)]) == [False]
        delivery = await find_delivery(inbox, event)
        assert (delivery.state, [one.result for one in delivery.history]) == ("dead", ["late"])

    async def test_what_was_erased_is_sent_to_nobody(self, inbox: Timed) -> None:
        event = make_event(user_data=HERS)
        await bring(inbox, event)
        await pause(inbox)
        await erase(inbox, request(may_drop=True))
        await resume(inbox)
        await inbox.create_replay(ReplayRequest(filter=EventFilter(event_id=event.id), sinks=("a",)))
        await finish_replays(inbox)
        assert await deliver(inbox, "a") == []

    async def test_of_what_gave_no_event_the_body_says_whose_it_is(self, inbox: Timed) -> None:
        texts = [
            json.dumps({"UserData": HERS}).encode(),
            json.dumps({"UserData": HERS}, ensure_ascii=False).encode(),
            json.dumps({"Message": json.dumps({"UserData": HERS})}).encode(),
            json.dumps({"Message": json.dumps({"UserData": HERS}, ensure_ascii=False)}, ensure_ascii=False).encode(),
            f"<UserData>{HERS}</UserData>".encode(),
            f"<UserData><![CDATA[{HERS}]]></UserData>".encode(),
            f"<UserData>{html.escape(HERS)}</UserData>".encode(),
            rb'{"UserData":"user \"7\" \u5A92\u4F53"}',
            # As MNS publishers send it.
            base64.b64encode(json.dumps({"UserData": HERS}).encode()),
            base64.encodebytes(json.dumps({"pad": "a" * 50, "UserData": HERS}).encode()),
            b"<Message>%s</Message>" % base64.b64encode(b"<UserData>%s</UserData>" % HERS.encode()),
            json.dumps({"Message": base64.encodebytes(b"x" * 60 + json.dumps(HERS).encode()).decode()}).encode(),
            base64.b64encode(b'{"Message":"%s"}' % base64.b64encode(json.dumps({"UserData": HERS}).encode())),
        ]
        others = [
            json.dumps({"UserData": f"{HERS} and more"}).encode(),
            base64.b64encode(json.dumps({"UserData": f"{HERS} and more"}).encode()),
            b"\xff",
        ]
        for body in (*texts, *others):
            assert (await inbox.put(make_receipt(body=body))).state == "unparsed"
        await inbox.put(make_receipt(make_event("job-1"), binding="one"))
        conflict = make_receipt(make_event("job-1"), binding="other", body=texts[0])
        assert (await inbox.put(conflict)).state == "conflict"
        assert await erase(inbox, request()) == ErasureCounts(receipts=len(texts) + 1)
        assert await bodies(inbox) == [*[None] * len(texts), *others, b"{}", None]
        assert [one.state for one in await inbox.list_receipts(limit=2)] == ["conflict", "accepted"]

    async def test_what_is_read_again_just_now_brings_nothing_back(self, inbox: Timed) -> None:
        event = make_event(user_data=HERS)
        await inbox.put(make_receipt(body=raw(event)))
        (stored,) = await inbox.list_receipts(limit=1)
        await erase(inbox, request())
        read_again = make_receipt(event, body=raw(event), parser_version=2)
        assert await inbox.reparse(stored.id, read_again, now=LATER, dry_run=False) == Reparsed("unparsed")
        assert await inbox.find_event(event.id) is None

    async def test_it_goes_in_parts_whatever_there_is(self, inbox: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("ROWS", "RAW", "BODIES", "IDS"):
            monkeypatch.setattr(erasures, f"_{name}_PER_STEP", 2)
        events = [make_event(f"job-{number}", user_data=HERS if number % 3 else HIS) for number in range(10)]
        await bring(inbox, *events)
        while await deliver(inbox, "a"):
            pass
        for number in range(5):
            await inbox.put(make_receipt(body=raw(events[number])))
            await inbox.put(held(make_event(f"held-{number}", user_data=HERS), body=b"held"))
        await expect(inbox, *(f"expected-{number}" for number in range(5)), user_data=HERS, media_id="media-2")
        expected = ErasureCounts(events=6 + 5, receipts=6 + 5 + 3, held=5, jobs=5)
        assert await erase(inbox, request(may_drop=True), dry_run=True) == expected
        assert await erase(inbox, request(may_drop=True)) == expected
        assert await erase(inbox, request("job_id", "job-0")) == ErasureCounts(events=1, receipts=2)
        assert await erase(inbox, request("media_id", "media-1")) == ErasureCounts(events=3, receipts=3)

    async def test_a_part_is_of_the_erasure_that_it_was_begun_for(
        self, inbox: Timed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        step = await inbox.erase(request(), erasure_id=None, position=None, dry_run=False)
        assert (step.position, (await inbox.list_erasures(limit=9))[0].finished_at) == ("jobs-0", None)
        with pytest.raises(ValueError, match="no erasure of this subject"):
            await inbox.erase(request(value=HIS), erasure_id=step.id, position=step.position, dry_run=False)
        with pytest.raises(ValueError, match="no erasure of this subject"):
            await inbox.erase(request(), erasure_id=99, position=step.position, dry_run=False)
        for position in ("", "jobs", "jobs-", "jobs-x", "nothing-1", f"jobs-{10**18}"):
            with pytest.raises(ValueError, match="expected a position"):
                await inbox.erase(request(), erasure_id=step.id, position=position, dry_run=False)
        while step.position is not None:
            last, step = (
                step.position,
                await inbox.erase(request(), erasure_id=step.id, position=step.position, dry_run=False),
            )
        with pytest.raises(ValueError, match="no erasure of this subject"):
            await inbox.erase(request(), erasure_id=step.id, position=last, dry_run=False)

    async def test_what_is_left_of_it_goes_when_it_is_old(self, inbox: Timed) -> None:
        event = make_event(user_data=HERS)
        await bring(inbox, event)
        await erase(inbox, request(may_drop=True))
        inbox.clock.now = NOW + DAY
        await purge(inbox, payloads_before=NOW + SECOND, keys_before=NOW - DAY)
        record = await find(inbox, event)
        assert (record.deliveries, record.erased_at) == ((), NOW)
        assert (await inbox.put(make_receipt(event, at=NOW + DAY, body=b"again"))).state == "duplicate"
        assert (await bodies(inbox))[-1] is None
        await purge(inbox, payloads_before=NOW + 2 * DAY, keys_before=NOW + 2 * DAY)
        assert await inbox.find_event(event.id) is None
        assert (await inbox.put(make_receipt(event, at=NOW + DAY, body=b"again"))).state == "accepted"
        assert (await find(inbox, event)).erased_at is None
        assert await bodies(inbox) == [b"again"]

    async def test_a_job_that_is_asked_about_ends_all_the_same(self, inbox: Timed) -> None:
        await expect(inbox, "job-1", user_data=HERS)
        event = make_event("job-1", user_data=HERS)
        await inbox.put(held(event))
        await erase(inbox, request("job_id", "job-1", may_drop=True))
        assert (await find_job(inbox)).state == "expected"
        inquiry = await claim_one(inbox, now=DEADLINE)
        assert inquiry.user_data is None
        await settle(inbox, inquiry, receipt=answer(event, at=DEADLINE), now=DEADLINE)
        assert (await find_job(inbox, now=DEADLINE)).state == "completed"
        assert (await find(inbox, event)).body is None
