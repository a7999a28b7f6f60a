"""What operators list, look at and replay, in any database."""
