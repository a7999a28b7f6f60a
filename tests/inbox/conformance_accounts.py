"""
No operation crosses accounts: of two that have the same products, job ids, nonces, media ids and user data, nothing
that is done for one touches a row of the other. Like ``conformance``, this is for a database's own test module, with
the fixture ``inbox``.

Every operation of ``roles.Inbox`` stands in one of two tables: what is done for one account, and what is for all of
them by design, with why. A new operation that stands in none fails.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from typing_extensions import get_protocol_members

from media_callbacks.inbox.database import Database
from media_callbacks.inbox.records import (
    Answer,
    AttemptResult,
    ErasureRequest,
    EventFilter,
    Finding,
    Inquiry,
    JobFilter,
    JobName,
    ReplayRequest,
)
from media_callbacks.inbox.roles import Inbox
from media_callbacks.model.events import Event
from media_callbacks.model.identity import Key
from media_callbacks.model.jobs import ExpectedJob, JobReference
from media_callbacks.model.receipts import Entry, Hold, NamelessJob, Receipt, ReceiptState, Verdict
from tests.inbox.conformance import LEASE_S, NOW, SECOND, finish_replays, make_event, make_receipt, with_data
from tests.inbox.conformance_jobs import DEADLINE, HOUR, NONCE, answered
from tests.inbox.timed import Timed

MINE, OTHER = "mine", "other"
LATER = DEADLINE + SECOND
USER_DATA = "order-7"
ROWS = ("receipts", "events", "jobs", "held")
"""Tables whose rows say whose they are; those of others belong to a row of these, or to a key."""
OF_ROWS = {
    "event_bodies": "event_id",
    "event_receipts": "event_id",
    "deliveries": "event_id",
    "attempts": "event_id",
    "erased_events": "event_id",
    "event_user_data": "event_id",
    "nameless_events": "event_id",
}
OF_KEYS = ("bindings", "answers", "receipt_keys", "nameless_keys")


def event_of(account: str, job_id: str | None = "job-1", outcome: Any = "succeeded", **fields: Any) -> Event:
    return make_event(job_id, outcome, account=account, user_data=USER_DATA, **fields)  # type: ignore[arg-type]


def task_of(account: str, task: str, outcome: Any = "succeeded") -> Event:
    """Of a minted URL."""
    return event_of(account, task, outcome, product="multimediaai", key_id=(NONCE,))


def receipt_of(account: str, *events: Event, **fields: Any) -> Receipt:
    """Through the account's source."""
    receipt = make_receipt(*events, **fields)
    receipt.source = account
    receipt.product = events[0].data.product if events else "vod"
    return receipt


def reference_of(account: str, job_id: str | None = "job-1", **fields: Any) -> JobReference:
    named: dict[str, Any] = {"product": "vod", "family": "animated_image", "media_id": "media-1"}
    return JobReference(account=account, job_id=job_id, **named | fields)


def held_of(account: str, outcome: Any = "succeeded") -> Receipt:
    receipt = receipt_of(account, body=f"held {outcome}".encode())
    hold = Hold("confirm", reference_of(account, "job-2"), 300.0)
    receipt.entries = (Entry(event_of(account, "job-2", outcome), ("a",), hold=hold),)
    return receipt


def nameless_of(account: str, *, family: str = "snapshot", media_id: str = "media-1") -> Receipt:
    event = event_of(account, None, "failed", family=family, media_id=media_id, key_id=(media_id, "1"))
    receipt = receipt_of(account)
    receipt.entries = (Entry(event, ("a",), nameless=NamelessJob("vod", account, family, media_id, True)),)
    return receipt


async def expect_of(inbox: Timed, account: str, job_id: str, **fields: Any) -> None:
    job = ExpectedJob(reference=reference_of(account, job_id, **fields), deadline=DEADLINE, user_data=USER_DATA)
    await inbox.expect([job], now=NOW)


async def fill(inbox: Timed, account: str) -> None:
    """Something of everything; of what came first, nothing was known."""
    await expect_of(inbox, account, "job-1")
    assert (await inbox.put(receipt_of(account, event_of(account, outcome="failed"), body=b"1"))).state == "accepted"
    task = task_of(account, "task-1")
    assert (await inbox.put(receipt_of(account, task, binding="task-1", body=b"2"))).state == "accepted"
    assert (await inbox.put(receipt_of(account, task_of(account, "task-2"), binding="task-2"))).state == "conflict"
    assert (await inbox.put(held_of(account))).held == 1
    assert (await inbox.put(nameless_of(account))).state == "accepted"
    assert (await inbox.put(receipt_of(account, body=b"unread: job-1 order-7"))).state == "unparsed"
    await expect_of(inbox, account, "job-3", family="image_audit", media_id="media-3")
    await expect_of(inbox, account, "job-4", product="multimediaai", nonce=NONCE[::-1])
    await inbox.put(receipt_of(account, event_of(account, "job-5"), sinks=("given-up",), body=b"5"))
    claimed = await inbox.claim("given-up", limit=10, now=NOW, lease_s=LEASE_S)
    await inbox.record([AttemptResult(one, "dead", error="410", started_at=NOW) for one in claimed], now=NOW)


def digests_of(account: str) -> set[bytes]:
    """Of everything that is said here of an account."""
    keys = [
        *(Key("vod", account, "animated_image", (job_id,)) for job_id in ("job-1", "job-2", "job-5", "job-6")),
        Key("vod", account, "snapshot", ("media-1", "1")),
        Key("vod", account, "image_audit", ("job-3",)),
        Key("vod", account, "image_audit", ("media-3", "1")),
        *(Key("multimediaai", account, "animated_image", (nonce,)) for nonce in (NONCE, NONCE[::-1])),
    ]
    return {key.digest() for key in keys}


async def rows_of(inbox: Timed, account: str) -> dict[str, Counter[str]]:
    """All that the tables have of an account, by table; what stands for bytes and JSON in it is as it is."""

    async def read(database: Database) -> dict[str, Counter[str]]:
        found: dict[str, Counter[str]] = {}
        ids: dict[str, set[int]] = {}
        digests = digests_of(account)
        for table in (*ROWS, *OF_ROWS, *OF_KEYS):
            columns = await columns_of(database, table)
            rows = [dict(zip(columns, row, strict=True)) for row in await database.fetch(f"SELECT * FROM {table}")]
            if table == "receipts":
                own = [row for row in rows if row["source"].removeprefix("query-") == account]
            elif table == "jobs":
                own = [row for row in rows if row["account"] == account]
            elif table in OF_ROWS:
                own = [row for row in rows if row[OF_ROWS[table]] in ids["events"]]
            else:
                own = [row for row in rows if bytes(row["key_digest"]) in digests]
            ids[table] = {row["id"] for row in own if "id" in row}
            found[table] = Counter(repr(sorted(row.items())) for row in own)
        return found

    return await inbox._read(read)


async def columns_of(database: Database, table: str) -> list[str]:
    try:
        rows = await database.fetch("SELECT name FROM pragma_table_info($1) ORDER BY cid", table)
    except Exception:  # noqa: BLE001 - so it is the other database
        rows = await database.fetch(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema()"
            " AND table_name = $1 ORDER BY ordinal_position",
            table,
        )
    return [name for (name,) in rows]


# What is done for one account


async def accept(inbox: Timed) -> Verdict:
    return await inbox.put(receipt_of(MINE, event_of(MINE, "job-6")))


async def accept_another_outcome(inbox: Timed) -> Verdict:
    verdict = await inbox.put(receipt_of(MINE, event_of(MINE)))
    assert [event.data.revision for event in verdict.accepted] == [2]
    return verdict


async def repeat(inbox: Timed) -> Verdict:
    return await inbox.put(receipt_of(MINE, event_of(MINE, outcome="failed"), body=b"1"))


async def say_otherwise(inbox: Timed) -> Verdict:
    return await inbox.put(receipt_of(MINE, with_data(event_of(MINE, outcome="failed"), media_id="x"), body=b"x"))


async def use_a_nonce_again(inbox: Timed) -> Verdict:
    return await inbox.put(receipt_of(MINE, task_of(MINE, "task-3"), binding="task-3"))


async def claim_otherwise(inbox: Timed) -> Verdict:
    return await inbox.put(held_of(MINE, "failed"))


async def name_no_job(inbox: Timed) -> Verdict:
    """It means the one job that is expected of the asset, in this account."""
    return await inbox.put(nameless_of(MINE, family="image_audit", media_id="media-3"))


PUTS: dict[ReceiptState, list[Callable[[Timed], Awaitable[Verdict]]]] = {
    "accepted": [accept, accept_another_outcome, claim_otherwise, name_no_job],
    "duplicate": [repeat],
    "differing": [say_otherwise],
    "conflict": [use_a_nonce_again],
}


async def put(inbox: Timed) -> None:
    for state, puts in PUTS.items():
        for one in puts:
            assert (await one(inbox)).state == state, one


async def expect(inbox: Timed) -> None:
    await expect_of(inbox, MINE, "job-6")
    # It takes the event that named no job.
    await expect_of(inbox, MINE, "job-7", family="snapshot")
    (job,) = await inbox.list_jobs(JobFilter(job_id="job-7"), limit=10)
    assert (job.reference.account, job.state) == (MINE, "completed")


async def record(inbox: Timed) -> None:
    claimed = await inbox.claim("a", limit=100, now=NOW, lease_s=LEASE_S)
    mine = [one for one in claimed if json.loads(one.body)["source"].endswith(MINE)]
    assert 0 < len(mine) < len(claimed)
    before = await rows_of(inbox, OTHER)
    assert all(await inbox.record([AttemptResult(one, "retrying", started_at=NOW, delay_s=9) for one in mine]))
    # The claim was of both.
    assert await rows_of(inbox, OTHER) == before


async def inquiries_of(inbox: Timed, account: str) -> Sequence[Inquiry]:
    claimed = await inbox.claim_inquiries("vod", limit=100, now=LATER, lease_s=LEASE_S)
    return [one for one in claimed if one.reference.account == account]


async def settle(inbox: Timed) -> None:
    inquiries = await inquiries_of(inbox, MINE)
    # Some that nobody asks about just now: those beyond the first are not due yet.
    for number in range(8):
        claim = held_of(OTHER, "failed")
        claim.body = str(number).encode()
        await inbox.put_at(claim, now=LATER)
    before = await rows_of(inbox, OTHER)
    assert {one.reference.job_id for one in inquiries} == {"job-2", "job-3"}
    findings = []
    for inquiry in inquiries:
        said = Answer(asked_at=LATER, result="ended", decision="confirmed", detail="words")
        if inquiry.event is not None:
            event = answered(inquiry.event)
            findings.append(Finding(inquiry=inquiry, release=event, receipt=_answer(event), answer=said))
        else:
            event = answered(event_of(MINE, "job-3", family="image_audit"))
            findings.append(Finding(inquiry=inquiry, receipt=_answer(event), answer=said))
    settled = await inbox.settle(findings, now=LATER)
    assert all(one.is_ours and one.accepted for one in settled)
    assert await rows_of(inbox, OTHER) == before


def _answer(event: Event) -> Receipt:
    receipt = receipt_of(MINE, event)
    receipt.source, receipt.transport, receipt.verified_by = f"query-{MINE}", "query", "query"
    return receipt


async def reparse(inbox: Timed) -> None:
    """Under another key with the same job id, and with other content; also what is held, or could not be read."""
    readings = {
        b"1": receipt_of(MINE, event_of(MINE, outcome="failed", family="other"), body=b"1"),
        b"5": receipt_of(MINE, with_data(event_of(MINE, "job-5"), media_id="y"), body=b"5"),
        b"unread: job-1 order-7": receipt_of(MINE, event_of(MINE), body=b"unread: job-1 order-7"),
        b"held succeeded": held_of(MINE),
    }
    done = 0
    for kept in await inbox.outdated_receipts(parser_version=99, after_id=0, limit=100, with_conflicts=True):
        if kept.source == MINE and (reading := readings.get(kept.body)) is not None:
            await inbox.reparse(kept.id, reading, dry_run=False)
            done += 1
    assert done == len(readings)


async def erase(inbox: Timed) -> None:
    for matched, value in (("job_id", "job-1"), ("user_data", USER_DATA), ("media_id", "media-1")):
        request = ErasureRequest(matched=matched, value=value, account=MINE, may_drop=True)  # type: ignore[arg-type]
        erasure_id, position, erased = None, None, 0
        while True:
            step = await inbox.erase(request, erasure_id=erasure_id, position=position, dry_run=False)
            erasure_id, position, erased = step.id, step.position, erased + step.counts.events
            if position is None:
                break
        assert erased or matched == "media_id"


async def replay(inbox: Timed) -> None:
    wanted = EventFilter(job_id="job-1", account=MINE)
    created = await inbox.create_replay(ReplayRequest(filter=wanted, sinks=("b",)), now=LATER)
    assert created.total == 1
    await finish_replays(inbox, now=LATER)


async def find_one(inbox: Timed) -> None:
    event = await inbox.find_event(event_of(MINE, outcome="failed").id)
    assert event is not None
    assert {receipt.source for receipt in event.receipts} == {MINE}
    kept = await inbox.find_receipt(event.receipts[0].id)
    assert kept is not None
    assert kept.record.source == MINE


async def list_some(inbox: Timed) -> None:
    for wanted in (EventFilter(job_id="job-1", account=MINE), EventFilter(media_id="media-1", account=MINE)):
        listed = await inbox.list_events(wanted, limit=100)
        assert listed
        assert {bytes.fromhex(one.id[4:36]) for one in listed} <= digests_of(MINE)
        assert await inbox.count_events(wanted) == len(listed)
    jobs = await inbox.list_jobs(JobFilter(account=MINE), limit=100)
    assert {job.reference.account for job in jobs} == {MINE}
    receipts = await inbox.list_receipts(job_id="job-1", source=MINE, limit=100)
    assert {receipt.source for receipt in receipts} == {MINE}


async def tell_a_life(inbox: Timed) -> None:
    products: dict[str, Any] = {"job-1": "vod", "job-2": "vod", NONCE: "multimediaai", "task-1": "multimediaai"}
    for id_, product in products.items():
        life = await inbox.find_life(JobName(product=product, id=id_, account=MINE))
        assert life.is_known, id_
        assert {job.reference.account for job in life.jobs} <= {MINE}
        own = digests_of(MINE)
        assert {bytes.fromhex(event.id[4:36]) for event in life.events} <= own
        assert {bytes.fromhex(held.event_id[4:36]) for held in life.held} <= own
        # Nobody can tell whose is what could not be read.
        assert {one.source for one in life.receipts if one.state != "unparsed"} <= {MINE}


DONE_FOR_ONE: dict[str, tuple[Callable[[Timed], Awaitable[None]], tuple[str, ...]]] = {
    "put": (put, ("put",)),
    "expect": (expect, ("expect",)),
    "record": (record, ("record",)),
    "settle": (settle, ("settle",)),
    "reparse": (reparse, ("reparse",)),
    "erase": (erase, ("erase",)),
    "replay": (replay, ("create_replay", "advance_replays")),
}
"""What changes something: how it is done, and by which operations."""

ASKED_OF_ONE: dict[str, tuple[Callable[[Timed], Awaitable[None]], tuple[str, ...]]] = {
    "one": (find_one, ("find_event", "find_receipt")),
    "lists": (list_some, ("list_events", "count_events", "list_jobs", "list_receipts")),
    "a life": (tell_a_life, ("find_life",)),
}
"""What is only asked, by an id of ours or with the account."""

_OF_THE_STORE = "is about the store as a whole"
_OF_A_SINK = "a sink is of no account: what it is to get is told by `match`"
_SHOWN = "shows all; each row says whose it is, or leads to it"
FOR_ALL = {
    **dict.fromkeys(
        ("open", "close", "check", "listen", "now", "watch_clock", "trust_clock", "measure"), _OF_THE_STORE
    ),
    **dict.fromkeys(("list_troubles", "note_troubles", "purge", "list_erasures"), _OF_THE_STORE),
    **dict.fromkeys(("claim", "due_in_s", "list_sinks", "retry_sink", "set_sink_state"), _OF_A_SINK),
    **dict.fromkeys(("cancel_replay", "find_replay", "list_replays"), "a replay has a filter, which may name one"),
    **dict.fromkeys(("claim_inquiries", "inquiry_due_in_s"), "each inquiry names its account, whose credentials ask"),
    **dict.fromkeys(("search", "read_feed", "outdated_receipts", "count_waiting", "report_jobs"), _SHOWN),
    "find_endings": "wakes who waits for a job of this id, who then looks whether it was his",
    **dict.fromkeys(("keep_refused", "list_refused", "find_refused"), "a request names a source, which is of one"),
    **dict.fromkeys(("note_sources", "note_activity", "list_source_activity"), "a source is of one account"),
    **dict.fromkeys(("list_activity", "sample_times", "summarise"), "counts by source and sink"),
}
"""By design, and why."""


class AccountsConformance:
    def test_every_operation_stands_in_a_table(self) -> None:
        operations = [name for _, names in (*DONE_FOR_ONE.values(), *ASKED_OF_ONE.values()) for name in names]
        assert sorted([*operations, *FOR_ALL]) == sorted(get_protocol_members(Inbox))

    async def test_every_table_of_the_store_has_an_owner_or_none(self, inbox: Timed) -> None:
        """A new table must say whose its rows are."""
        of_nobody = {
            "activity", "clock", "erasures", "event_keys", "feed", "heartbeat", "keys_moved", "migrations", "refused",
            "replays", "sinks", "source_activity", "sqlite_sequence", "sqlite_stat1", "troubles", "sources",
            "delivery_counts", "delivery_spans", "event_spans", "job_spans", "receipt_spans", "spans_noted",
            "partitions", "names_noted",
        }  # fmt: skip

        async def read(database: Database) -> set[str]:
            try:
                rows = await database.fetch("SELECT name FROM sqlite_schema WHERE type = 'table'")
            except Exception:  # noqa: BLE001 - so it is the other database
                rows = await database.fetch(
                    "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace"
                    " AND relkind IN ('r', 'p') AND NOT relispartition"
                )
            return {name for (name,) in rows}

        # By which SQLite finds events; on PostgreSQL an index does.
        assert await inbox._read(read) - of_nobody - {"event_media"} == {*ROWS, *OF_ROWS, *OF_KEYS}

    @pytest.mark.parametrize("name", DONE_FOR_ONE)
    async def test_what_is_done_for_one_account_leaves_the_other_as_it_is(self, inbox: Timed, name: str) -> None:
        for account in (MINE, OTHER):
            await fill(inbox, account)
        do, _ = DONE_FOR_ONE[name]
        before = {account: await rows_of(inbox, account) for account in (MINE, OTHER)}
        assert all(before[OTHER][table] for table in (*ROWS, "deliveries", "attempts", "bindings", "nameless_events"))
        await do(inbox)
        assert await rows_of(inbox, MINE) != before[MINE]
        if name not in ("record", "settle"):  # which look by themselves, for claims are of both
            assert await rows_of(inbox, OTHER) == before[OTHER]

    @pytest.mark.parametrize("name", ASKED_OF_ONE)
    async def test_what_is_asked_of_one_account_tells_nothing_of_the_other(self, inbox: Timed, name: str) -> None:
        for account in (MINE, OTHER):
            await fill(inbox, account)
        ask, _ = ASKED_OF_ONE[name]
        await ask(inbox)

    async def test_what_the_vendor_said_of_one_is_not_told_of_the_other(self, inbox: Timed) -> None:
        for account in (MINE, OTHER):
            await fill(inbox, account)
        await settle(inbox)
        for id_ in ("job-2", "job-3"):
            assert (await inbox.find_life(JobName(product="vod", id=id_, account=MINE))).answers
            assert not (await inbox.find_life(JobName(product="vod", id=id_, account=OTHER))).answers
            assert (await inbox.find_life(JobName(product="vod", id=id_))).answers

    async def test_of_two_accounts_each_has_its_own_revisions_and_ends(self, inbox: Timed) -> None:
        for account in (MINE, OTHER):
            await fill(inbox, account)
        await accept_another_outcome(inbox)
        event = await inbox.find_event(event_of(OTHER, outcome="failed").id)
        assert event is not None
        assert event.revision == 1
        verdict = await inbox.put_at(receipt_of(OTHER, event_of(OTHER), at=NOW + HOUR), now=NOW + HOUR)
        assert [one.data.revision for one in verdict.accepted] == [2]
