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

-- What is known of a job is found by whatever names it: see inbox/operating/lives.py and searches.py.

-- What the vendor was asked, and what it said.
CREATE TABLE answers (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    key_digest  BLOB    NOT NULL,       -- of the expected job, or of the held event
    receipt_id  INTEGER,                -- that is held
    reason      TEXT    NOT NULL,       -- expected, confirm, enrich
    attempt     INTEGER NOT NULL,
    asked_at    INTEGER NOT NULL,
    answered_at INTEGER NOT NULL,
    result      TEXT    NOT NULL,       -- what the vendor said, in one word, and what followed: healing/queries/findings
    decision    TEXT    NOT NULL,
    detail      TEXT,
    event_id    TEXT                    -- evt_..., where one is new by it
);
CREATE INDEX answers_by_key ON answers (key_digest);
CREATE INDEX answers_by_receipt ON answers (receipt_id) WHERE receipt_id IS NOT NULL;
CREATE INDEX answers_by_time ON answers (answered_at);

-- What receipts are about that have brought no event, at least not at once.
CREATE TABLE receipt_keys (
    key_digest BLOB    NOT NULL,
    receipt_id INTEGER NOT NULL,
    PRIMARY KEY (key_digest, receipt_id)
) WITHOUT ROWID;
CREATE INDEX receipt_keys_by_receipt ON receipt_keys (receipt_id);
CREATE TRIGGER forget_receipt_keys AFTER DELETE ON receipts BEGIN
    DELETE FROM receipt_keys WHERE receipt_id = old.id;
END;
CREATE INDEX receipts_in_trouble ON receipts (id) WHERE state IN ('unparsed', 'conflict', 'differing');

-- The beginnings of media ids and of user data that events are found by, in spans of 16384 ids. In one index over all
-- events each new one would change a page of its own; here the rows of some thousand events are written at once, in their
-- order, in which many share a page, and a search looks into each span. Events after `names_noted` have no rows yet, and
-- are gone through: see inbox/sqlite/names.py. Rows go with what they were read of.
CREATE TABLE event_media (
    span     INTEGER NOT NULL,          -- event_id >> 14
    media_id TEXT    NOT NULL,          -- 256 characters
    event_id INTEGER NOT NULL,
    PRIMARY KEY (span, media_id, event_id)
) WITHOUT ROWID;
CREATE TABLE event_user_data (
    span      INTEGER NOT NULL,         -- event_id >> 14
    user_data TEXT    NOT NULL,         -- 256 characters, as they are written in the body
    event_id  INTEGER NOT NULL,
    PRIMARY KEY (span, user_data, event_id)
) WITHOUT ROWID;
CREATE TABLE names_noted (
    last_event_id INTEGER NOT NULL
);
INSERT INTO event_media (span, media_id, event_id)
SELECT id >> 14, substr(media_id, 1, 256), id FROM events WHERE media_id IS NOT NULL;
-- Of two paths SQLite makes an array, in which texts stand as they were written: ["…",null].
CREATE VIEW user_data_in_bodies (event_id, user_data) AS
SELECT event_id, substr(pair, 3, min(256, length(pair) - 9)) FROM (
    SELECT event_id, json_extract(body, '$.data.user_data', '$.none') AS pair FROM event_bodies
    WHERE instr(body, '"user_data":null,') = 0
    AND CASE WHEN json_valid(body) THEN json_type(body, '$.data.user_data') END = 'text'
);
INSERT INTO event_user_data (span, user_data, event_id) SELECT event_id >> 14, user_data, event_id FROM user_data_in_bodies;
INSERT INTO names_noted SELECT coalesce(max(id), 0) FROM events;
CREATE TRIGGER forget_media AFTER DELETE ON events WHEN old.media_id IS NOT NULL BEGIN
    DELETE FROM event_media
    WHERE span = old.id >> 14 AND media_id = substr(old.media_id, 1, 256) AND event_id = old.id;
END;
CREATE TRIGGER note_changed_media AFTER UPDATE OF media_id ON events WHEN old.media_id IS NOT new.media_id BEGIN
    DELETE FROM event_media
    WHERE span = old.id >> 14 AND media_id = substr(old.media_id, 1, 256) AND event_id = old.id;
    INSERT INTO event_media SELECT new.id >> 14, substr(new.media_id, 1, 256), new.id
    WHERE new.media_id IS NOT NULL AND new.id <= (SELECT last_event_id FROM names_noted);
END;
-- Before, while the view has them.
CREATE TRIGGER forget_user_data BEFORE DELETE ON event_bodies WHEN instr(old.body, '"user_data":null,') = 0 BEGIN
    DELETE FROM event_user_data WHERE (span, user_data, event_id) IN (
        SELECT event_id >> 14, user_data, event_id FROM user_data_in_bodies WHERE event_id = old.event_id
    );
END;
CREATE TRIGGER forget_changed_user_data BEFORE UPDATE OF body ON event_bodies BEGIN
    DELETE FROM event_user_data WHERE (span, user_data, event_id) IN (
        SELECT event_id >> 14, user_data, event_id FROM user_data_in_bodies WHERE event_id = old.event_id
    );
END;
CREATE TRIGGER note_changed_user_data AFTER UPDATE OF body ON event_bodies
WHEN new.event_id <= (SELECT last_event_id FROM names_noted)
BEGIN
    INSERT INTO event_user_data
    SELECT event_id >> 14, user_data, event_id FROM user_data_in_bodies WHERE event_id = new.event_id;
END;

-- Who has registered a job: whose token it was, and who he says he is.
ALTER TABLE jobs ADD COLUMN token TEXT;
ALTER TABLE jobs ADD COLUMN requested_by TEXT;
CREATE INDEX jobs_by_nonce ON jobs (nonce) WHERE nonce IS NOT NULL;
CREATE INDEX jobs_by_media ON jobs (media_id) WHERE media_id IS NOT NULL;
CREATE INDEX jobs_by_user_data ON jobs (substr(user_data, 1, 256)) WHERE user_data IS NOT NULL;

-- The last requests that were refused, and why. Nothing in a row can be sent again: signatures, tokens and secret
-- segments of paths are left out.
CREATE TABLE refused (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    refused_at INTEGER NOT NULL,
    source     TEXT    NOT NULL,    -- or none
    status     INTEGER NOT NULL,
    reason     TEXT    NOT NULL,
    cause      TEXT    NOT NULL,    -- what explains it; empty where nothing does
    detail     TEXT    NOT NULL,
    job_id     TEXT,                -- of the job that it would have ended
    document   TEXT    NOT NULL     -- JSON object: the request, and how it was explained
);
CREATE INDEX refused_alike ON refused (source, reason, cause, id);

-- When something came through each source last, as far as any instance has noted it.
CREATE TABLE source_activity (
    source          TEXT    NOT NULL PRIMARY KEY,
    configuration   TEXT    NOT NULL,   -- a hash of its table
    configured_at   INTEGER NOT NULL,   -- since when that is so
    received_at     INTEGER,
    refused_at      INTEGER,
    refused_since   INTEGER NOT NULL,   -- how many since something was received
    longest_gap     INTEGER NOT NULL DEFAULT 0  -- between what was received; it fades
) WITHOUT ROWID;

-- Troubles of the service that somebody sees, or has seen a short while ago: see inbox/keeping/troubles.py.
CREATE TABLE troubles (
    trouble TEXT    NOT NULL,       -- a word of model.operational.TROUBLES
    subject TEXT    NOT NULL,       -- what it is with: a sink, a source, a host
    since   INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,       -- the last time
    told_at INTEGER,                -- NULL as long as it may be nothing
    count   INTEGER NOT NULL,       -- how many times, of what happens and is over
    detail  TEXT,
    PRIMARY KEY (trouble, subject)
) WITHOUT ROWID;

-- What was given up, by when: since when a sink takes nothing, and what to send again.
CREATE INDEX deliveries_given_up ON deliveries (sink, changed_at, event_id) WHERE state = 'dead';

-- For which replay a delivery is made, the last one that asked for it: what has become of a replay.
ALTER TABLE deliveries ADD COLUMN replay_id INTEGER;
CREATE INDEX deliveries_by_replay ON deliveries (replay_id, state) WHERE replay_id IS NOT NULL;

-- How much came, was refused and was delivered, by minute; of the last day.
CREATE TABLE activity (
    minute  INTEGER NOT NULL,   -- since 1970
    what    TEXT    NOT NULL,   -- received, refused, delivered
    name    TEXT    NOT NULL,   -- of the source or the sink
    count   INTEGER NOT NULL,
    PRIMARY KEY (minute, what, name)
) WITHOUT ROWID;

-- How many deliveries have not arrived, by sink and state, so that nobody has to go through them to count them; and in
-- which spans of 4096 ids their events are, so that the oldest is found in one span. The database counts, whichever
-- version of the service writes. Rows that have come down to nothing go later: see inbox/keeping/counts.py.
CREATE TABLE delivery_counts (
    sink  TEXT    NOT NULL,
    state TEXT    NOT NULL,         -- pending, retrying, dead
    span  INTEGER NOT NULL,         -- event_id >> 12
    count INTEGER NOT NULL,
    PRIMARY KEY (sink, state, span)
) WITHOUT ROWID;
INSERT INTO delivery_counts (sink, state, span, count)
SELECT sink, state, event_id >> 12, count(*) FROM (
    SELECT sink, state, event_id FROM deliveries INDEXED BY deliveries_due WHERE due_at IS NOT NULL
    UNION ALL
    SELECT sink, state, event_id FROM deliveries INDEXED BY deliveries_waiting
    WHERE due_at IS NULL AND state IN ('pending', 'dead')
) GROUP BY 1, 2, 3;
-- A delivery is counted when it is made and when it is done. Two statements cost less than one with ON CONFLICT DO
-- UPDATE, and comparisons less than IN.
CREATE TRIGGER count_new_delivery AFTER INSERT ON deliveries WHEN new.state <> 'delivered' AND new.state <> 'replaced'
BEGIN
    INSERT OR IGNORE INTO delivery_counts VALUES (new.sink, new.state, new.event_id >> 12, 0);
    UPDATE delivery_counts SET count = count + 1
    WHERE sink = new.sink AND state = new.state AND span = new.event_id >> 12;
END;
CREATE TRIGGER count_changed_delivery AFTER UPDATE OF state ON deliveries WHEN old.state <> new.state
BEGIN
    UPDATE delivery_counts SET count = count - 1
    WHERE sink = old.sink AND state = old.state AND span = old.event_id >> 12;
    INSERT OR IGNORE INTO delivery_counts
    SELECT new.sink, new.state, new.event_id >> 12, 0 WHERE new.state <> 'delivered' AND new.state <> 'replaced';
    UPDATE delivery_counts SET count = count + 1
    WHERE sink = new.sink AND state = new.state AND span = new.event_id >> 12;
END;
CREATE TRIGGER count_gone_delivery AFTER DELETE ON deliveries WHEN old.state <> 'delivered' AND old.state <> 'replaced'
BEGIN
    UPDATE delivery_counts SET count = count - 1
    WHERE sink = old.sink AND state = old.state AND span = old.event_id >> 12;
END;

-- When something is tried again next: however much is due before.
CREATE INDEX deliveries_retrying ON deliveries (sink, due_at) WHERE state = 'retrying';

-- What there is in spans of 4096 ids, so that a list of what is rare goes through the spans that have some. Rows are made
-- when a span is complete, by whoever keeps them (inbox/keeping/spans.py): what is read of events and receipts here never
-- changes, or a trigger says how, so that nothing is noted where callbacks are stored.
CREATE TABLE event_spans (
    span    INTEGER NOT NULL,       -- events.id >> 12
    product TEXT    NOT NULL,
    kind    TEXT    NOT NULL,
    outcome INTEGER NOT NULL,
    PRIMARY KEY (span, product, kind, outcome)
) WITHOUT ROWID;
CREATE TABLE receipt_spans (
    span   INTEGER NOT NULL,        -- receipts.id >> 12
    source TEXT    NOT NULL,
    state  TEXT    NOT NULL,
    PRIMARY KEY (span, source, state)
) WITHOUT ROWID;
CREATE TABLE delivery_spans (
    span INTEGER NOT NULL,          -- deliveries.event_id >> 12
    sink TEXT    NOT NULL,
    PRIMARY KEY (span, sink)
) WITHOUT ROWID;
CREATE TABLE job_spans (
    span    INTEGER NOT NULL,       -- jobs.id >> 12
    product TEXT    NOT NULL,
    PRIMARY KEY (span, product)
) WITHOUT ROWID;
-- Spans before these were looked at.
CREATE TABLE spans_noted (
    events   INTEGER NOT NULL,
    receipts INTEGER NOT NULL,
    jobs     INTEGER NOT NULL
);
INSERT INTO spans_noted VALUES (0, 0, 0);
CREATE TRIGGER note_changed_receipt AFTER UPDATE OF state ON receipts WHEN old.state <> new.state
BEGIN
    INSERT OR IGNORE INTO receipt_spans VALUES (new.id >> 12, new.source, new.state);
END;
CREATE TRIGGER note_replayed_delivery AFTER INSERT ON deliveries WHEN new.replay > 0
BEGIN
    INSERT OR IGNORE INTO delivery_spans VALUES (new.event_id >> 12, new.sink);
END;

-- There are few.
CREATE INDEX jobs_healed ON jobs (id) WHERE state = 'healed';

-- There is one writer, so that events become visible in the order of their ids. What PostgreSQL needs beside them is in
-- 004_operating.postgresql.sql.
