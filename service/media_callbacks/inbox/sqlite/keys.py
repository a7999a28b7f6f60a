"""
Where SQLite finds events by their keys.

Keys are digests. In an index of them each new event changes a page of its own, which is read, logged, copied back and
flushed; with millions of events that costs more than all their other pages. So the service keeps the keys of the last
events in memory, in the temporary table ``recent_keys``, and moves them to ``event_keys`` in their order, in which many
share a page: a log-structured merge tree of two levels. Both tables are unique by key and outcome. A key moves within a
transaction, and what is rolled back is rolled back in both.

Nothing in memory needs to be saved. It is made anew from ``events``: only rows after ``keys_moved.last_event_id`` may
have keys that were not moved. There other connections find them, too, by going through these rows, which takes some
40 ms when there are most of them.
"""

import sqlite3

# With N of them each round moves 2 N. Of five million stored events, four then share a page. In memory they take 4 MiB.
# At most 4 N are read when the service starts, in half a second.
_MOST_RECENT = 100_000
# Each transaction moves two keys, and one more for so many recent ones. So there are few unless many events share a
# transaction, which is when it would cost too much to move them at once.
_RECENT_PER_MOVE = 2048
# How much longer than necessary other connections may have to look, so that not every event of a quiet service writes
# one more page.
_LEFT_BEHIND = 100
_BEYOND_ALL_KEYS = b"\xff" * 17

# All events up to `known` have their keys in `event_keys` or `recent_keys`, which has so many. The present round has
# moved all keys up to `moved_to`; when it has moved the rest, all events up to `last_event_id` have theirs in the file.
_CREATE = """
CREATE TEMPORARY TABLE recent_keys (
    key_digest BLOB    NOT NULL,
    outcome    INTEGER NOT NULL,
    event_id   INTEGER NOT NULL,
    PRIMARY KEY (key_digest, outcome)
) WITHOUT ROWID;
CREATE TEMPORARY TRIGGER forget_recent AFTER DELETE ON main.events BEGIN
    DELETE FROM recent_keys WHERE key_digest = old.key_digest AND outcome = old.outcome;
END;
CREATE TEMPORARY TABLE round (known INTEGER, recent INTEGER, moved_to BLOB, last_event_id INTEGER);
INSERT INTO temp.round SELECT last_event_id, 0, x'', 0 FROM keys_moved;
"""


def last_event_id(connection: sqlite3.Connection) -> int:
    """Of all that there ever were."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    (last_id,) = row or (0,)
    return int(last_id)


class Keys:
    """
    Where a connection finds events by their keys: here in the file alone, where it has to go through the events whose
    keys have not got there.
    """

    def condition(self, condition: str) -> str:
        """See ``Database.by_key``."""
        return _condition(
            condition, f"SELECT e.id FROM events e WHERE e.id > (SELECT last_event_id FROM keys_moved) AND {condition}"
        )

    def begin(self) -> None:
        """A transaction has begun."""

    def know_new(self) -> None:
        """Events were inserted."""

    def move(self) -> None:
        """A transaction is about to end."""


def _condition(condition: str, further: str) -> str:
    return f"e.id IN (SELECT e.event_id FROM event_keys e WHERE {condition} UNION ALL {further})"


class RecentKeys(Keys):
    """
    The keys of the last events in memory: for the one connection that writes for the service, once.

    A transaction on it begins with ``begin`` and ends with ``move``, and whoever inserts events calls ``know_new``.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # Events of the present transaction.
        self._added = 0
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.executescript(_CREATE)
        self._refresh()
        connection.execute("UPDATE temp.round SET last_event_id = known")

    def condition(self, condition: str) -> str:
        return _condition(condition, f"SELECT e.event_id FROM temp.recent_keys e WHERE {condition}")

    def begin(self) -> None:
        # Other processes may have inserted some.
        self._refresh()
        self._added = 0

    def know_new(self) -> None:
        self._added += self._refresh()

    def _refresh(self) -> int:
        """
        Know all events. Keys that another process has purged stay, without an event; so it is events that are looked
        up, by their keys.

        Returns:
            How many there were.
        """
        connection = self._connection
        (known,) = connection.execute("SELECT known FROM temp.round").fetchone()
        last_id = last_event_id(connection)
        if last_id == known:
            return 0
        added = connection.execute(
            "INSERT OR REPLACE INTO temp.recent_keys SELECT key_digest, outcome, id FROM events WHERE id > ?", (known,)
        ).rowcount
        connection.execute("UPDATE temp.round SET known = ?, recent = recent + ?", (last_id, added))
        return added

    def move(self) -> None:
        """Move the next keys to the file."""
        connection = self._connection
        known, recent, moved_to, last_id = connection.execute("SELECT * FROM temp.round").fetchone()
        if not recent:
            return
        wanted = 2 + recent // _RECENT_PER_MOVE
        if recent > _MOST_RECENT:
            wanted = max(wanted, 2 * self._added)
        next_key = connection.execute(
            "SELECT key_digest FROM temp.recent_keys WHERE key_digest > ? ORDER BY key_digest, outcome"
            " LIMIT 1 OFFSET ?",
            (moved_to, wanted - 1),
        ).fetchone()
        (end,) = next_key or (_BEYOND_ALL_KEYS,)
        between = "WHERE key_digest > ? AND key_digest <= ?"
        # After a restart some are there already.
        connection.execute(
            f"INSERT OR REPLACE INTO event_keys SELECT * FROM temp.recent_keys {between} ORDER BY key_digest, outcome",
            (moved_to, end),
        )
        recent -= connection.execute(f"DELETE FROM temp.recent_keys {between}", (moved_to, end)).rowcount
        if end != _BEYOND_ALL_KEYS:
            connection.execute("UPDATE temp.round SET recent = ?, moved_to = ?", (recent, end))
            return
        # Those that were purged have left without being counted.
        (recent,) = connection.execute("SELECT count(*) FROM temp.recent_keys").fetchone()
        connection.execute(
            "UPDATE keys_moved SET last_event_id = ?1 WHERE last_event_id < ?1 - ?2",
            (last_id if recent else known, _LEFT_BEHIND),
        )
        connection.execute("UPDATE temp.round SET recent = ?, moved_to = x'', last_event_id = known", (recent,))
