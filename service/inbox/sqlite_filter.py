"""Which events a filter means, in SQL. Queries name the table of events ``e``."""

import sqlite3
from dataclasses import dataclass
from typing import Any

from service.events import OUTCOMES, job_prefix, parse_event_id
from service.inbox.base import EventFilter
from service.inbox.rows import to_milliseconds

# Events are accepted nearly in order of their ids; a clock that was set back may disturb that for this long.
_DISORDER_MS = 3_600_000

IS_INACTIVE = "d.sink IN (SELECT name FROM sinks WHERE state <> 'active')"
_IS_LATEST = (
    "NOT EXISTS (SELECT 1 FROM deliveries l WHERE l.event_id = d.event_id AND l.sink = d.sink AND l.replay > d.replay)"
)
_STATES = {
    "pending": f"d.state = 'pending' AND NOT {IS_INACTIVE}",
    "retrying": f"d.state = 'retrying' AND NOT {IS_INACTIVE}",
    "parked": f"d.state IN ('pending', 'retrying') AND {IS_INACTIVE}",
    "dead": "d.state = 'dead'",
    "delivered": "d.state = 'delivered'",
}


@dataclass(frozen=True, slots=True)
class Query:
    """
    Attributes:
        source: What follows FROM.
        condition: What follows WHERE. Its range of ids is given by the parameters ``first_id`` and ``end_id``, and may
            be made narrower there: of several such conditions, SQLite would use one and go through the rest.
        parameters: By name.
    """

    source: str
    condition: str
    parameters: dict[str, Any]

    def within(self, *, first_id: int = 0, end_id: int) -> dict[str, Any]:
        """The parameters for no more than a range of ids."""
        return self.parameters | {
            "first_id": max(first_id, self.parameters["first_id"]),
            "end_id": min(end_id, self.parameters["end_id"]),
        }


def compile_filter(connection: sqlite3.Connection, wanted: EventFilter, *, by_index: bool = True) -> Query:
    """
    Args:
        by_index: Gather the events of a state from the indexes of what is not delivered, which costs as much as there
            is of those. Otherwise go through events by their ids and look at the deliveries of each, which suits a
            range of ids.
    """
    source = "events e"
    conditions = ["e.id >= :first_id AND e.id < :end_id"]
    parameters: dict[str, Any] = {"first_id": 0, "end_id": 2**62}
    if wanted.event_id is not None:
        by_index = False
        conditions.append("e.key_digest = :digest AND e.outcome = :event_outcome")
        parameters["digest"], parameters["event_outcome"] = _identity(wanted.event_id)
    if wanted.job_id is not None:
        by_index = False
        # The digest has only a hash of the job id, and what is bound may not be a job id: so the column is the judge.
        conditions.append(
            "e.id IN (SELECT id FROM events WHERE key_digest BETWEEN :first AND :last UNION ALL"
            " SELECT k.id FROM bindings JOIN events k USING (key_digest) WHERE value = :job_id) AND e.job_id = :job_id"
        )
        prefix = job_prefix(wanted.job_id)
        parameters |= {"job_id": wanted.job_id, "first": prefix + b"\x00" * 8, "last": prefix + b"\xff" * 8}
    for name in ("media_id", "product", "kind"):
        value = getattr(wanted, name)
        if value is not None:
            conditions.append(f"e.{name} = :{name}")
            parameters[name] = value
    if wanted.outcome is not None:
        conditions.append("e.outcome = :outcome")
        parameters["outcome"] = _outcome_index(wanted.outcome)
    if wanted.state == "unrouted":
        conditions.append("e.is_routed = 0")
        if by_index:
            source += " INDEXED BY events_unrouted"
    if wanted.sink is not None:
        parameters["sink"] = wanted.sink
    if wanted.sink is not None or wanted.state not in (None, "unrouted"):
        conditions.append(_delivery_condition(wanted, by_index=by_index))
    if wanted.since is not None:
        since = to_milliseconds(wanted.since)
        conditions.append("e.accepted_at >= :since")
        parameters |= {"since": since, "first_id": _first_id_at(connection, since - _DISORDER_MS)}
    if wanted.until is not None:
        until = to_milliseconds(wanted.until)
        conditions.append("e.accepted_at < :until")
        parameters |= {"until": until, "end_id": _first_id_at(connection, until + _DISORDER_MS)}
    return Query(source, " AND ".join(conditions), parameters)


def _delivery_condition(wanted: EventFilter, *, by_index: bool) -> str:
    conditions = []
    if wanted.state not in (None, "unrouted"):
        conditions += [_STATES[str(wanted.state)], _IS_LATEST]
    if wanted.sink is not None:
        conditions.append("d.sink = :sink")
    condition = " AND ".join(conditions)
    if by_index and wanted.state in ("pending", "retrying", "parked", "dead"):
        return (
            "e.id IN (SELECT d.event_id FROM deliveries d INDEXED BY deliveries_due"
            f" WHERE d.due_at IS NOT NULL AND {condition}"
            " UNION ALL SELECT d.event_id FROM deliveries d INDEXED BY deliveries_waiting"
            f" WHERE d.due_at IS NULL AND d.state IN ('pending', 'dead') AND {condition})"
        )
    return f"EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = e.id AND {condition})"


def _identity(event_id: str) -> tuple[bytes, int]:
    try:
        digest, outcome = parse_event_id(event_id)
    except ValueError:
        return b"", -1
    return digest, OUTCOMES.index(outcome)


def _outcome_index(outcome: str) -> int:
    return next((index for index, known in enumerate(OUTCOMES) if known == outcome), -1)


def _first_id_at(connection: sqlite3.Connection, at: int) -> int:
    """An id below which everything was accepted before ``at``, give or take the disorder."""
    (low,) = connection.execute("SELECT coalesce(min(id), 1) FROM events").fetchone()
    (high,) = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM events").fetchone()
    while low < high:
        middle = (low + high) // 2
        found, accepted_at = connection.execute(
            "SELECT id, accepted_at FROM events WHERE id >= ? ORDER BY id LIMIT 1", (middle,)
        ).fetchone()
        if accepted_at < at:
            low = int(found) + 1
        else:
            high = middle
    return int(low)
