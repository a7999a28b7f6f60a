"""
The service, simulated: ``python -m tests.exercises.simulation``.

The service's own dispatcher, replayer, reconciler, queue poller, edge, inbox on SQLite, retention and clock watch run on
an event loop whose time is virtual, with threads that are none, a disk that forgets what was not flushed, and a vendor
and receivers that fail, lie and dawdle. All of it is drawn from a seed, so a seed that fails does so again, tells its
story in plain words, and is made smaller until only what matters is left.

What each does, from below: ``loop`` time, and who is dead; ``machine`` threads, disk and clocks of a computer; ``vendor``
and ``receivers`` the world around it; ``service`` the parts as they meet in ``media_callbacks.app``; ``plan`` what a seed
means; ``run`` what becomes of it; ``ledger`` what must be true; ``shrinking`` and ``mutants`` what it is worth.
"""
