"""
What an answer costs: the durable path against a bare route and against what people write otherwise, in one run.

    python -m tests.exercises.bench                      all of it (this is ``make bench``)
    python -m tests.exercises.bench accept postgresql    some parts: accept, delivery, isolation, postgresql
    python -m tests.exercises.bench profile              where the time of the durable path goes

Figures of different runs cannot be compared, machines differ and are never quiet: only ratios of measurements that
were taken in turns, on one core, within one run.
"""
