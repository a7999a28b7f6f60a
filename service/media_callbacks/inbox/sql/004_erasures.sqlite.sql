-- What was erased of whom, at whose wish. What was asked for is here as a digest alone.
CREATE TABLE erasures (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    erased_at    INTEGER NOT NULL,
    finished_at  INTEGER,           -- NULL while parts of it are to come, or for good when they never came
    matched      TEXT    NOT NULL,  -- job_id, media_id, user_data
    digest       TEXT    NOT NULL,  -- SHA-256 of the value, in hexadecimal digits
    requested_by TEXT,
    reason       TEXT,
    events       INTEGER NOT NULL DEFAULT 0,
    receipts     INTEGER NOT NULL DEFAULT 0,
    held         INTEGER NOT NULL DEFAULT 0,
    jobs         INTEGER NOT NULL DEFAULT 0,
    dead         INTEGER NOT NULL DEFAULT 0,
    undelivered  INTEGER NOT NULL DEFAULT 0
);

-- Events whose content was erased. Their keys stay where they are.
CREATE TABLE erased_events (
    event_id  INTEGER PRIMARY KEY,
    public_id TEXT    NOT NULL,     -- evt_...
    erased_at INTEGER NOT NULL,
    erasure   INTEGER NOT NULL
);
CREATE UNIQUE INDEX erased_events_by_public_id ON erased_events (public_id);

-- A receipt that brings one of them again does not bring its content back. It is not looked at when it is inserted,
-- which would cost all receipts a thirtieth: who inserts one that brings what is known, and has no body, updates it.
CREATE TRIGGER keep_erased AFTER UPDATE OF event_ids ON receipts
WHEN new.event_ids IS NOT NULL AND new.body IS NOT NULL
BEGIN
    UPDATE receipts SET body = NULL, meta = NULL WHERE id = new.id AND EXISTS (
        SELECT 1 FROM json_each('["' || replace(new.event_ids, ' ', '","') || '"]') one
        JOIN erased_events e ON e.public_id = one.value
    );
END;
