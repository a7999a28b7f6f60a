-- What this is for is said in 005_counts.sqlite.sql. Here a row says by how much a count has changed, and a count is
-- the sum of its rows: transactions add rows and never wait for each other. They are folded now and then; see
-- inbox/keeping/counts.py. Services that run since before this migration may have no rights on the table, so triggers
-- have the owner's.
CREATE TABLE delivery_counts (
    sink  text   NOT NULL,
    state text   NOT NULL,
    span  bigint NOT NULL,
    count bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX delivery_counts_by_key ON delivery_counts (sink, state, span);

-- What is written from here on is counted by triggers; nothing is in between.
LOCK TABLE deliveries IN SHARE ROW EXCLUSIVE MODE;
INSERT INTO delivery_counts (sink, state, span, count)
SELECT sink, state, event_id >> 12, count(*) FROM (
    SELECT sink, state, event_id FROM deliveries WHERE due_at IS NOT NULL
    UNION ALL
    SELECT sink, state, event_id FROM deliveries WHERE due_at IS NULL AND state IN ('pending', 'dead')
) AS undelivered GROUP BY 1, 2, 3;

CREATE FUNCTION count_new_deliveries_1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO delivery_counts (sink, state, span, count)
    SELECT sink, state, event_id >> 12, count(*) FROM new_rows WHERE state IN ('pending', 'retrying', 'dead')
    GROUP BY 1, 2, 3;
    RETURN NULL;
END
$$;
CREATE FUNCTION count_changed_deliveries_1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO delivery_counts (sink, state, span, count)
    SELECT sink, state, event_id >> 12, sum(n) FROM (
        SELECT sink, state, event_id, -1 AS n FROM old_rows UNION ALL SELECT sink, state, event_id, 1 FROM new_rows
    ) AS changed
    WHERE state IN ('pending', 'retrying', 'dead')
    GROUP BY 1, 2, 3 HAVING sum(n) <> 0;
    RETURN NULL;
END
$$;
CREATE FUNCTION count_gone_deliveries_1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO delivery_counts (sink, state, span, count)
    SELECT sink, state, event_id >> 12, -count(*) FROM old_rows WHERE state IN ('pending', 'retrying', 'dead')
    GROUP BY 1, 2, 3;
    RETURN NULL;
END
$$;
CREATE TRIGGER count_new_deliveries AFTER INSERT ON deliveries REFERENCING NEW TABLE AS new_rows
FOR EACH STATEMENT EXECUTE FUNCTION count_new_deliveries_1();
CREATE TRIGGER count_changed_deliveries AFTER UPDATE ON deliveries REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
FOR EACH STATEMENT EXECUTE FUNCTION count_changed_deliveries_1();
CREATE TRIGGER count_gone_deliveries AFTER DELETE ON deliveries REFERENCING OLD TABLE AS old_rows
FOR EACH STATEMENT EXECUTE FUNCTION count_gone_deliveries_1();

CREATE INDEX deliveries_retrying ON deliveries (sink, due_at) WHERE state = 'retrying';

CREATE TABLE event_spans (
    span    bigint   NOT NULL,
    product text     NOT NULL,
    kind    text     NOT NULL,
    outcome smallint NOT NULL,
    PRIMARY KEY (span, product, kind, outcome)
);
CREATE TABLE receipt_spans (
    span   bigint NOT NULL,
    source text   NOT NULL,
    state  text   NOT NULL,
    PRIMARY KEY (span, source, state)
);
CREATE TABLE delivery_spans (
    span bigint NOT NULL,
    sink text   NOT NULL,
    PRIMARY KEY (span, sink)
);
CREATE TABLE job_spans (
    span    bigint NOT NULL,
    product text   NOT NULL,
    PRIMARY KEY (span, product)
);
CREATE TABLE spans_noted (
    events   bigint NOT NULL,
    receipts bigint NOT NULL,
    jobs     bigint NOT NULL
);
INSERT INTO spans_noted VALUES (0, 0, 0);
CREATE FUNCTION note_changed_receipt_1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO receipt_spans (span, source, state) VALUES (new.id >> 12, new.source, new.state) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE FUNCTION note_replayed_delivery_1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO delivery_spans (span, sink) VALUES (new.event_id >> 12, new.sink) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_changed_receipt AFTER UPDATE OF state ON receipts FOR EACH ROW
WHEN (old.state <> new.state) EXECUTE FUNCTION note_changed_receipt_1();
CREATE TRIGGER note_replayed_delivery AFTER INSERT ON deliveries FOR EACH ROW
WHEN (new.replay > 0) EXECUTE FUNCTION note_replayed_delivery_1();

-- There are few.
CREATE INDEX jobs_healed ON jobs (id) WHERE state = 'healed';
