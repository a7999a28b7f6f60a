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

-- One row per (key, outcome), ever. Rowids ascend, so payloads are appended and only this one index is random.
-- The public event id is `evt_` followed by the hexadecimal digits of key_digest and outcome.
CREATE TABLE events (
    id          INTEGER PRIMARY KEY,
    key_digest  BLOB    NOT NULL,
    outcome     INTEGER NOT NULL,   -- index into service.events.OUTCOMES
    revision    INTEGER NOT NULL,
    receipt_id  INTEGER NOT NULL,   -- the receipt that brought it first
    accepted_at INTEGER NOT NULL,
    product     TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    job_id      TEXT,
    media_id    TEXT,
    body        TEXT                -- the CloudEvent; NULL once the retention period is over
);
CREATE UNIQUE INDEX events_by_key ON events (key_digest, outcome);

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

-- `due_at` is when the delivery may be claimed: a lease moves it to the lease's end, and it is NULL for what may not
-- be claimed at all: delivered, dead, parked, or pending behind an earlier outcome of the same job.
CREATE TABLE deliveries (
    event_id   INTEGER NOT NULL,
    sink       TEXT    NOT NULL,
    replay     INTEGER NOT NULL,    -- 0 for the original
    state      TEXT    NOT NULL,    -- pending, retrying, delivered, dead, parked
    due_at     INTEGER,
    attempts   INTEGER NOT NULL,
    lease      TEXT,
    changed_at INTEGER NOT NULL,
    error      TEXT,
    PRIMARY KEY (event_id, sink, replay)
) WITHOUT ROWID;
CREATE INDEX deliveries_due ON deliveries (sink, due_at, event_id, state, lease) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_waiting ON deliveries (sink, state) WHERE due_at IS NULL AND state <> 'delivered';

-- Written by the readiness check, so that "ready" means that something was made durable just now.
CREATE TABLE heartbeat (beats INTEGER NOT NULL);
INSERT INTO heartbeat VALUES (0);
