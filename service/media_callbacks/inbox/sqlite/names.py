"""
Where SQLite finds events by the media ids and the user data that they have.

As with keys (``keys.py``), an index over all events would cost a page for each new one. So where events are accepted
nothing is written; when there are a thousand more, a transaction writes the rows of all of them to ``event_media`` and
``event_user_data``, in their order within a span of ids, in which many share a page. Events up to
``names_noted.last_event_id`` have their rows, as triggers keep them; those after it, some thousand, are gone through.
Nothing is kept in memory, and events that an earlier version accepts are noted like others.
"""

import sqlite3
from collections.abc import Sequence

from media_callbacks.inbox.database import Name
from media_callbacks.inbox.rows import NAME_SPAN_BITS, START_CHARACTERS, spans_down_to
from media_callbacks.inbox.sqlite.keys import last_event_id

# More would be written in fewer pages each, but would hold up a transaction for more than a few milliseconds, and each
# search would go through more.
_GATHERED = 1024
_IS_LATER = "> (SELECT last_event_id FROM names_noted)"
_MEDIA_ID = f"substr(e.media_id, 1, {START_CHARACTERS})"


def note_names(condition: str) -> Sequence[str]:
    """
    The statements that write the rows of events that have none.

    Args:
        condition: On ``id``, which events are meant.
    """
    return (
        (
            f"INSERT OR IGNORE INTO event_media SELECT id >> {NAME_SPAN_BITS}, {_MEDIA_ID}, id FROM events e"
            f" WHERE {condition.format('e.id')} AND e.media_id IS NOT NULL ORDER BY 1, 2, 3"
        ),
        (
            f"INSERT OR IGNORE INTO event_user_data SELECT event_id >> {NAME_SPAN_BITS}, user_data, event_id"
            f" FROM user_data_in_bodies WHERE {condition.format('event_id')} ORDER BY 1, 2, 3"
        ),
    )


_NOTE = note_names("{0} > ?1 AND {0} <= ?2")


def note_gathered(connection: sqlite3.Connection) -> None:
    """A transaction is about to end: note what has gathered, once it is enough."""
    last_id = last_event_id(connection)
    (noted,) = connection.execute("SELECT last_event_id FROM names_noted").fetchone()
    if last_id < noted + _GATHERED:
        return
    # After an earlier version there may be many.
    end = min(last_id, noted + 2 * _GATHERED)
    for statement in _NOTE:
        connection.execute(statement, (noted, end))
    connection.execute("UPDATE names_noted SET last_event_id = ?", (end,))


def ids_named(name: Name, condition: str) -> str:
    """See ``Database.ids_named``."""
    if name == "media_id":
        table, later = "event_media", f"SELECT e.id FROM events e WHERE e.id {_IS_LATER}"
        begins = _MEDIA_ID
    else:
        table, later = (
            "event_user_data",
            f"SELECT e.event_id AS id FROM user_data_in_bodies e WHERE e.event_id {_IS_LATER}",
        )
        begins = "e.user_data"
    return (
        f"{spans_down_to(f'(SELECT min(span) FROM {table})')} {later} AND {condition.format(begins)} UNION ALL"
        f" SELECT n.event_id FROM spans CROSS JOIN {table} n WHERE n.span = spans.n AND {condition.format(f'n.{name}')}"
    )
