"""
The inbox in a SQLite file: one writer, one thread that flushes.

``inbox`` has its life and its operations; ``writer``, ``checkpoints`` and ``reader`` its threads; ``file`` what is on
disk, which ``backup`` and ``copying`` take elsewhere. ``database`` is what shared queries are asked of. What a callback
and its delivery cost is in ``receipts``, ``events`` and ``deliveries``, over ``statements`` and ``keys``.
"""
