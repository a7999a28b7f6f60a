"""Expected jobs and inquiries, in any database. SQL and decisions, no driver."""
