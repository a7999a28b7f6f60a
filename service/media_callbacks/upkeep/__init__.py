"""Keeps the store in order in the background: removes what is old, watches the clock."""
