"""
Everything breaks while callbacks come in, and in the end nothing may be missing: ``python -m tests.exercises.chaos``.

A real nginx with the configuration of deploy/ stands in front of several real services on one real PostgreSQL, each
with a journal of its own. The vendor is played as it behaves: it tries a callback a few times within seconds and gives
up. What happens meanwhile is drawn from a seed; when exactly it hits, the machine decides.
"""
