-- When the store's clock was seen last, and a step forward that is doubted: see inbox/keeping/clock.py.
CREATE TABLE clock (
    seen_at      INTEGER,
    stepped_from INTEGER,
    stepped_to   INTEGER,
    trusted_at   INTEGER
);
INSERT INTO clock VALUES (NULL, NULL, NULL, NULL);

-- By the store's clock, as `events.accepted_at` is from now on; `received_at` is by that of the instance. NULL in rows
-- that are older than this column.
ALTER TABLE receipts ADD COLUMN stored_at INTEGER;
