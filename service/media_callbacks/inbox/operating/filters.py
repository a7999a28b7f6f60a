"""Which events a filter means, in SQL. Queries name the table of events ``e``."""

from media_callbacks.inbox.database import Database, StoredEvent, Value, identity_of
from media_callbacks.inbox.records import EventFilter
from media_callbacks.inbox.rows import to_id, to_milliseconds
from media_callbacks.model.identity import job_prefix
from media_callbacks.model.kinds import OPERATIONAL, OUTCOMES, PHASES

# Events are accepted nearly in order of their ids; clocks that differ or are set back may disturb that for this long.
_DISORDER_MS = 3_600_000

_IS_INACTIVE = "EXISTS (SELECT 1 FROM sinks s WHERE s.name = d.sink AND s.state <> 'active')"
_IS_LATEST = (
    "NOT EXISTS (SELECT 1 FROM deliveries l WHERE l.event_id = d.event_id AND l.sink = d.sink AND l.replay > d.replay)"
)
_STATES = {
    "pending": f"d.state = 'pending' AND NOT {_IS_INACTIVE}",
    "retrying": f"d.state = 'retrying' AND NOT {_IS_INACTIVE}",
    "parked": f"d.state IN ('pending', 'retrying') AND {_IS_INACTIVE}",
    "dead": "d.state = 'dead'",
    "delivered": "d.state = 'delivered'",
}


class Conditions:
    """
    Conditions and their parameters, by number.

    Args:
        source: What follows FROM.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._conditions: list[str] = []
        self.parameters: list[Value] = []

    def mark(self, value: Value) -> str:
        """What stands for a value."""
        self.parameters.append(value)
        return f"${len(self.parameters)}"

    def add(self, condition: str, *values: Value) -> None:
        """A condition with ``{}`` for each value."""
        self._conditions.append(condition.format(*map(self.mark, values)))

    def select(self, columns: str) -> str:
        return f"SELECT {columns} FROM {self._source} WHERE {' AND '.join(self._conditions) or 'true'}"


async def find_ids(database: Database, wanted: EventFilter) -> range:
    """The range of ids that the times of a filter leave, or that of the event that it names."""
    if wanted.event_id is not None:
        known = await _find_event(database, wanted.event_id)
        return range(0) if known is None else range(known.row_id, known.row_id + 1)
    first_id, end_id = 0, to_id(None)
    if wanted.since is not None:
        first_id = await first_id_at(database, to_milliseconds(wanted.since) - _DISORDER_MS)
    if wanted.until is not None:
        end_id = await first_id_at(database, to_milliseconds(wanted.until) + _DISORDER_MS)
    return range(first_id, end_id)


async def _find_event(database: Database, event_id: str) -> StoredEvent | None:
    try:
        return await database.find_event(*identity_of(event_id))
    except ValueError:
        return None


async def first_id_at(database: Database, at: int, *, low: int | None = None) -> int:
    """
    An id below which everything was accepted before ``at``, give or take the disorder.

    Args:
        low: It is known not to be below this one.
    """
    # Two queries: asked for both at once, SQLite would go through everything between.
    if low is None:
        low = int(await database.fetch_value("SELECT coalesce(min(id), 1) FROM events"))
    high = int(await database.fetch_value("SELECT coalesce(max(id), 0) + 1 FROM events"))
    while low < high:
        middle = (low + high) // 2
        row = await database.fetch_row("SELECT id, accepted_at FROM events WHERE id >= $1 ORDER BY id LIMIT 1", middle)
        row_id, accepted_at = (middle, at) if row is None else row
        if accepted_at < at:
            low = int(row_id) + 1
        else:
            high = middle
    return low


def compile_filter(database: Database, wanted: EventFilter, ids: range, *, by_index: bool = True) -> Conditions:
    """
    Args:
        ids: Only these, of those that ``find_ids`` returns. There is no other condition about ids: of several, SQLite
            would use one and go through the rest.
        by_index: Gather the events of a state from the indexes of what is not delivered, which costs as much as there
            is of those. Otherwise go through events by their ids and look at the deliveries of each, which suits a
            short range of ids.
    """
    by_index = by_index and wanted.event_id is None and wanted.job_id is None
    is_unrouted = wanted.state == "unrouted"
    query = Conditions("events e" + (database.using("events_unrouted") if is_unrouted and by_index else ""))
    first_id, end_id = query.mark(ids.start), query.mark(ids.stop)
    is_by_end = by_index and wanted.asks_when_given_up
    if not is_by_end:
        # With the sign it is an expression that is in no index, so that a job's events are found by its key.
        column = "e.id" if wanted.job_id is None else "+e.id"
        query.add(f"{column} >= {first_id} AND {column} < {end_id}")
    if wanted.job_id is not None:
        # The digest has only a hash of the job id, and what is bound may not be a job id: so the column is the judge.
        prefix = job_prefix(wanted.job_id)
        first, last, job_id = (
            query.mark(prefix + b"\x00" * 8),
            query.mark(prefix + b"\xff" * 8),
            query.mark(wanted.job_id),
        )
        has_job = database.by_key(f"e.key_digest BETWEEN {first} AND {last}")
        is_bound = database.by_key(f"e.key_digest IN (SELECT key_digest FROM bindings WHERE value = {job_id})")
        query.add(
            f"e.id IN (SELECT e.id FROM events e WHERE {has_job} UNION ALL"
            f" SELECT e.id FROM events e WHERE {is_bound}) AND e.job_id = {job_id}"
        )
    for name in ("media_id", "product", "kind"):
        value = getattr(wanted, name)
        if value is not None:
            query.add(f"e.{name} = {{}}", value)
    if wanted.account is not None:
        # Within a text no quotation mark stands for itself.
        query.add(
            "EXISTS (SELECT 1 FROM event_bodies b WHERE b.event_id = e.id"
            """ AND replace(b.body, '"source":"/aliyun/' || e.product || {}, '') <> b.body)""",
            f'/{wanted.account}"',
        )
    if wanted.kind is None and wanted.event_id is None:
        # Who asks for events means those of jobs.
        query.add(f"e.kind <> '{OPERATIONAL}'")
    if wanted.outcome is not None:
        words: tuple[str, ...] = PHASES if wanted.kind == OPERATIONAL else OUTCOMES
        # One that there is not has no events.
        query.add("e.outcome = {}", words.index(wanted.outcome) if wanted.outcome in words else -1)
    if is_unrouted:
        query.add("NOT e.is_routed")
    if wanted.sink is not None or wanted.state not in (None, "unrouted") or wanted.asks_when_given_up:
        condition = _delivery_condition(query, wanted, by_index=by_index)
        if is_by_end:
            # The range is that of the deliveries, or SQLite would go through all events in it, and so would PostgreSQL.
            query.add(
                f"e.id IN (SELECT d.event_id FROM deliveries d{database.using('deliveries_given_up')}"
                f" WHERE d.event_id >= {first_id} AND d.event_id < {end_id} AND {condition})"
            )
        elif by_index and wanted.state in ("pending", "retrying", "parked", "dead"):
            query.add(
                f"e.id IN (SELECT d.event_id FROM deliveries d{database.using('deliveries_due')}"
                f" WHERE d.due_at IS NOT NULL AND {condition}"
                f" UNION ALL SELECT d.event_id FROM deliveries d{database.using('deliveries_waiting')}"
                f" WHERE d.due_at IS NULL AND d.state IN ('pending', 'dead') AND {condition})"
            )
        else:
            # The range once more, because PostgreSQL does not conclude it, and may read the whole table.
            query.add(
                f"EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = e.id AND d.event_id >= {first_id}"
                f" AND d.event_id < {end_id} AND {condition})"
            )
    if wanted.since is not None:
        query.add("e.accepted_at >= {}", to_milliseconds(wanted.since))
    if wanted.until is not None:
        query.add("e.accepted_at < {}", to_milliseconds(wanted.until))
    return query


def _delivery_condition(query: Conditions, wanted: EventFilter, *, by_index: bool) -> str:
    conditions = []
    if wanted.state not in (None, "unrouted"):
        conditions += [_STATES[str(wanted.state)], _IS_LATEST]
    if wanted.asks_when_given_up:
        # That is the latest one, or it would be replaced. With the sign the index of times is left out where each event
        # is looked at: SQLite would go through it for each.
        conditions.append(_STATES["dead"])
        column = "d.changed_at" if by_index else "+d.changed_at"
        for operator, at in ((">=", wanted.given_up_since), ("<", wanted.given_up_until)):
            if at is not None:
                conditions.append(f"{column} {operator} {query.mark(to_milliseconds(at))}")
    if wanted.sink is not None:
        conditions.append(f"d.sink = {query.mark(wanted.sink)}")
    return " AND ".join(conditions)
