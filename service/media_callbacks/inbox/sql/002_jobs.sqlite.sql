-- Jobs that somebody has submitted and wants to see the end of. `due_at` is when the vendor is to be asked: a lease moves
-- it to the lease's end, and it is NULL for a job that has ended. An overdue job is one that is expected after its
-- deadline; no row changes for that. `asset` is the digest of product, account, family and media id.
CREATE TABLE jobs (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    key_digest    BLOB    NOT NULL,
    asset         BLOB,
    product       TEXT    NOT NULL,
    account       TEXT    NOT NULL,
    family        TEXT    NOT NULL,
    job_id        TEXT,
    media_id      TEXT,
    nonce         TEXT,
    bind          TEXT,
    user_data     TEXT,
    registered_at INTEGER NOT NULL,
    deadline_at   INTEGER NOT NULL,
    state         TEXT    NOT NULL,     -- expected, completed, healed, unknown
    ended_at      INTEGER,
    transport     TEXT,                 -- these three are of the event that ended it
    event_id      TEXT,
    outcome       TEXT,
    attempts      INTEGER NOT NULL DEFAULT 0,
    notification  TEXT,
    due_at        INTEGER,
    lease         TEXT
);
CREATE UNIQUE INDEX jobs_by_key ON jobs (key_digest);
CREATE INDEX jobs_by_asset ON jobs (asset) WHERE asset IS NOT NULL;
CREATE INDEX jobs_by_job ON jobs (job_id) WHERE job_id IS NOT NULL;
CREATE INDEX jobs_by_time ON jobs (registered_at);
CREATE INDEX jobs_due ON jobs (product, due_at, lease) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_open ON jobs (product, deadline_at, state) WHERE state = 'expected';
CREATE INDEX jobs_awaited ON jobs (id) WHERE state IN ('expected', 'unknown');

-- Events that must not leave before the vendor was asked. They are no events yet: a row is removed when it is decided
-- what becomes of it, and nobody else looks at it until then.
CREATE TABLE held (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    key_digest BLOB    NOT NULL,
    outcome    INTEGER NOT NULL,        -- index into model.kinds.OUTCOMES
    binding    TEXT,
    receipt_id INTEGER NOT NULL,
    product    TEXT    NOT NULL,
    reference  TEXT    NOT NULL,        -- JSON object: the job to ask about
    nameless   TEXT,                    -- JSON object, where the message names no job
    reason     TEXT    NOT NULL,        -- confirm, enrich
    event      TEXT    NOT NULL,        -- the CloudEvent
    sinks      TEXT    NOT NULL,        -- JSON array: where it goes if it leaves
    held_at    INTEGER NOT NULL,
    until      INTEGER NOT NULL,
    due_at     INTEGER NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 0,
    lease      TEXT
);
CREATE INDEX held_by_key ON held (key_digest, outcome, binding);
CREATE INDEX held_by_receipt ON held (receipt_id);
CREATE INDEX held_due ON held (product, due_at);
CREATE INDEX held_by_product ON held (product, held_at);

-- Messages that named no job and were matched with one, by the key that they had; without a job, several may have been
-- meant, and the message gives no event.
CREATE TABLE nameless_keys (
    key_digest BLOB    NOT NULL PRIMARY KEY,
    job        INTEGER,                 -- jobs.id
    matched_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX nameless_keys_by_job ON nameless_keys (job) WHERE job IS NOT NULL;
CREATE INDEX nameless_keys_by_time ON nameless_keys (matched_at);

-- Events of messages that named no job when none was expected. A registration that takes one removes the row.
CREATE TABLE nameless_events (
    event_id    INTEGER NOT NULL PRIMARY KEY,
    asset       BLOB    NOT NULL,
    accepted_at INTEGER NOT NULL
);
CREATE INDEX nameless_events_by_asset ON nameless_events (asset, accepted_at);
CREATE INDEX nameless_events_by_time ON nameless_events (accepted_at);
