"""The inbox in PostgreSQL, shared by any number of instances."""
