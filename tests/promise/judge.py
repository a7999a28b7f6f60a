"""What must be true in the end: between the cloud's truth, what the consumer got, and what the service says of it."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from sqlite3 import connect
from typing import Any

from service.app import PARSERS
from service.client import ExpectedJobStatus
from service.events import event_id
from service.fake_cloud.callbacks import LIE, describe
from service.fake_cloud.cloud import FakeCloud
from service.fake_cloud.jobs import CloudJob
from service.sources.base import Message
from tests.chaos.consumer import Consumer, Event

# The store's clock is noted once a minute: what it stamped while it was wrong is put back by as much too little.
_CLOCK_SLACK = timedelta(minutes=3)
# Times by the store's clock that every row has, or that say when something is to be done.
_TIMES = (
    *(("receipts", "stored_at"), ("events", "accepted_at"), ("deliveries", "due_at")),
    *(("jobs", "registered_at"), ("jobs", "ended_at"), ("jobs", "due_at"), ("held", "held_at")),
)


def judge(
    cloud: FakeCloud, consumer: Consumer, records: Mapping[int, ExpectedJobStatus], completeness: Mapping[str, Any]
) -> Iterator[str]:
    """Everything that is not as it must be."""
    by_key: dict[str, list[Event]] = defaultdict(list)
    for event in consumer.events.values():
        by_key[event.id[:-2]].append(event)
    allowed = set()
    for job in cloud.jobs:
        record = records.get(job.number)
        if record is None:
            yield f"{_name(job)} is not registered"
            continue
        allowed |= {record.event_id, *_true_events(job)}
        yield from _judge_job(job, record, consumer, by_key)
    for event in consumer.events.values():
        if event.id not in allowed:
            yield f"an event that is not true: {event.id} {event.completion}, revision {event.revision}"
        if event.taken_at is None:
            yield f"{event.id} was never taken"
        if event.data["verified_by"] == "query" and LIE in json.dumps(event.data):
            yield f"a lie as the vendor's word: {event.id} {event.data}"
    yield from (f"{changed} came with another content under the same id" for changed in consumer.changed)
    yield from _judge_report(cloud, consumer, records, completeness)


def _name(job: CloudJob) -> str:
    told = f"told {job.told} times through {', '.join(job.sources) or 'nothing'}"
    return f"{job.product} {job.family} {job.job_id} ({job.outcome}, {told}, {job.refused} refused)"


def _judge_job(
    job: CloudJob, record: ExpectedJobStatus, consumer: Consumer, by_key: Mapping[str, list[Event]]
) -> Iterator[str]:
    if record.event_id is None or record.event_id not in consumer.events:
        yield f"lost: {_name(job)} is {record.state}, event {record.event_id}"
        return
    # Who was sent something and has not answered may have kept it, in the moment when it was killed.
    may_be_told = {job.outcome} if job.unanswered else set()
    if record.outcome not in {job.knowable_outcome, *may_be_told}:
        yield f"{_name(job)} became {record.outcome}, expected {job.knowable_outcome}; {record.state}"
    own = event_id(job.reference().key().digest(), "succeeded")[:-2]
    events = {event.id: event for key in {own, record.event_id[:-2]} for event in by_key.get(key, ())}
    if len(events) != 1:
        told = sorted((event.revision, event.completion[2]) for event in events.values())
        yield f"{len(events)} events {told}: {_name(job)}"
    data = consumer.events[record.event_id].data
    # A lie about the rest may tell the true outcome, which is then confirmed.
    is_asked = record.transport == "query" or data["outcome_verified_by"] == "query"
    if job.told == job.unanswered == 0 and record.state == "completed" and not is_asked:
        yield f"{_name(job)} was told by nobody and came through {record.transport}"
    if data["verified_by"] == "query":
        for name, truth in (("media_id", job.media_id), ("user_data", job.user_data)):
            if data[name] not in (None, truth):
                yield f"{_name(job)} has the {name} {data[name]}, and the vendor is said to have said so"
    if record.state in ("expected", "overdue"):
        yield f"{_name(job)} is still {record.state}"


def _true_events(job: CloudJob) -> Iterator[str]:
    """Ids of all events that the truth about a job may give: the activities of a run are jobs, too."""
    body = json.dumps(describe(job, job.outcome)).encode()
    message = Message(body, body, "query", datetime.now(UTC), {"nonce": job.nonce} if job.nonce else {})
    for completion in PARSERS[job.product](message).completions:
        yield event_id(completion.key(job.product, job.account).digest(), completion.outcome)


def _judge_report(
    cloud: FakeCloud,
    consumer: Consumer,
    records: Mapping[int, ExpectedJobStatus],
    completeness: Mapping[str, Any],
) -> Iterator[str]:
    """The numbers of the report equal the truth."""
    totals = {total["product"]: total for total in completeness["totals"]}
    for product in {job.product for job in cloud.jobs}:
        jobs = [job for job in cloud.jobs if job.product == product]
        states = Counter(records[job.number].state for job in jobs if job.number in records)
        expected = {"submitted": len(jobs), **{state: states[state] for state in ("completed", "healed", "unknown")}}
        expected |= {"overdue": 0, "expected": 0}
        found = {name: totals[product][name] for name in expected}
        if found != expected:
            yield f"the report says {found} of {product}, true is {expected}"
        unknown = sum(job.knowable_outcome == "unknown" for job in jobs)
        doubtful = sum(job.knowable_outcome == "unknown" and job.unanswered > 0 for job in jobs)
        if not unknown - doubtful <= found["unknown"] <= unknown:
            yield f"the report says that {found['unknown']} of {product} are unknown, true is {unknown}"
        never = [job for job in jobs if job.told == job.unanswered == 0 and job.knowable_outcome != "unknown"]
        # Of a lie about a lost job the truth is learnt, too, before the deadline.
        asked = [records[job.number] for job in jobs if job.number in records]
        confirmed = {one.id for one in consumer.events.values() if one.data["outcome_verified_by"] == "query"}
        learned = sum(record.state == "completed" and record.event_id in confirmed for record in asked)
        if found["healed"] + learned < len(never):
            yield f"the report says that {found['healed']} of {product} were healed, at least {len(never)} had to be"
        if product == "mts":
            healed = [job for job in jobs if job.number in records and records[job.number].state == "healed"]
            lost = sum(job.notification == "published" for job in healed)
            if (totals["mts"]["lost_on_the_way"], totals["mts"]["never_sent"]) != (lost, len(healed) - lost):
                yield (
                    f"the report says {totals['mts']['lost_on_the_way']} lost on the way and"
                    f" {totals['mts']['never_sent']} never sent, true is {lost} and {len(healed) - lost}"
                )


def judge_store(path: Path, consumer: Consumer, *, since: datetime) -> Iterator[str]:
    """
    Nothing is missing in it, and whatever the clock did meanwhile, its times are those of the run.

    Args:
        since: When the run began; it has just ended.
    """
    earliest, latest = since - _CLOCK_SLACK, datetime.now(UTC) + _CLOCK_SLACK
    bounds = [round(moment.timestamp() * 1000) for moment in (earliest, latest)]
    with closing(connect(path)) as store:
        ((receipts, last_receipt, without_body),) = store.execute(
            "SELECT count(*), max(id), sum(body IS NULL) FROM receipts"
        )
        if receipts != last_receipt or without_body:
            yield f"receipts were removed: of {last_receipt} {receipts} are left, {without_body} without their bodies"
        bodies = [
            body for (body,) in store.execute("SELECT b.body FROM event_bodies b JOIN events e ON e.id = b.event_id")
        ]
        if missing := consumer.events.keys() - {json.loads(body)["id"] for body in bodies}:
            yield f"events were removed: {len(missing)}, one is {min(missing)}"
        for state, count in store.execute("SELECT state, count(*) FROM deliveries GROUP BY state"):
            if state != "delivered":
                yield f"{count} deliveries are {state} in the end"
        for table, column in _TIMES:
            ((early, late),) = store.execute(
                f"SELECT sum({column} < ?), sum({column} > ?) FROM {table}",
                bounds,
            )
            if early or late:
                yield f"{table}.{column}: {early} are before the run and {late} after it"


def judge_removals(lines: Sequence[Mapping[str, Any]], purges: Iterable[tuple[int | None, str]]) -> Iterator[str]:
    """Nothing was old enough, neither for the service nor for who has called its tool, with code and words."""
    for line in lines:
        if line["event"] == "purged" and (line["payloads"] or line["keys"]):
            yield f"the service has removed {line['payloads']} payloads and {line['keys']} keys"
    for code, said in purges:
        if code == 0 and not said.startswith("0 payloads and 0 keys "):
            yield f"purge has removed something: {said[:300]}"
        elif code not in (0, 1):
            yield f"purge ended with code {code}: {said[-300:]}"
