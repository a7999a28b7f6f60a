"""
What becomes of a receipt, in any database: new, duplicate, differing, held. SQL and decisions, no driver. That an event
was there before is found by ``Database.accept_events``: in ``sqlite/events.py``, and on PostgreSQL by the function
``accept_events_2`` in ``sql/003_clock.postgresql.sql``.
"""
