-- In which order events are shown to those who follow them. Ids are drawn before a transaction commits, so that a lower
-- one may become visible after a higher one; who has gone past it would never see it. So events are shown in the order
-- of the transactions that accepted them, and only those below which no transaction is open any more.

-- NULL for what was there before. Its default is given afterwards, so that no row is written anew; it is the server that
-- fills it in, whichever version of the service accepts the event.
ALTER TABLE events ADD COLUMN xid bigint;
ALTER TABLE events ALTER COLUMN xid SET DEFAULT pg_current_xact_id()::text::bigint;
CREATE INDEX events_by_transaction ON events (xid, id) WHERE xid IS NOT NULL;

-- Transactions are counted by each server for itself. Events up to `by_id_until` were accepted when the tables were
-- elsewhere, or before there was the column: all of that is over, and they come first, in the order of their ids.
--   server: Whose transactions are counted beyond; NULL when that is not known yet.
CREATE TABLE feed (
    by_id_until bigint NOT NULL,
    server      bigint
);
INSERT INTO feed VALUES (0, NULL);
