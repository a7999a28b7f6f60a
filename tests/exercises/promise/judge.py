"""What must be true in the end: between the cloud's truth, what the consumer got, and what the service says of it."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from sqlite3 import connect
from typing import Any

from media_callbacks.assembly.sources import PARSERS
from media_callbacks.client.jobs import ExpectedJobStatus
from media_callbacks.model.identity import event_id
from media_callbacks.rehearsal.fake_cloud.callbacks import LIE, describe
from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud
from media_callbacks.rehearsal.fake_cloud.jobs import CloudJob
from media_callbacks.sources.base import Message
from tests.exercises.chaos.consumer import Consumer, Event

# The store's clock is noted once a minute: what it stamped while it was wrong is put back by as much too little.
_CLOCK_SLACK = timedelta(minutes=3)
# Times by the store's clock that every row has, or that say when something is to be done.
_TIMES = (
    *(("receipts", "stored_at"), ("events", "accepted_at"), ("deliveries", "due_at")),
    *(("jobs", "registered_at"), ("jobs", "ended_at"), ("jobs", "due_at"), ("held", "held_at")),
)


@dataclass(frozen=True, slots=True)
class Story:
    """
    A registered job and its reruns, oldest first: what happened to it.

    Attributes:
        outcomes: How it may have become known that it ended.
    """

    jobs: tuple[CloudJob, ...]

    @property
    def first(self) -> CloudJob:
        return self.jobs[0]

    @property
    def told(self) -> int:
        return sum(job.told for job in self.jobs)

    @property
    def unanswered(self) -> int:
        return sum(job.unanswered for job in self.jobs)

    @property
    def is_untold(self) -> bool:
        return self.told == self.unanswered == 0

    @property
    def is_knowable(self) -> bool:
        return any(job.knowable_outcome != "unknown" for job in self.jobs)

    @property
    def outcomes(self) -> set[str]:
        # Who was sent something and has not answered may have kept it, in the moment when it was killed.
        return {job.knowable_outcome for job in self.jobs} | {job.outcome for job in self.jobs if job.unanswered}

    def __str__(self) -> str:
        return "; then ".join(
            f"{job.product} {job.family} {job.job_id} ({job.outcome}, told {job.told} times through"
            f" {', '.join(job.sources) or 'nothing'}, {job.refused} refused)"
            for job in self.jobs
        )


def is_occurrence(job: CloudJob) -> bool:
    """No job that ends once, but something that happens, and may happen to the same thing again."""
    return job.family in ("LiveRecordFileCreated", "FileUploadComplete")


def judge(
    cloud: FakeCloud, consumer: Consumer, records: Mapping[int, ExpectedJobStatus], completeness: Mapping[str, Any]
) -> Iterator[str]:
    """Everything that is not as it must be."""
    by_key: dict[str, list[Event]] = defaultdict(list)
    for event in consumer.events.values():
        by_key[event.id[:-2]].append(event)
    by_job: dict[bytes, list[CloudJob]] = defaultdict(list)
    for job in cloud.jobs:
        if not is_occurrence(job):
            by_job[job.reference().key().digest()].append(job)
    stories = [Story(tuple(jobs)) for jobs in by_job.values()]
    allowed = {true_id for job in cloud.jobs for true_id in _true_events(job)}
    for story in stories:
        record = records.get(story.first.number)
        if record is None:
            yield f"{story} is not registered"
            continue
        if record.event_id is not None:
            allowed.add(record.event_id)
        yield from _judge_job(story, record, consumer, by_key)
    yield from _judge_occurrences([job for job in cloud.jobs if is_occurrence(job)], consumer)
    for event in consumer.events.values():
        if event.id not in allowed:
            yield f"an event that is not true: {event.id} {event.completion}, revision {event.revision}"
        if event.taken_at is None:
            yield f"{event.id} was never taken"
        if event.data["verified_by"] == "query" and LIE in json.dumps(event.data):
            yield f"a lie as the vendor's word: {event.id} {event.data}"
    yield from (f"{changed} came with another content under the same id" for changed in consumer.changed)
    yield from _judge_report(stories, consumer, records, completeness)


def _judge_job(
    story: Story, record: ExpectedJobStatus, consumer: Consumer, by_key: Mapping[str, list[Event]]
) -> Iterator[str]:
    if record.event_id is None or record.event_id not in consumer.events:
        yield f"lost: {story} is {record.state}, event {record.event_id}"
        return
    if record.outcome not in story.outcomes:
        yield f"{story} became {record.outcome}, expected {' or '.join(story.outcomes)}; {record.state}"
    own = event_id(story.first.reference().key().digest(), "succeeded")[:-2]
    events = {event.id: event for key in {own, record.event_id[:-2]} for event in by_key.get(key, ())}
    outcomes = [event.completion[2] for event in events.values()]
    # A rerun ends once more; that it ended differently before may be told too late for the vendor to confirm.
    if len(events) > len(story.jobs) or len(set(outcomes)) != len(outcomes):
        told = sorted((event.revision, event.completion[2]) for event in events.values())
        yield f"{len(events)} events {told}: {story}"
    for job in story.jobs:
        is_certain = job is story.jobs[-1] or all(_is_believed(source) for source in job.sources)
        if len(story.jobs) > 1 and job.told and is_certain and job.outcome not in outcomes:
            yield f"that it {job.outcome} is lost: {story}, there is {outcomes}"
    data = consumer.events[record.event_id].data
    # A lie about the rest may tell the true outcome, which is then confirmed.
    is_asked = record.transport == "query" or data["outcome_verified_by"] == "query"
    if story.is_untold and record.state == "completed" and not is_asked:
        yield f"{story} was told by nobody and came through {record.transport}"
    if data["verified_by"] == "query":
        for name, truth in (("media_id", story.first.media_id), ("user_data", story.first.user_data)):
            if data[name] not in (None, truth):
                yield f"{story} has the {name} {data[name]}, and the vendor is said to have said so"
    if record.state in ("expected", "overdue"):
        yield f"{story} is still {record.state}"


def _is_believed(source: str) -> bool:
    """What comes through it becomes an event without a question."""
    return source == "mts" or source.endswith("-queue")


def _judge_occurrences(occurrences: Sequence[CloudJob], consumer: Consumer) -> Iterator[str]:
    """Each that was told about is one event with its own file, whatever has happened to the same thing before."""
    found = Counter(true_id for job in occurrences for true_id in _true_events(job))
    yield from (f"{count} occurrences have the id {true_id}" for true_id, count in found.items() if count > 1)
    for job in occurrences:
        story = Story((job,))
        (true_id,) = _true_events(job)
        event = consumer.events.get(true_id)
        if event is None:
            if job.told:
                yield f"lost: number {job.earlier + 1} of {story}"
            continue
        if story.is_untold:
            yield f"number {job.earlier + 1} of {story} was told by nobody"
        message = describe(job, job.outcome)
        if message.get("MessageBody", message)["FileUrl"] not in json.dumps(event.data):
            yield f"number {job.earlier + 1} of {story} is about another file: {event.data}"


def _true_events(job: CloudJob) -> Iterator[str]:
    """Ids of all events that the truth about a job may give: the activities of a run are jobs, too."""
    body = json.dumps(describe(job, job.outcome)).encode()
    message = Message(body, body, "query", datetime.now(UTC), {"nonce": job.nonce} if job.nonce else {})
    for completion in PARSERS[job.product](message).completions:
        yield event_id(completion.key(job.product, job.account).digest(), completion.outcome)


def _judge_report(
    stories: Sequence[Story],
    consumer: Consumer,
    records: Mapping[int, ExpectedJobStatus],
    completeness: Mapping[str, Any],
) -> Iterator[str]:
    """The numbers of the report equal the truth."""
    totals = {total["product"]: total for total in completeness["totals"]}
    for product in {story.first.product for story in stories}:
        told_of = [story for story in stories if story.first.product == product]
        jobs = [story.first for story in told_of]
        states = Counter(records[job.number].state for job in jobs if job.number in records)
        expected = {"submitted": len(jobs), **{state: states[state] for state in ("completed", "healed", "unknown")}}
        expected |= {"overdue": 0, "expected": 0}
        found = {name: totals[product][name] for name in expected}
        if found != expected:
            yield f"the report says {found} of {product}, true is {expected}"
        unknown = sum(not story.is_knowable for story in told_of)
        doubtful = sum(not story.is_knowable and story.unanswered > 0 for story in told_of)
        if not unknown - doubtful <= found["unknown"] <= unknown:
            yield f"the report says that {found['unknown']} of {product} are unknown, true is {unknown}"
        never = [story for story in told_of if story.is_untold and story.is_knowable]
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
