-- Times are told by the server from here on, and the functions take them from nobody but tests, which say what time it
-- is by `now_at`. What columns and the table mean is said in 003_clock.sqlite.sql.

CREATE TABLE clock (
    seen_at      bigint,
    stepped_from bigint,
    stepped_to   bigint,
    trusted_at   bigint
);
INSERT INTO clock VALUES (NULL, NULL, NULL, NULL);

ALTER TABLE receipts ADD COLUMN stored_at bigint;

CREATE FUNCTION store_now_1() RETURNS bigint LANGUAGE sql VOLATILE
AS $$ SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- As accept_events_1, and besides:
--   now_at: The time; NULL for what it is.
-- What is new is held back by whatever of its key is on its way to the sink, replays included. Returns also the
-- positions of those that were there before and whose content is still kept, with that; and when all this was.
CREATE FUNCTION accept_events_2(
    now_at bigint, locks integer[], e_receipt bigint[], e_digest bytea[], e_outcome smallint[], e_product text[],
    e_kind text[], e_job text[], e_media text[], e_body text[], e_revision_at integer[], e_binding text[],
    e_sinks text[], OUT new_positions integer[], OUT new_revisions integer[], OUT bound text[],
    OUT again_positions integer[], OUT again_bodies text[], OUT stamp bigint
)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    lock integer;
    new_ids bigint[];
    further record;
    due bigint;
BEGIN
    FOREACH lock IN ARRAY locks LOOP
        PERFORM pg_advisory_xact_lock(7105, lock);
    END LOOP;
    due := coalesce(now_at, store_now_1());
    stamp := greatest(due, (SELECT seen_at FROM clock));

    IF cardinality(array_remove(e_binding, NULL)) > 0 THEN
        INSERT INTO bindings (key_digest, value)
        SELECT DISTINCT ON (a.digest) a.digest, a.binding
        FROM unnest(e_digest, e_binding) WITH ORDINALITY AS a (digest, binding, n)
        WHERE a.binding IS NOT NULL
        ORDER BY a.digest, a.n
        ON CONFLICT DO NOTHING;

        bound := ARRAY(
            SELECT b.value
            FROM unnest(e_digest, e_binding) WITH ORDINALITY AS a (digest, binding, n)
            LEFT JOIN bindings b ON b.key_digest = a.digest AND b.value <> a.binding
            ORDER BY a.n
        );
    END IF;

    WITH arrived AS (
        SELECT *
        FROM unnest(
            e_receipt, e_digest, e_outcome, e_product, e_kind, e_job, e_media, e_body, e_revision_at, e_sinks,
            bound
        ) WITH ORDINALITY AS a (
            receipt, digest, outcome, product, kind, job, media, body, revision_at, sinks, bound_to, n
        )
        WHERE a.bound_to IS NULL
    ), first AS (
        SELECT DISTINCT ON (digest, outcome) * FROM arrived ORDER BY digest, outcome, n
    ), unknown AS (
        SELECT *
        FROM first f
        WHERE NOT EXISTS (SELECT FROM events e WHERE e.key_digest = f.digest AND e.outcome = f.outcome)
    ), numbered AS (
        SELECT
            u.*,
            row_number() OVER (PARTITION BY u.digest ORDER BY u.n)
            + coalesce((SELECT max(e.revision) FROM events e WHERE e.key_digest = u.digest), 0) AS revision
        FROM unknown u
        ORDER BY u.n
    ), new AS MATERIALIZED (
        SELECT nextval('events_id_seq') AS id, numbered.* FROM numbered
    ), stored AS (
        INSERT INTO events (
            id, key_digest, outcome, revision, receipt_id, accepted_at, product, kind, job_id, media_id, is_routed
        )
        SELECT id, digest, outcome, revision, receipt, stamp, product, kind, job, media, sinks <> '' FROM new
    ), bodies AS (
        INSERT INTO event_bodies (event_id, body)
        SELECT
            id,
            CASE revision WHEN 1 THEN body ELSE overlay(body PLACING revision::text FROM revision_at FOR 1) END
        FROM new
    ), sent AS (
        INSERT INTO deliveries (event_id, sink, replay, state, due_at, attempts, changed_at)
        SELECT id, sink, 0, 'pending', due, 0, due
        FROM new, unnest(string_to_array(sinks, ' ')) AS sink
        WHERE revision = 1
    )
    SELECT array_agg(n), array_agg(revision), array_agg(id)
    INTO new_positions, new_revisions, new_ids
    FROM new;

    IF 1 < ANY (new_revisions) THEN
        -- Whoever records the end of what is on its way just now holds its row. Wait for it: then it is seen here that
        -- nothing is held back. Whoever does it later waits for us, and then finds what is to be released.
        PERFORM
        FROM deliveries d
        WHERE d.event_id IN (
            SELECT e.id
            FROM unnest(new_positions, new_revisions) AS a (n, revision)
            JOIN events e ON e.key_digest = e_digest[a.n]
            WHERE a.revision > 1
        )
        AND d.due_at IS NOT NULL
        ORDER BY d.event_id, d.sink, d.replay
        FOR SHARE;

        -- One after the other: what holds a further outcome back may be among these.
        FOR further IN
            SELECT a.n, a.id
            FROM unnest(new_positions, new_revisions, new_ids) AS a (n, revision, id)
            WHERE a.revision > 1
            ORDER BY a.id
        LOOP
            INSERT INTO deliveries (event_id, sink, replay, state, due_at, attempts, changed_at)
            SELECT
                further.id, sink, 0, 'pending',
                CASE WHEN NOT EXISTS (
                    SELECT
                    FROM events e
                    JOIN deliveries d ON d.event_id = e.id
                    WHERE e.key_digest = e_digest[further.n] AND e.id <> further.id
                    AND d.sink = names.sink AND d.state IN ('pending', 'retrying')
                ) THEN due END,
                0, due
            FROM unnest(string_to_array(e_sinks[further.n], ' ')) AS names (sink);
        END LOOP;
    END IF;

    IF coalesce(cardinality(new_positions), 0) < cardinality(e_digest) THEN
        INSERT INTO event_receipts (event_id, receipt_id)
        SELECT e.id, a.receipt
        FROM unnest(e_digest, e_outcome, e_receipt, bound) AS a (digest, outcome, receipt, bound_to)
        JOIN events e ON e.key_digest = a.digest AND e.outcome = a.outcome
        WHERE a.bound_to IS NULL AND e.receipt_id <> a.receipt
        ON CONFLICT DO NOTHING;

        SELECT array_agg(a.n), array_agg(b.body)
        INTO again_positions, again_bodies
        FROM unnest(e_digest, e_outcome, bound) WITH ORDINALITY AS a (digest, outcome, bound_to, n)
        JOIN events e ON e.key_digest = a.digest AND e.outcome = a.outcome
        JOIN event_bodies b ON b.event_id = e.id
        WHERE a.bound_to IS NULL AND NOT a.n = ANY (coalesce(new_positions, '{}'));
    END IF;
END
$$;

-- As accept_receipts_1, by accept_events_2. Returns also the ids of the receipts, and what accept_events_2 does.
CREATE FUNCTION accept_receipts_2(
    now_at bigint, locks integer[], r_at bigint[], r_source text[], r_product text[], r_transport text[], r_verified_by text[],
    r_reason text[], r_warnings text[], r_meta text[], r_parser integer[], r_event_ids text[], r_body bytea[],
    e_position integer[], e_digest bytea[], e_outcome smallint[], e_product text[], e_kind text[],
    e_job text[], e_media text[], e_body text[], e_revision_at integer[], e_binding text[], e_sinks text[],
    e_transport text[], OUT states text[], OUT new_positions integer[], OUT new_revisions integer[],
    OUT receipt_ids bigint[], OUT again_positions integer[], OUT again_bodies text[]
)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    stamp bigint;
    bound text[];
    accepted integer[];
    conflicts text[];
    found_positions integer[];
    found_jobs bigint[];
    n integer;
BEGIN
    receipt_ids := ARRAY(SELECT nextval('receipts_id_seq') FROM generate_series(1, cardinality(r_at)));
    IF cardinality(e_position) > 0 THEN
        SELECT a.new_positions, a.new_revisions, a.bound, a.again_positions, a.again_bodies, a.stamp
        INTO new_positions, new_revisions, bound, again_positions, again_bodies, stamp
        FROM accept_events_2(
            now_at, locks,
            ARRAY(SELECT receipt_ids[p] FROM unnest(e_position) WITH ORDINALITY AS a (p, n) ORDER BY a.n),
            e_digest, e_outcome, e_product, e_kind, e_job, e_media, e_body, e_revision_at, e_binding, e_sinks
        ) AS a;
    ELSE
        stamp := greatest(coalesce(now_at, store_now_1()), (SELECT seen_at FROM clock));
    END IF;

    IF new_positions IS NOT NULL THEN
        -- As jobs.end does. OFFSET 0 keeps the planner from going through all open jobs for a few events.
        SELECT array_agg(p.n), array_agg(o.id)
        INTO found_positions, found_jobs
        FROM unnest(new_positions) AS p (n)
        CROSS JOIN LATERAL (
            SELECT j.id FROM jobs j
            WHERE j.key_digest = e_digest[p.n] AND j.state IN ('expected', 'unknown') OFFSET 0
        ) AS o
        WHERE e_outcome[p.n] < 4;
        IF found_jobs IS NOT NULL THEN
            -- The lease stays: who is asking just now may still say what the vendor answered.
            UPDATE jobs j
            SET
                state = 'completed', due_at = NULL, ended_at = stamp, transport = e_transport[f.n],
                event_id = 'evt_' || encode(e_digest[f.n], 'hex') || lpad(to_hex(e_outcome[f.n]::integer), 2, '0'),
                outcome = (ARRAY['succeeded', 'failed', 'partial', 'cancelled'])[e_outcome[f.n] + 1]
            FROM (
                SELECT DISTINCT ON (u.job) u.job, u.n FROM unnest(found_jobs, found_positions) AS u (job, n)
                ORDER BY u.job, u.n
            ) AS f
            WHERE j.id = f.job;
        END IF;
    END IF;

    accepted := ARRAY(SELECT e_position[p] FROM unnest(new_positions) AS p);
    FOR n IN SELECT p FROM unnest(bound) WITH ORDINALITY AS a (value, p) WHERE value IS NOT NULL LOOP
        conflicts[e_position[n]] := format(
            'the key is bound to %s, this receipt says %s', left(bound[n], 64), left(e_binding[n], 64)
        );
    END LOOP;
    states := ARRAY(
        SELECT CASE
            WHEN a.n = ANY (accepted) THEN 'accepted'
            WHEN conflicts[a.n] IS NOT NULL THEN 'conflict'
            WHEN a.event_ids IS NOT NULL THEN 'duplicate'
            ELSE 'unparsed'
        END
        FROM unnest(r_event_ids) WITH ORDINALITY AS a (event_ids, n)
        ORDER BY a.n
    );
    INSERT INTO receipts (
        id, received_at, source, product, transport, verified_by, state, reason, warnings, meta, parser, event_ids,
        body, stored_at
    )
    SELECT
        receipt_ids[a.n], a.at, a.source, a.product, a.transport, a.verified_by, states[a.n], coalesce(conflicts[a.n], a.reason),
        a.warnings, a.meta, a.parser, CASE states[a.n] WHEN 'conflict' THEN NULL ELSE a.event_ids END, a.body,
        stamp
    FROM unnest(
        r_at, r_source, r_product, r_transport, r_verified_by, r_reason, r_warnings, r_meta, r_parser, r_event_ids, r_body
    ) WITH ORDINALITY AS a (
        at, source, product, transport, verified_by, reason, warnings, meta, parser, event_ids, body, n
    )
    ORDER BY a.n;
END
$$;

-- Write down what attempts came to. One element of each array for each attempt. Attempts are kept even where the lease
-- was lost, as `late`: something was sent, and what becomes of the delivery is up to whoever has it now.
-- Returns the positions of those whose lease was still held, and the sinks where something waited for one of these.
CREATE FUNCTION record_attempts_2(
    now_at bigint, a_event bigint[], a_sink text[], a_replay integer[], a_lease text[], a_state text[],
    a_delay bigint[], a_error text[], a_started bigint[], a_duration integer[], a_number integer[],
    OUT kept integer[], OUT released text[]
)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    at bigint;
BEGIN
    -- First all locks, in the order in which everybody takes them.
    PERFORM
    FROM unnest(a_event, a_sink, a_replay, a_lease) AS a (event, sink, replay, lease)
    JOIN deliveries d ON d.event_id = a.event AND d.sink = a.sink AND d.replay = a.replay AND d.lease = a.lease
    ORDER BY d.event_id, d.sink, d.replay
    FOR UPDATE OF d;
    at := coalesce(now_at, store_now_1());

    WITH updated AS (
        -- A delivery given back is what it was before: pending, or retrying after earlier attempts.
        UPDATE deliveries d
        SET
            state = CASE
                WHEN a.state = 'pending' THEN d.state
                WHEN a.state = 'dead' AND EXISTS (
                    SELECT FROM deliveries l WHERE l.event_id = a.event AND l.sink = a.sink AND l.replay > a.replay
                ) THEN 'replaced'
                ELSE a.state
            END,
            due_at = CASE a.state WHEN 'pending' THEN at WHEN 'retrying' THEN at + a.delay END,
            lease = NULL,
            attempts = d.attempts + CASE a.state WHEN 'pending' THEN 0 ELSE 1 END,
            changed_at = at,
            error = CASE a.state WHEN 'pending' THEN d.error ELSE a.error END
        FROM (
            SELECT DISTINCT ON (event, sink, replay) *
            FROM unnest(a_event, a_sink, a_replay, a_lease, a_state, a_delay, a_error) WITH ORDINALITY
            AS u (event, sink, replay, lease, state, delay, error, n)
            ORDER BY event, sink, replay, n
        ) AS a
        WHERE d.event_id = a.event AND d.sink = a.sink AND d.replay = a.replay AND d.lease = a.lease
        RETURNING a.n
    )
    SELECT array_agg(n) INTO kept FROM updated;

    -- What is recorded twice, because the answer to the first time was lost, is late the second time and changes
    -- nothing.
    INSERT INTO attempts (event_id, sink, replay, started_at, number, duration_ms, result, error)
    SELECT DISTINCT ON (a.event, a.sink, a.replay, a.started)
        a.event, a.sink, a.replay, a.started, a.number, a.duration,
        CASE
            WHEN a.state = 'pending' THEN 'interrupted'
            WHEN a.n = ANY (kept) THEN a.state
            ELSE 'late'
        END,
        CASE WHEN a.state = 'delivered' AND NOT coalesce(a.n = ANY (kept), false) THEN 'delivered after its lease was lost' ELSE a.error END
    FROM unnest(a_event, a_sink, a_replay, a_state, a_error, a_started, a_duration, a_number) WITH ORDINALITY
    AS a (event, sink, replay, state, error, started, duration, number, n)
    JOIN deliveries d ON d.event_id = a.event AND d.sink = a.sink AND d.replay = a.replay
    WHERE a.started IS NOT NULL
    ORDER BY a.event, a.sink, a.replay, a.started, a.n
    ON CONFLICT DO NOTHING;

    -- Of each key that something has ended of, the next one may go, unless another is on its way: one at a time, those
    -- of the earliest event first.
    IF EXISTS (
        SELECT FROM deliveries w
        WHERE w.sink = ANY (a_sink) AND w.due_at IS NULL AND w.state IN ('pending', 'dead') AND w.state = 'pending'
    ) THEN
        WITH let_go AS (
            UPDATE deliveries d
            SET due_at = at
            FROM (
                SELECT DISTINCT ON (ended.key_digest, ended.sink) w.event_id, w.sink, w.replay
                FROM (
                    SELECT DISTINCT e.key_digest, a_sink[k.n] AS sink
                    FROM unnest(kept) AS k (n)
                    JOIN events e ON e.id = a_event[k.n]
                    WHERE a_state[k.n] IN ('delivered', 'dead')
                ) AS ended
                JOIN events e ON e.key_digest = ended.key_digest
                JOIN deliveries w ON w.event_id = e.id AND w.sink = ended.sink AND w.state = 'pending'
                AND w.due_at IS NULL
                WHERE NOT EXISTS (
                    SELECT
                    FROM events o
                    JOIN deliveries b ON b.event_id = o.id
                    WHERE o.key_digest = ended.key_digest AND b.sink = ended.sink AND b.due_at IS NOT NULL
                )
                ORDER BY ended.key_digest, ended.sink, w.event_id
            ) AS next
            WHERE d.event_id = next.event_id AND d.sink = next.sink AND d.replay = next.replay AND d.due_at IS NULL
            RETURNING d.sink
        )
        SELECT array_agg(DISTINCT sink) INTO released FROM let_go;
    END IF;
END
$$;

-- As claim_deliveries_1, for so long from now on.
CREATE FUNCTION claim_deliveries_2(
    sink_name text, now_at bigint, lease_ms integer, lease_token text, how_many integer,
    OUT event_id bigint, OUT replay integer, OUT attempts integer, OUT key_digest bytea, OUT outcome smallint,
    OUT body text
)
RETURNS SETOF record
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    at bigint := coalesce(now_at, store_now_1());
BEGIN
    RETURN QUERY
    WITH due AS (
        SELECT d.event_id, d.replay, d.due_at
        FROM deliveries d
        WHERE d.sink = sink_name AND d.due_at <= at
        AND NOT EXISTS (SELECT FROM sinks s WHERE s.name = sink_name AND s.state <> 'active')
        ORDER BY d.due_at, d.event_id
        LIMIT how_many
        FOR UPDATE OF d SKIP LOCKED
    ), leased AS (
        UPDATE deliveries d
        SET due_at = at + lease_ms, lease = lease_token
        FROM due
        WHERE d.event_id = due.event_id AND d.sink = sink_name AND d.replay = due.replay
        RETURNING d.event_id, d.replay, d.attempts, due.due_at
    )
    SELECT l.event_id, l.replay, l.attempts, e.key_digest, e.outcome, b.body
    FROM leased l
    JOIN events e ON e.id = l.event_id
    JOIN event_bodies b ON b.event_id = l.event_id
    ORDER BY l.due_at, l.event_id;
END
$$;
