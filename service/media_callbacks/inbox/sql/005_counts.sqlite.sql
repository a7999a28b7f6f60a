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
-- Two statements cost less than one with ON CONFLICT DO UPDATE: a delivery is counted when it is made and when it is done.
CREATE TRIGGER count_new_delivery AFTER INSERT ON deliveries WHEN new.state IN ('pending', 'retrying', 'dead')
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
    SELECT new.sink, new.state, new.event_id >> 12, 0 WHERE new.state IN ('pending', 'retrying', 'dead');
    UPDATE delivery_counts SET count = count + 1
    WHERE sink = new.sink AND state = new.state AND span = new.event_id >> 12;
END;
CREATE TRIGGER count_gone_delivery AFTER DELETE ON deliveries WHEN old.state IN ('pending', 'retrying', 'dead')
BEGIN
    UPDATE delivery_counts SET count = count - 1
    WHERE sink = old.sink AND state = old.state AND span = old.event_id >> 12;
END;

-- When something is tried again next: however much is due before.
CREATE INDEX deliveries_retrying ON deliveries (sink, due_at) WHERE state = 'retrying';
