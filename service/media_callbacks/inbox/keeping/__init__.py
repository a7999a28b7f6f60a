"""Migrations, purging and the clock of the store, in any database."""
