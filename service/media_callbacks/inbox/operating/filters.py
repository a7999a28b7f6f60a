"""Which events a filter means, in SQL. Queries name the table of events ``e``."""

from collections.abc import Mapping, Sequence

from media_callbacks.inbox.database import Database, StoredEvent, Value, identity_of
from media_callbacks.inbox.keeping.spans import STORED_AT, Candidates, Rows
from media_callbacks.inbox.records import EventFilter
from media_callbacks.inbox.rows import START_CHARACTERS, to_id, to_milliseconds
from media_callbacks.model.identity import job_prefix
from media_callbacks.model.kinds import OPERATIONAL, OUTCOMES, PHASES

# Rows are stored nearly in order of their ids; clocks that differ or are set back may disturb that for this long.
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


_GIVEN_UP_BY = "SELECT sink FROM delivery_counts WHERE state = 'dead'"
# Of each state that is shown, those that delivery_counts has, and whether the sink is active.
_COUNTED: Mapping[str | None, tuple[Sequence[str], bool | None]] = {
    "pending": (["pending"], True),
    "retrying": (["retrying"], True),
    "parked": (["pending", "retrying"], False),
    "dead": (["dead"], None),
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
    since, until = (None if at is None else to_milliseconds(at) for at in (wanted.since, wanted.until))
    return await ids_between(database, "events", since, until)


async def ids_between(
    database: Database, rows: Rows, since: int | None, until: int | None, *, before_id: int | None = None
) -> range:
    """The range of ids that two times leave, of rows that there are."""
    first_id = 0 if since is None else await first_id_at(database, since - _DISORDER_MS, rows=rows)
    last_id = int(await database.fetch_value(f"SELECT coalesce(max(id), 0) FROM {rows}"))
    end_id = min(last_id + 1, to_id(before_id))
    if until is not None:
        end_id = min(end_id, await first_id_at(database, until + _DISORDER_MS, rows=rows))
    return range(first_id, end_id)


async def _find_event(database: Database, event_id: str) -> StoredEvent | None:
    try:
        return await database.find_event(*identity_of(event_id))
    except ValueError:
        return None


async def first_id_at(database: Database, at: int, *, low: int | None = None, rows: Rows = "events") -> int:
    """
    An id below which everything was stored before ``at``, give or take the disorder.

    Args:
        low: It is known not to be below this one.
    """
    following = "(SELECT {} FROM {} WHERE id >= (low + high) / 2 ORDER BY id LIMIT 1)"
    is_before = f"coalesce({following.format(STORED_AT[rows], rows)} < $1, false)"
    # In one statement: PostgreSQL is asked over a network.
    return int(
        await database.fetch_value(
            "WITH RECURSIVE stretch (low, high) AS ("
            f"SELECT coalesce(CAST($2 AS bigint), (SELECT min(id) FROM {rows}), 1),"
            f" (SELECT coalesce(max(id), 0) + 1 FROM {rows})"
            f" UNION ALL SELECT CASE WHEN {is_before} THEN {following.format('id', rows)} + 1 ELSE low END,"
            f" CASE WHEN {is_before} THEN high ELSE (low + high) / 2 END FROM stretch WHERE low < high)"
            " SELECT low FROM stretch WHERE low >= high",
            at,
            low,
        )
    )


def is_by_index(wanted: EventFilter) -> bool:
    """Whether events are found by something that there is little of, and need not be gone through by their ids."""
    return (
        wanted.job_id is not None
        or wanted.media_id is not None
        or wanted.asks_when_given_up
        or wanted.state == "unrouted"
    )


async def find_candidates(database: Database, wanted: EventFilter, ids: range) -> Candidates:
    """The spans of ids that may have events that a filter means."""
    candidates = Candidates(database, "events", ids)
    await candidates.ask("event_spans", product=wanted.product, kind=wanted.kind, outcome=_outcome_number(wanted))
    if wanted.state in _COUNTED:
        states, is_active = _COUNTED[wanted.state]
        await candidates.ask_counts(states, wanted.sink, is_active=is_active)
    elif wanted.sink is not None:
        await candidates.ask("delivery_spans", sink=wanted.sink)
    return candidates


def _outcome_number(wanted: EventFilter) -> int | None:
    if wanted.outcome is None:
        return None
    words: tuple[str, ...] = PHASES if wanted.kind == OPERATIONAL else OUTCOMES
    # One that there is not has no events.
    return words.index(wanted.outcome) if wanted.outcome in words else -1


def compile_filter(
    database: Database, wanted: EventFilter, ids: range, *, by_index: bool = True, is_short: bool = False
) -> Conditions:
    """
    Args:
        ids: Only these, of those that ``find_ids`` returns. There is no other condition about ids: of several, SQLite
            would use one and go through the rest.
        by_index: Gather the events of a state from the indexes of what is not delivered, which costs as much as there
            is of those. Otherwise go through events by their ids and look at the deliveries of each, which suits a
            short range of ids.
        is_short: Instead of each event's, all deliveries in the range are gone through at once.
    """
    by_index = by_index and wanted.event_id is None and wanted.job_id is None
    is_unrouted = wanted.state == "unrouted"
    query = Conditions("events e" + (database.using("events_unrouted") if is_unrouted and by_index else ""))
    first_id, end_id = query.mark(ids.start), query.mark(ids.stop)
    is_by_end = by_index and wanted.asks_when_given_up
    if not is_by_end:
        # With the sign it is an expression that is in no index, so that events are found by what is below.
        column = "e.id" if wanted.job_id is None and not (by_index and wanted.media_id is not None) else "+e.id"
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
    if wanted.media_id is not None and by_index:
        begins = query.mark(wanted.media_id[:START_CHARACTERS])
        query.add(f"e.id IN ({database.ids_named('media_id', f'{{}} = {begins}')})")
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
    outcome = _outcome_number(wanted)
    if outcome is not None:
        query.add("e.outcome = {}", outcome)
    if is_unrouted:
        query.add("NOT e.is_routed")
    if wanted.sink is not None or wanted.state not in (None, "unrouted") or wanted.asks_when_given_up:
        condition = _delivery_condition(query, wanted, by_index=by_index)
        if is_by_end:
            # The range is that of the deliveries, or SQLite would go through all events in it, and so would PostgreSQL.
            # The sinks, because the index has them before the times.
            has_any = "" if wanted.sink is not None else f" AND d.sink IN ({_GIVEN_UP_BY})"
            query.add(
                f"e.id IN (SELECT d.event_id FROM deliveries d{database.using('deliveries_given_up')}"
                f" WHERE d.event_id >= {first_id} AND d.event_id < {end_id}{has_any} AND {condition})"
            )
        elif by_index and wanted.state in ("pending", "retrying", "parked", "dead"):
            query.add(
                f"e.id IN (SELECT d.event_id FROM deliveries d{database.using('deliveries_due')}"
                f" WHERE d.due_at IS NOT NULL AND {condition}"
                f" UNION ALL SELECT d.event_id FROM deliveries d{database.using('deliveries_waiting')}"
                f" WHERE d.due_at IS NULL AND d.state IN ('pending', 'dead') AND {condition})"
            )
        elif is_short:
            query.add(
                f"e.id IN (SELECT d.event_id FROM deliveries d WHERE d.event_id >= {first_id}"
                f" AND d.event_id < {end_id} AND {condition})"
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
