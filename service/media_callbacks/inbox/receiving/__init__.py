"""What becomes of a receipt, in any database: new, duplicate, differing, held. SQL and decisions, no driver."""
