"""The inbox in a SQLite file: one writer, one thread that flushes."""
