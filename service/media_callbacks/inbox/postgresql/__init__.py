"""
The inbox in PostgreSQL, shared by any number of instances.

``inbox`` has its life and its operations; ``writer`` and ``news`` its tasks; ``connecting``, ``schema`` and ``driver``
what is to be known of the server. ``database`` is what shared queries are asked of. What a callback and its delivery
cost is in functions of the database (``inbox/sql/``), which ``receipts`` and ``functions`` speak to.
"""
