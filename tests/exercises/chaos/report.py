"""What must be true after a run, and its figures."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.exercises.chaos.cluster import Cluster, Instance
from tests.exercises.chaos.consumer import Completion, Consumer, Event
from tests.exercises.chaos.faults import Incident
from tests.exercises.chaos.vendor import NO_ANSWER, Message, Vendor

# Resident memory. An instance has about 110 MB once it has worked for a few seconds.
MAX_MEMORY_BYTES = 256 << 20
MAX_GROWTH_BYTES = 48 << 20
_WARM_S = 15.0
# Without any answer of success, though there was an instance and a store or a journal.
MAX_GAP_S = 8.0
_SHOWN = 50


@dataclass
class Report:
    seed: int
    figures: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)

    def print(self) -> None:
        print(json.dumps({"seed": self.seed, **self.figures, "violations": len(self.violations)}), flush=True)
        if self.violations:
            print(f"INCIDENTS seed {self.seed}: {'; '.join(self.incidents)}")
        for violation in self.violations[:_SHOWN]:
            print(f"VIOLATION seed {self.seed}: {violation}")
        if len(self.violations) > _SHOWN:
            print(f"… and {len(self.violations) - _SHOWN} more")


def judge(vendor: Vendor, consumer: Consumer, incidents: Sequence[Incident]) -> Iterator[str]:
    """Everything that is not as it must be between what was sent and what arrived."""
    genuine = [message for message in vendor.messages if message.kind == "genuine"]
    yield from _judge_arrivals(genuine, vendor.messages, consumer)
    yield from _judge_order(consumer)
    for message in vendor.messages:
        yield from _judge_answers(message, incidents)
    excused = [incident for incident in incidents if incident.excuses]
    successes = vendor.successes
    for before, after in pairwise(successes):
        if after - before > MAX_GAP_S and not any(i.began <= after and before <= i.ended for i in excused):
            yield f"no callback was answered with success between {before:.1f} s and {after:.1f} s"


def _judge_arrivals(genuine: Sequence[Message], messages: Sequence[Message], consumer: Consumer) -> Iterator[str]:
    sent = {message.completion for message in genuine}
    described: dict[Completion, list[str]] = {}
    for message in messages:
        described.setdefault(message.completion, []).append(message.describe())
    acknowledged = {message.completion for message in genuine if message.is_acknowledged}
    for completion in sorted(acknowledged - consumer.taken):
        yield f"lost: {'; '.join(described[completion])}"
    ids: dict[Completion, list[str]] = {}
    for event in consumer.events.values():
        ids.setdefault(event.completion, []).append(event.id)
    for completion, found in sorted(ids.items()):
        if completion not in sent:
            yield f"forged, and delivered: {described.get(completion, completion)}"
        elif len(found) > 1:
            yield f"{len(found)} event ids {found}: {'; '.join(described[completion])}"
    for event_id in consumer.changed:
        yield f"{event_id} came with another job, outcome or revision than before"


def _judge_order(consumer: Consumer) -> Iterator[str]:
    jobs: dict[tuple[str, str], list[Event]] = {}
    for event in consumer.events.values():
        jobs.setdefault(event.job, []).append(event)
    for job, events in jobs.items():
        events.sort(key=lambda event: event.revision)
        if [event.revision for event in events] != list(range(1, len(events) + 1)):
            yield f"{' '.join(job)} has the revisions {[event.revision for event in events]}"
        for first, second in pairwise(events):
            if first.taken_at is None or second.first_at < first.taken_at:
                yield f"{' '.join(job)}: revision {second.revision} came before revision {first.revision} was taken"


def _judge_answers(message: Message, incidents: Sequence[Incident]) -> Iterator[str]:
    is_token = message.source.startswith("gif")
    refusal = 404 if is_token else 403
    for at, answer in message.answers:
        is_excused = any(incident.excuses and incident.covers(at) for incident in incidents)
        allowed = {503, message.success_status if message.kind == "genuine" else refusal}
        if message.kind == "genuine" and is_excused:
            allowed.add(refusal)
        if answer.status == 503 and not answer.has_retry_after:
            yield f"503 without Retry-After: {message.describe()}"
        # On a busy machine an answer may come too late, while nginx looks for an instance that works; this is counted,
        # and that the sender gives up is not allowed.
        elif answer.status not in {*allowed, NO_ANSWER}:
            yield f"answered {answer.status}: {message.describe()}"
    if (
        message.kind == "genuine"
        and not message.is_acknowledged
        and not any(i.excuses and any(i.covers(at) for at, _ in message.answers) for i in incidents)
    ):
        yield f"given up by its sender: {message.describe()}"


async def judge_store(cluster: Cluster, consumer: Consumer) -> Sequence[str]:
    """What must be true in the database, the journals and the queues."""
    violations = [f"{depth} messages are left in {name}" for name, depth in cluster.queues.depths().items()]
    for state, count in await cluster.query(
        "SELECT state, count(*) FROM deliveries WHERE state <> 'delivered' GROUP BY state"
    ):
        violations.append(f"{count} deliveries are {state} in the end")
    for state, reason, count in await cluster.query(
        "SELECT state, reason, count(*) FROM receipts WHERE state NOT IN ('accepted', 'duplicate') GROUP BY 1, 2"
    ):
        violations.append(f"{count} receipts are {state}: {reason}")
    ((stored,),) = await cluster.query("SELECT count(*) FROM events")
    if stored != len(consumer.events):
        violations.append(f"the store has {stored} events, the consumer saw {len(consumer.events)}")
    received, _ = await count_queued(cluster)
    if received != cluster.queues.sent:
        violations.append(f"{cluster.queues.sent} messages were put into queues, the store has {received} of them")
    for instance in cluster.instances:
        left = instance.journal_files("*.journal") + instance.journal_files("*.corrupt")
        violations += [f"{name} is left of a journal" for name in left]
    return violations


async def count_queued(cluster: Cluster) -> tuple[int, int]:
    """How many messages of queues the store has, and how often one of them came again."""
    ((received, receipts),) = await cluster.query(
        "SELECT count(DISTINCT meta::json ->> 'queue_message_id'), count(*) FROM receipts WHERE transport = 'mns-queue'"
    )
    return received, receipts - received


def judge_instances(instances: Sequence[Instance], vendor: Vendor) -> Iterator[str]:
    """Their memory, and what they logged."""
    stale_logged = 0
    for instance in instances:
        lines, others = instance.log_lines()
        for line in others:
            yield f"{instance.name} wrote something that is no log line: {line[:300]}"
        stale_logged += sum(line["event"] == "callback_refused" and "age_s" in line for line in lines)
        for life in instance.lives:
            warm = [size for at, size in life.memory if at >= _WARM_S]
            if life.memory and max(size for _, size in life.memory) > MAX_MEMORY_BYTES:
                yield f"{instance.name} had {max(size for _, size in life.memory) >> 20} MiB of memory"
            if warm and warm[-1] - warm[0] > MAX_GROWTH_BYTES:
                yield f"{instance.name} grew from {warm[0] >> 20} to {warm[-1] >> 20} MiB"
    stale_answered = sum(
        answer.status in (403, 404)
        for message in vendor.messages
        if message.kind == "stale"
        for _, answer in message.answers
    )
    # A process that is killed may have answered and not yet logged.
    if stale_logged < stale_answered - 5 * sum(len(instance.lives) for instance in instances):
        yield f"{stale_answered} callbacks with a wrong time were refused, and only {stale_logged} were logged as such"


def describe(
    vendor: Vendor, consumer: Consumer, incidents: Sequence[Incident], cluster: Cluster, *, jobs: int
) -> dict[str, Any]:
    """The figures of a run."""
    kinds = Counter(incident.kind for incident in incidents)
    memory = [size for instance in cluster.instances for life in instance.lives for _, size in life.memory]
    warm = [
        [size for at, size in life.memory if at >= _WARM_S] for instance in cluster.instances for life in instance.lives
    ]
    logged = Counter(
        str(line["event"])
        for instance in cluster.instances
        for line in instance.log_lines()[0]
        if line.get("level") in ("error", "critical")
    )
    genuine = [message for message in vendor.messages if message.kind == "genuine"]
    events = consumer.events.values()
    return {
        "jobs": jobs,
        "callbacks": len(genuine),
        "requests": vendor.requests,
        "forged": sum(message.kind == "forged" for message in vendor.messages),
        "stale": sum(message.kind == "stale" for message in vendor.messages),
        "answers": dict(sorted(vendor.statuses.items())),
        "acknowledged": sum(message.is_acknowledged for message in genuine),
        "given_up": sum(not message.is_acknowledged for message in genuine),
        "incidents": dict(sorted(kinds.items())),
        "unavailable": _unavailable(genuine, incidents),
        "longest_gap_s": round(vendor.longest_gap_s(), 2),
        "journaled": sum(map(_journaled, cluster.instances)),
        "events": len(events),
        "duplicate_attempts": sum(event.again for event in events),
        "attempts": consumer.arrivals,
        "reruns_before_failures": sum(event.revision == 2 and event.completion[2] == "failed" for event in events),
        "slowest_start_s": round(max((s for i in cluster.instances for s in i.starts_s), default=0.0), 2),
        "max_memory_mib": max(memory, default=0) >> 20,
        "max_growth_mib": max((sizes[-1] - sizes[0] for sizes in warm if sizes), default=0) >> 20,
        "errors_logged": dict(logged),
        "seconds": round(vendor.now, 1),
    }


def _journaled(instance: Instance) -> int:
    """How many callbacks its journal has had, as far as it was emptied before the process ended."""
    total = before = 0
    for line in instance.log_lines()[0]:
        if line["event"] == "journal_empty":
            drained = int(line["drained"])
            # It counts from the start of a process.
            total += drained - before if drained >= before else drained
            before = drained
        elif line["event"] == "listening":
            before = 0
    return total


def _unavailable(messages: Sequence[Message], incidents: Sequence[Incident]) -> dict[str, int]:
    """Answers of 503, by what had just begun to be broken. Queues are no cause of any."""
    incidents = [incident for incident in incidents if not incident.kind.startswith("queues")]
    causes: Counter[str] = Counter()
    for message in messages:
        for at, answer in message.answers:
            if answer.status == 503:
                begun = [i for i in incidents if i.began <= at <= i.ended + 2.0]
                causes[max(begun, key=lambda i: (i.excuses, i.began)).kind if begun else "nothing"] += 1
    return dict(sorted(causes.items()))
