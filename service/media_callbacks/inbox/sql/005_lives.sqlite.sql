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

-- The beginning of the user data of events that have some, as it is written in their bodies. In one index over all
-- events each new one would change a page of its own; in spans of 1024 ids a few pages are changed again and again, and
-- a search looks into each span. The same of media ids. Rows go with the bodies, by what these say.
CREATE TABLE event_user_data (
    span      INTEGER NOT NULL,         -- event_id >> 10
    user_data TEXT    NOT NULL,         -- 256 characters
    event_id  INTEGER NOT NULL,
    PRIMARY KEY (span, user_data, event_id)
) WITHOUT ROWID;
-- Of two paths SQLite makes an array, in which texts stand as they were written: ["…",null].
CREATE TRIGGER forget_user_data AFTER DELETE ON event_bodies
WHEN instr(old.body, '"user_data":null,') = 0
AND CASE WHEN json_valid(old.body) THEN json_type(old.body, '$.data.user_data') END = 'text'
BEGIN
    DELETE FROM event_user_data WHERE span = old.event_id >> 10 AND event_id = old.event_id AND user_data = (
        SELECT substr(pair, 3, min(256, length(pair) - 9))
        FROM (SELECT json_extract(old.body, '$.data.user_data', '$.none') AS pair)
    );
END;
INSERT INTO event_user_data (span, user_data, event_id)
SELECT event_id >> 10, substr(pair, 3, min(256, length(pair) - 9)), event_id FROM (
    SELECT event_id, json_extract(body, '$.data.user_data', '$.none') AS pair FROM event_bodies
    WHERE instr(body, '"user_data":null,') = 0
    AND CASE WHEN json_valid(body) THEN json_type(body, '$.data.user_data') END = 'text'
);
CREATE INDEX events_by_media ON events (id >> 10, substr(media_id, 1, 256)) WHERE media_id IS NOT NULL;

-- Who has registered a job: whose token it was, and who he says he is.
ALTER TABLE jobs ADD COLUMN token TEXT;
ALTER TABLE jobs ADD COLUMN requested_by TEXT;
CREATE INDEX jobs_by_nonce ON jobs (nonce) WHERE nonce IS NOT NULL;
CREATE INDEX jobs_by_media ON jobs (media_id) WHERE media_id IS NOT NULL;
CREATE INDEX jobs_by_user_data ON jobs (substr(user_data, 1, 256)) WHERE user_data IS NOT NULL;
