"""What has happened, and what must be true of it: looked at with every attempt, after every start and in the end."""

import hashlib
import math
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from media_callbacks.model.errors import SinkError, SinkRejected, SinkRetry
from media_callbacks.model.identity import event_id
from media_callbacks.model.kinds import OUTCOMES
from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud
from media_callbacks.rehearsal.fake_cloud.jobs import CloudJob
from media_callbacks.timing.retry import JITTER
from tests.exercises.simulation.machine import BEGAN_AT
from tests.exercises.simulation.receivers import Arrival
from tests.exercises.simulation.service import RETRY_DELAYS_S

# Clocks of machines drift by some parts of a thousand.
_SLACK_MS = 50
# And are gone on with after a death.
_REPLAYS_TAKE_S = 7200.0
# Beyond that something has grown without need.
_MOST_TASKS = 400


@dataclass(slots=True)
class DeliveryHistory:
    """
    Of an event to a sink, one replay of it.

    Attributes:
        number: Of the latest attempt.
        under_way: The attempt that has begun and not ended.
        not_before_ms: When the next attempt may come at the earliest, by the store's clock.
        troubles: How many reasons there had been to send something again, when the latest attempt began.
        has_ended: It was delivered, or will never be: the next one of its job may go.
        is_over: No further attempt may come, unless something goes wrong.
    """

    number: int = 0
    under_way: Arrival | None = None
    not_before_ms: int = 0
    troubles: int = 0
    has_ended: bool = False
    is_over: bool = False
    is_dead: bool = False


@dataclass(slots=True)
class Ledger:
    """
    Attributes:
        violations: What must not be.
        lines: The story, in the order in which it happened.
        troubles: How many reasons there were to send again what was sent: deaths, stops, failures of the store.
        time: The loop's.
        confirms: Whether the vendor is asked about what VOD says.
        can_always_ask: Whether the vendor's APIs are never away, so that no lie need be believed.
        keeps_keys_s: For how long events are known by their key at least.
    """

    cloud: FakeCloud
    time: Any
    confirms: bool
    can_always_ask: bool
    keeps_keys_s: float
    violations: list[str] = field(default_factory=list)
    lines: list[tuple[float, str]] = field(default_factory=list)
    troubles: int = 0
    forwarded: int = 0
    attempts: int = 0
    acknowledged: int = 0
    _replayed_at: float = -math.inf
    _hash: Any = field(default_factory=hashlib.sha256)
    # What was acknowledged: the event's id, and when first.
    _registered: dict[str, float] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)
    _promised: dict[str, float] = field(default_factory=dict)
    _histories: dict[tuple[str, str, int], DeliveryHistory] = field(
        default_factory=lambda: defaultdict(DeliveryHistory)
    )
    # By event: which row it is.
    _rows: dict[str, int] = field(default_factory=dict)
    _taken: dict[tuple[str, str], tuple[float, bytes]] = field(default_factory=dict)
    _jobs: dict[str, list[CloudJob]] = field(default_factory=lambda: defaultdict(list))
    _numbers: dict[str, int] = field(default_factory=dict)
    _revisions: dict[str, int] = field(default_factory=dict)

    # The story

    def note(self, text: str) -> None:
        now = self.time()
        self.lines.append((now, text))
        self._hash.update(f"{now:.6f} {text}\n".encode())

    def violate(self, text: str) -> None:
        self.violations.append(text)
        self.note(f"VIOLATION: {text}")

    def trouble(self, text: str) -> None:
        """Something after which what was sent may be sent again."""
        self.troubles += 1
        self.note(text)

    @property
    def digest(self) -> str:
        return str(self._hash.hexdigest()[:16])

    def name(self, event: str) -> str:
        """An event, as the story calls it."""
        found = self._jobs.get(event[:-2])
        return f"{self._job_name(found[0])} {_outcome(event)}" if found else event

    def _job_name(self, job: CloudJob) -> str:
        return f"job {self._numbers[job.job_id]} ({job.product} {job.family})"

    # Jobs and callbacks

    def submitted(self, job: CloudJob) -> None:
        self._jobs[event_id(job.reference().key().digest(), "succeeded")[:-2]].append(job)
        self._numbers.setdefault(job.job_id, job.number)
        again = " again" if job.earlier else ""
        self.note(
            f"{self._job_name(job)} is submitted{again}; it ends {job.outcome}{', untold' if job.is_lost else ''}"
        )

    def told(self, job: CloudJob) -> None:
        """The service has got a callback, true or not, whatever becomes of it."""
        self._told.add(job.job_id)

    def answered(self, job: CloudJob, veracity: str, status: int) -> None:
        """The service has answered a callback."""
        what = "its end" if veracity == "true" else f"a callback that is {veracity}"
        self.note(f"{self._job_name(job)}: {what} is answered {status}")
        self.acknowledged += status < 300
        if veracity == "forged" and status < 300:
            self.violate(f"a forged callback about {self._job_name(job)} was answered {status}")
        if veracity == "true" and status < 300:
            self.promised(job)

    def _may_be_refuted(self, event: str) -> bool:
        """Who asks the vendor is told of the last time alone that a job was run, and not how it ended before."""
        job = self._jobs[event[:-2]][-1]
        return self.confirms and job.product == "vod" and job.earlier > 0 and job.outcome != _outcome(event)

    def registered(self, job: CloudJob) -> None:
        """The service has said that it will see a job to its end."""
        self._registered.setdefault(job.job_id, self.time())

    def promised(self, job: CloudJob) -> None:
        self._promised.setdefault(event_id(job.reference().key().digest(), job.outcome), self.time())

    # Deliveries

    def began(self, arrival: Arrival) -> None:
        delivery, now_ms = arrival.delivery, arrival.store_ms
        self.attempts += 1
        name = f"attempt {delivery.attempt} of {self.name(delivery.event_id)} to {arrival.sink}"
        if delivery.replay:
            name += f", replay {delivery.replay}"
        self._forget(delivery.event_id, arrival.sink)
        history = self._histories[delivery.event_id, arrival.sink, delivery.replay]
        self.note(f"{name} begins")
        if history.under_way is not None and not _is_over(history.under_way) and history.troubles == self.troubles:
            self.violate(f"{name} begins while attempt {history.under_way.delivery.attempt} is under way")
        if delivery.attempt > len(RETRY_DELAYS_S) + 1:
            self.violate(f"{name} is one more than its schedule has")
        if history.troubles == self.troubles and history.number:
            if history.is_over:
                self.violate(f"{name} begins although it had ended, and nothing went wrong since")
            elif delivery.attempt == history.number:
                self.violate(f"{name} is made again, and nothing went wrong since")
        is_early = delivery.attempt == history.number + 1 and now_ms < history.not_before_ms - _SLACK_MS
        # A replay brings forward what it has to wait for.
        if is_early and self.time() > self._replayed_at + _REPLAYS_TAKE_S:
            self.violate(f"{name} begins {(history.not_before_ms - now_ms) / 1000:.1f} s before its time")
        history.number, history.under_way, history.troubles = delivery.attempt, arrival, self.troubles
        history.is_over = False
        self._judge_truth(arrival, name)
        if not delivery.replay:
            self._judge_order(arrival, name)

    def _forget(self, event: str, sink: str) -> None:
        """What was taken so long ago that its key is gone, and is told again, is another event."""
        if (event, sink) in self._taken and self._may_be_forgotten(event):
            del self._taken[event, sink]
            self._rows.pop(event, None)
            for key in [key for key in self._histories if key[:2] == (event, sink)]:
                del self._histories[key]

    def _may_be_forgotten(self, event: str) -> bool:
        """Keys are kept from when an event was accepted, which is not before its job has ended."""
        jobs = self._jobs.get(event[:-2], ())
        ended: list[float] = [job.ends_at.timestamp() - BEGAN_AT for job in jobs if job.outcome == _outcome(event)]
        return bool(self.time() > min(ended, default=0.0) + self.keeps_keys_s)

    def _judge_truth(self, arrival: Arrival, name: str) -> None:
        data = arrival.event["data"]
        jobs = self._jobs.get(arrival.event["id"][:-2])
        is_certain = data["outcome_verified_by"] == "query"
        if jobs is None:
            if is_certain or data["verified_by"] == "none":
                self.violate(f"{name} tells of a job that there is not, verified by {data['verified_by']}")
        elif data["outcome"] not in {job.outcome for job in jobs} and data["outcome"] != "unknown":
            if is_certain:
                self.violate(f"{name} says {data['outcome']} as the vendor's word, which is not true")
            elif self.can_always_ask:
                self.violate(f"{name} says {data['outcome']}, which is not true and could have been asked")

    def _judge_order(self, arrival: Arrival, name: str) -> None:
        event, revision = arrival.delivery.event_id, int(arrival.event["data"]["revision"])
        self._revisions[event] = revision
        if arrival.sink != "orders" or revision == 1:
            return
        before = [
            self._histories[other, arrival.sink, 0]
            for other, number in self._revisions.items()
            if number == revision - 1 and other[:-2] == event[:-2]
        ]
        if not any(history.has_ended for history in before):
            self.violate(f"{name} begins before the earlier outcome was delivered there or given up")

    def taken(self, arrival: Arrival) -> None:
        event, body = arrival.delivery.event_id, hashlib.sha256(arrival.delivery.body).digest()
        self.note(f"{arrival.sink} takes {self.name(event)}")
        known = self._taken.setdefault((event, arrival.sink), (self.time(), body))
        if known[1] != body:
            self.violate(f"{self.name(event)} came to {arrival.sink} with another content under the same id")

    def ended(self, arrival: Arrival, error: SinkError | None, store_ms: int, *, was_cancelled: bool) -> None:
        delivery = arrival.delivery
        history = self._histories[delivery.event_id, arrival.sink, delivery.replay]
        if history.under_way is arrival:
            history.under_way = None
        if was_cancelled:
            return
        self.note(
            f"attempt {delivery.attempt} of {self.name(delivery.event_id)} to {arrival.sink}:"
            f" {'delivered' if error is None else error}"
        )
        is_last = delivery.attempt > len(RETRY_DELAYS_S)
        history.is_over = error is None or isinstance(error, SinkRejected) or is_last
        history.has_ended |= history.is_over
        history.is_dead |= isinstance(error, SinkRejected) or (error is not None and is_last)
        if not history.is_over:
            delay_s = RETRY_DELAYS_S[delivery.attempt - 1] * (1 - JITTER)
            if isinstance(error, SinkRetry) and error.retry_after_s is not None:
                delay_s = max(delay_s, error.retry_after_s)
            history.not_before_ms = store_ms + int(delay_s * 1000)

    def replayed(self) -> None:
        """Somebody has asked for events again."""
        self._replayed_at = self.time()

    def released(self) -> None:
        """Somebody has said that sinks are well again: what waits may be tried at once."""
        for history in self._histories.values():
            history.not_before_ms = 0

    # What is in the store

    def judge_start(self, connection: sqlite3.Connection, *, has_journaled: bool = False) -> None:
        """
        After a start: what was promised before is there.

        Args:
            has_journaled: What is not may still be in a journal.
        """
        if not has_journaled:
            self._judge_promises(connection)
        self._judge_identity(connection)
        self._judge_books(connection)

    def _judge_promises(self, connection: sqlite3.Connection) -> None:
        for event in self._promised:
            if self._may_be_refuted(event) or (event, "orders") in self._taken or self._is_dead(event, "orders"):
                continue
            digest, outcome = bytes.fromhex(event[4:-2]), OUTCOMES.index(_outcome(event))
            found = connection.execute(
                "SELECT 1 FROM events WHERE key_digest = ?1 AND outcome = ?2"
                " UNION ALL SELECT 1 FROM held WHERE key_digest = ?1 AND outcome = ?2",
                (digest, outcome),
            ).fetchone()
            if found is None:
                self.violate(f"{self.name(event)} was acknowledged and is not in the store")

    def _judge_identity(self, connection: sqlite3.Connection) -> None:
        """What was taken once is no other event when it is told again, as long as keys are kept."""
        for row_id, digest, outcome in connection.execute("SELECT id, key_digest, outcome FROM events"):
            event = f"evt_{digest.hex()}{outcome:02x}"
            if (event, "orders") not in self._taken:
                continue
            known = self._rows.setdefault(event, row_id)
            if known != row_id and not self._may_be_forgotten(event):
                self.violate(f"{self.name(event)} was taken, and is accepted as another event")
            self._rows[event] = row_id

    def _is_dead(self, event: str, sink: str) -> bool:
        history = self._histories.get((event, sink, 0))
        return history is not None and history.is_dead

    def _judge_books(self, connection: sqlite3.Connection) -> None:
        self._count(connection, _BOOKS)

    def _count(self, connection: sqlite3.Connection, books: Sequence[tuple[str, str]], *parameters: int) -> None:
        for query, what in books:
            (count,) = connection.execute(query, parameters).fetchone()
            if count:
                self.violate(f"{count} {what}")

    def judge_end(self, connection: sqlite3.Connection, sinks: set[str], *, removed_before_ms: int | None) -> None:
        """
        When everything has been well for long enough.

        Args:
            removed_before_ms: No payload is as old as that, by the store's clock; None when there may be some.
        """
        self.judge_start(connection)
        self._count(connection, _RECEIPTS)
        if removed_before_ms is not None:
            self._count(connection, _OLD, removed_before_ms)
        if math.isinf(self.keeps_keys_s):
            (kept,) = connection.execute(
                "SELECT count(*) FROM receipts WHERE transport IN ('http', 'token-url')"
            ).fetchone()
            if kept < self.acknowledged:
                self.violate(f"{self.acknowledged} callbacks were acknowledged, of which there are {kept} receipts")
        for event in self._promised:
            is_over = (event, "orders") in self._taken or self._is_dead(event, "orders")
            if not is_over and not self._may_be_refuted(event):
                self.violate(f"{self.name(event)} was acknowledged and never came to orders")
        for what, query in _LEFT_OVER.items():
            for (found,) in connection.execute(query.format(sinks=",".join(f"'{name}'" for name in sorted(sinks)))):
                self.violate(f"{what}: {found}")
        for product, job_id, state, outcome in connection.execute("SELECT product, job_id, state, outcome FROM jobs"):
            self._judge_job(product, job_id, state, outcome)

    def _judge_job(self, product: str, job_id: str | None, state: str, outcome: str | None) -> None:
        job = None if job_id is None else self.cloud.find(job_id)
        if state == "expected":
            self.violate(f"{product} {job_id} is still expected in the end")
        elif job is not None and state == "unknown" and job.is_learnable and self.can_always_ask:
            self.violate(f"{self._job_name(job)} was given up, and the vendor could be asked")
        elif job is not None and state == "completed" and job.is_lost and job_id not in self._told:
            self.violate(f"{self._job_name(job)} is said to have been told of, and was asked about")

    def judge_size(self, tasks: int, waiting: int, held: int) -> None:
        if tasks > _MOST_TASKS or waiting > 100 or held > 100:
            self.violate(f"{tasks} tasks, {waiting} receipts waiting, {held} deliveries in memory when nothing goes on")


def _is_over(arrival: Arrival) -> bool:
    return arrival.life is not None and arrival.life.is_over


def _outcome(event: str) -> str:
    return OUTCOMES[int(event[-2:], 16)]


_BOOKS = (
    (
        (
            "SELECT count(*) FROM events e WHERE NOT EXISTS (SELECT 1 FROM receipts WHERE id = e.receipt_id)"
            " AND EXISTS (SELECT 1 FROM deliveries WHERE event_id = e.id AND replay = 0"
            " AND state IN ('pending', 'retrying'))"
        ),
        "events wait and have no receipt",
    ),
    (
        (
            "SELECT count(*) FROM events e WHERE is_routed AND EXISTS (SELECT 1 FROM event_bodies WHERE event_id = e.id)"
            " AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event_id = e.id)"
        ),
        "events that go to a sink have no delivery",
    ),
    (
        ("SELECT count(*) FROM (SELECT 1 FROM events GROUP BY key_digest, outcome HAVING count(*) > 1)"),
        "keys have two events with the same outcome",
    ),
    (
        (
            "SELECT count(*) FROM (SELECT 1 FROM events GROUP BY key_digest HAVING max(revision) <> count(*)"
            " AND min(revision) = 1)"
        ),
        "keys have revisions with a gap",
    ),
    (
        (
            "SELECT count(*) FROM deliveries d WHERE attempts <> (SELECT count(*) FROM attempts a WHERE"
            " a.event_id = d.event_id AND a.sink = d.sink AND a.replay = d.replay"
            " AND a.result IN ('delivered', 'retrying', 'dead'))"
        ),
        "deliveries have had other attempts than are written down",
    ),
    (
        ("SELECT count(*) FROM deliveries WHERE state IN ('delivered', 'dead', 'replaced') AND due_at IS NOT NULL"),
        "deliveries have ended and are due",
    ),
    (
        (
            "SELECT count(*) FROM deliveries d JOIN events e ON e.id = d.event_id WHERE d.state = 'pending'"
            " AND d.due_at IS NULL AND NOT EXISTS (SELECT 1 FROM deliveries o JOIN events f ON f.id = o.event_id"
            " WHERE o.sink = d.sink AND f.key_digest = e.key_digest AND o.due_at IS NOT NULL)"
        ),
        "deliveries wait for others that there are not",
    ),
    (
        ("SELECT count(*) FROM event_keys k WHERE NOT EXISTS (SELECT 1 FROM events WHERE id = k.event_id)"),
        "keys lead to no event",
    ),
    (
        "SELECT count(*) FROM event_bodies b WHERE NOT EXISTS (SELECT 1 FROM events WHERE id = b.event_id)",
        "contents belong to no event",
    ),
    (
        (
            "SELECT count(*) FROM (SELECT 1 FROM (SELECT sink, state, event_id >> 12 AS span, 1 AS n FROM deliveries"
            " WHERE state IN ('pending', 'retrying', 'dead') UNION ALL SELECT sink, state, span, -count"
            " FROM delivery_counts) GROUP BY sink, state, span HAVING sum(n) <> 0)"
        ),
        "counts of deliveries are wrong",
    ),
)
_RECEIPTS = (
    (
        (
            "SELECT count(*) FROM receipts r WHERE state = 'accepted'"
            " AND NOT EXISTS (SELECT 1 FROM events WHERE receipt_id = r.id)"
            " AND NOT EXISTS (SELECT 1 FROM held WHERE receipt_id = r.id)"
        ),
        "receipts were accepted and have brought nothing",
    ),
    (
        (
            "SELECT count(*) FROM receipts r WHERE state IN ('duplicate', 'differing') AND event_ids IS NOT NULL"
            " AND NOT EXISTS (SELECT 1 FROM event_receipts WHERE receipt_id = r.id)"
        ),
        "receipts bring something again and are not with it",
    ),
)
_OLD = (
    (
        "SELECT count(*) FROM event_bodies b JOIN events e ON e.id = b.event_id WHERE e.accepted_at < ?",
        "events have kept their content for too long",
    ),
    (
        "SELECT count(*) FROM receipts WHERE coalesce(stored_at, received_at) < ?",
        "receipts are kept for too long",
    ),
)
_LEFT_OVER = {
    "not delivered in the end": "SELECT event_id || ' to ' || sink || ', ' || state FROM deliveries"
    " WHERE state IN ('pending', 'retrying') AND sink IN ({sinks})",
    "leased in the end": "SELECT event_id || ' to ' || sink FROM deliveries WHERE lease IS NOT NULL",
    "held in the end": "SELECT product || ' ' || id FROM held",
    "asked about in the end": "SELECT product || ' ' || id FROM jobs WHERE due_at IS NOT NULL",
    "replayed in the end": "SELECT id FROM replays WHERE state = 'running'",
}
