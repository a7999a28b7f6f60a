"""
Asking the vendor's job APIs, one module per product: which question fits which job, what the answers mean,
and what follows from them (``findings``).

Questions go out through a function that the caller brings; nothing here knows the network, a clock or credentials.
"""
