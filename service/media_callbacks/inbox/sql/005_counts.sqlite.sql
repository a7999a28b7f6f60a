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
