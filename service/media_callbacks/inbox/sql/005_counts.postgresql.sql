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
