-- Times are milliseconds since 1970-01-01 UTC.

-- One row per arrival. `body` is the raw bytes; it goes when the retention period is over.
CREATE TABLE receipts (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    received_at INTEGER NOT NULL,
    source      TEXT    NOT NULL,
    product     TEXT    NOT NULL,
    transport   TEXT    NOT NULL,
    verified_by TEXT    NOT NULL,
    state       TEXT    NOT NULL,   -- accepted, duplicate, unparsed, conflict
    reason      TEXT,
    warnings    TEXT,               -- JSON array of paths
    meta        TEXT,               -- JSON object
    parser      INTEGER NOT NULL,   -- version of the parsers that read it
    event_ids   TEXT,               -- of the events that it brought, first or again, by blanks
    body        BLOB
);

-- One row per (key, outcome), ever. Rowids ascend, so rows are appended. They are narrow, because they outlive their
-- payloads and because lists are read by going through them.
-- The public event id is `evt_` followed by the hexadecimal digits of key_digest and outcome.
CREATE TABLE events (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    key_digest  BLOB    NOT NULL,
    outcome     INTEGER NOT NULL,   -- index into model.kinds.OUTCOMES
    revision    INTEGER NOT NULL,
    receipt_id  INTEGER NOT NULL,   -- the receipt that brought it first
    accepted_at INTEGER NOT NULL,
    product     TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    job_id      TEXT,
    media_id    TEXT,
    is_routed   INTEGER NOT NULL    -- 0 when it matched no sink
);
CREATE INDEX events_unrouted ON events (id) WHERE NOT is_routed;

-- Events by their keys, but for some of the last ones: see inbox/sqlite/keys.py. A digest begins with that of the
-- job id (see model.identity.Key), so that the events of a job are found here, too.
CREATE TABLE event_keys (
    key_digest BLOB    NOT NULL,
    outcome    INTEGER NOT NULL,
    event_id   INTEGER NOT NULL,
    PRIMARY KEY (key_digest, outcome)
) WITHOUT ROWID;
CREATE TRIGGER forget_key AFTER DELETE ON events BEGIN
    DELETE FROM event_keys WHERE key_digest = old.key_digest AND outcome = old.outcome;
END;
-- The events up to this one are all there.
CREATE TABLE keys_moved (last_event_id INTEGER NOT NULL);
INSERT INTO keys_moved VALUES (0);

-- The CloudEvents; a row goes when the retention period is over.
CREATE TABLE event_bodies (
    event_id INTEGER PRIMARY KEY,
    body     TEXT NOT NULL
);

-- Further receipts of an event: duplicates, which may differ in content.
CREATE TABLE event_receipts (
    event_id   INTEGER NOT NULL,
    receipt_id INTEGER NOT NULL,
    PRIMARY KEY (event_id, receipt_id)
) WITHOUT ROWID;

-- The first value seen for a key that may only ever have one, such as the task id of a minted URL.
CREATE TABLE bindings (
    key_digest BLOB NOT NULL PRIMARY KEY,
    value      TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX bindings_by_value ON bindings (value);

-- `due_at` is when the delivery may be claimed: a lease moves it to the lease's end, and it is NULL for what may not
-- be claimed at all: delivered, dead, replaced, or pending behind an earlier outcome of the same job. A delivery is
-- parked when it is pending or retrying and its sink is not active; no row changes for that.
CREATE TABLE deliveries (
    event_id   INTEGER NOT NULL,
    sink       TEXT    NOT NULL,
    replay     INTEGER NOT NULL,    -- 0 for the original
    state      TEXT    NOT NULL,    -- pending, retrying, delivered, dead; replaced: dead, and sent again since
    due_at     INTEGER,
    attempts   INTEGER NOT NULL,
    lease      TEXT,
    changed_at INTEGER NOT NULL,
    error      TEXT,
    PRIMARY KEY (event_id, sink, replay)
) WITHOUT ROWID;
CREATE INDEX deliveries_due ON deliveries (sink, due_at, event_id, state, lease) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_waiting ON deliveries (sink, state) WHERE due_at IS NULL AND state IN ('pending', 'dead');

CREATE TABLE attempts (
    event_id    INTEGER NOT NULL,
    sink        TEXT    NOT NULL,
    replay      INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    result      TEXT    NOT NULL,   -- delivered, retrying, dead, interrupted
    error       TEXT,
    PRIMARY KEY (event_id, sink, replay, started_at, number)
) WITHOUT ROWID;

-- Only sinks that were paused or disabled at some time have a row.
CREATE TABLE sinks (
    name       TEXT    NOT NULL PRIMARY KEY,
    state      TEXT    NOT NULL,    -- active, paused, disabled
    reason     TEXT,
    changed_by TEXT,
    changed_at INTEGER NOT NULL
) WITHOUT ROWID;

-- Events up to `last_event_id` that match the filter are sent again; those up to `cursor` have been.
CREATE TABLE replays (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at    INTEGER NOT NULL,
    changed_at    INTEGER NOT NULL,
    state         TEXT    NOT NULL, -- running, finished, cancelled
    filter        TEXT    NOT NULL, -- JSON object
    sinks         TEXT    NOT NULL, -- JSON array
    rate_per_s    REAL    NOT NULL,
    requested_by  TEXT,
    reason        TEXT,
    total         INTEGER NOT NULL,
    done          INTEGER NOT NULL,
    cursor        INTEGER NOT NULL,
    last_event_id INTEGER NOT NULL,
    next_at       INTEGER NOT NULL  -- not before, so that the rate holds whoever goes on with it
);
CREATE INDEX replays_running ON replays (id) WHERE state = 'running';

-- Written by the readiness check, so that "ready" means that something was made durable just now.
CREATE TABLE heartbeat (beats INTEGER NOT NULL);
INSERT INTO heartbeat VALUES (0);
