"""The last requests that were refused, and when something came through each source."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from media_callbacks.inbox.database import Database
from media_callbacks.inbox.operating.filters import Conditions
from media_callbacks.inbox.records import RefusedDetail, RefusedRecord, RefusedRow, SourceActivity, SourceNews
from media_callbacks.inbox.rows import from_milliseconds, to_id, to_milliseconds

# Of one source, one reason and one cause; of all; and how old they get.
MAX_ALIKE = 20
MAX_REFUSED = 400
MAX_AGE_MS = 7 * 86_400_000
# A gap counts for half after a week: what was usual in spring is not in autumn, and at a weekend the last one is known.
_FADED_AFTER_S = 10 * 86_400
_COLUMNS = "id, refused_at, source, status, reason, cause, detail, job_id"


async def keep(database: Database, refused: Sequence[RefusedRow]) -> None:
    """Keep some more, and no more than the bounds say."""
    await database.execute_many(
        "INSERT INTO refused (refused_at, source, status, reason, cause, detail, job_id, document)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        [
            (
                to_milliseconds(one.refused_at),
                one.source,
                one.status,
                one.reason,
                one.cause,
                one.detail,
                one.job_id,
                one.document,
            )
            for one in refused
        ],
    )
    # The newest of each kind before a second of any: however many kinds a stranger has refused, the others stay.
    await database.execute(
        "DELETE FROM refused WHERE id IN (SELECT id FROM"
        " (SELECT id, row_number() OVER (ORDER BY nth, id DESC) AS place, nth FROM"
        " (SELECT id, row_number() OVER (PARTITION BY source, reason, cause ORDER BY id DESC) AS nth FROM refused) a"
        ") b WHERE nth > $1 OR place > $2)",
        MAX_ALIKE,
        MAX_REFUSED,
    )


async def purge(database: Database, before: int) -> None:
    """Remove what is older than that, and what is older than a week."""
    oldest = max(before, await database.now() - MAX_AGE_MS)
    await database.execute("DELETE FROM refused WHERE refused_at < $1", oldest)


async def list_refused(
    database: Database,
    *,
    source: str | None,
    reason: str | None,
    cause: str | None,
    text: str | None,
    since: datetime | None,
    before_id: int | None,
    limit: int,
) -> tuple[RefusedRecord, ...]:
    query = Conditions("refused")
    query.add("id < {}", to_id(before_id))
    since_ms = None if since is None else to_milliseconds(since)
    for condition, value in (
        ("source = {}", source),
        ("reason = {}", reason),
        ("cause = {}", cause),
        ("refused_at >= {}", since_ms),
    ):
        if value is not None:
            query.add(condition, value)
    if text is not None:
        # There are a few hundred of them. Other than LIKE, it tells capitals apart in every database.
        spelt = [f"replace(document, {query.mark(spelling)}, '') <> document" for spelling in _spellings(text)]
        query.add(f"({' OR '.join(spelt)})")
    rows = await database.fetch(
        f"{query.select(_COLUMNS)} ORDER BY id DESC LIMIT {query.mark(limit)}", *query.parameters
    )
    return tuple(RefusedRecord(row_id, from_milliseconds(at), *rest) for row_id, at, *rest in rows)


def _spellings(text: str) -> tuple[str, str]:
    """How it stands in a document: in a text, and in JSON that is a text there."""
    spelt = json.dumps(text)[1:-1]
    return spelt, json.dumps(spelt)[1:-1]


async def find(database: Database, refused_id: int) -> RefusedDetail | None:
    row = await database.fetch_row(f"SELECT {_COLUMNS}, document FROM refused WHERE id = $1", to_id(refused_id))
    if row is None:
        return None
    row_id, at, *rest, document = row
    return RefusedDetail(RefusedRecord(row_id, from_milliseconds(at), *rest), json.loads(document))


async def forget(database: Database, says: Callable[[bytes], bool]) -> None:
    """Remove those of whom somebody says that they are meant, by what stands in them."""
    rows = await database.fetch("SELECT id, document FROM refused")
    meant = [(row_id,) for row_id, document in rows if says("\n".join(_texts(json.loads(document))).encode())]
    await database.execute_many("DELETE FROM refused WHERE id = $1", meant)


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value of JSON, also as they would stand in one."""
    if isinstance(value, str):
        yield value.encode("utf-8", "replace").decode()
        yield json.dumps(value)
    else:
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        yield from (text for item in items for text in _texts(item))


# Sources


async def note_sources(database: Database, configurations: Mapping[str, str]) -> None:
    """
    These are the sources and how they are configured.

    Args:
        configurations: Hashes by the name of the source.
    """
    now = await database.now()
    await database.execute_many(
        "INSERT INTO source_activity (source, configuration, configured_at, refused_since) VALUES ($1, $2, $3, 0)"
        " ON CONFLICT (source) DO UPDATE SET configuration = excluded.configuration,"
        " configured_at = excluded.configured_at, refused_since = 0"
        " WHERE source_activity.configuration <> excluded.configuration",
        [(name, configuration, now) for name, configuration in sorted(configurations.items())],
    )


async def note_activity(database: Database, news: Sequence[SourceNews]) -> None:
    """Something came, just now."""
    now = await database.now()
    gap = "($1 - coalesce(received_at, configured_at))"
    faded = f"(longest_gap - longest_gap / 1000 * {gap} / {_FADED_AFTER_S})"
    await database.execute_many(
        f"UPDATE source_activity SET longest_gap = CASE WHEN {gap} > {faded} THEN {gap} ELSE {faded} END"
        " WHERE source = $2 AND coalesce(received_at, configured_at) < $1",
        [(now, one.source) for one in sorted(news, key=lambda one: one.source) if one.received],
    )
    await database.execute_many(
        "UPDATE source_activity SET received_at = CASE WHEN $1 > 0 THEN $2 ELSE received_at END,"
        " refused_at = CASE WHEN $3 > 0 THEN $4 ELSE refused_at END,"
        " refused_since = CASE WHEN $5 > 0 THEN 0 ELSE refused_since + $6 END WHERE source = $7",
        [
            (one.received, now, one.refused, now, one.received, one.refused, one.source)
            for one in sorted(news, key=lambda one: one.source)
        ],
    )


async def list_sources(database: Database) -> tuple[SourceActivity, ...]:
    rows = await database.fetch(
        "SELECT source, configured_at, received_at, refused_at, refused_since, longest_gap FROM source_activity"
    )
    return tuple(
        SourceActivity(
            source=source,
            configured_at=from_milliseconds(configured_at),
            received_at=_time(received_at),
            refused_at=_time(refused_at),
            refused_since=refused_since,
            longest_gap=timedelta(milliseconds=longest_gap),
        )
        for source, configured_at, received_at, refused_at, refused_since, longest_gap in sorted(map(tuple, rows))
    )


def _time(at: Any) -> datetime | None:
    return None if at is None else from_milliseconds(at)
