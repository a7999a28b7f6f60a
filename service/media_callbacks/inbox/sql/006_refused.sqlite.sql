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
    refused_since   INTEGER NOT NULL    -- how many since something was received
) WITHOUT ROWID;

-- How much came, was refused and was delivered, by minute; of the last day.
CREATE TABLE activity (
    minute  INTEGER NOT NULL,   -- since 1970
    what    TEXT    NOT NULL,   -- received, refused, delivered
    name    TEXT    NOT NULL,   -- of the source or the sink
    count   INTEGER NOT NULL,
    PRIMARY KEY (minute, what, name)
) WITHOUT ROWID;
