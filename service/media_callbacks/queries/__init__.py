"""
Asking the vendor's job APIs, one module per product: which question fits which job, and what the answers mean.

Questions go out through a function that the caller brings; nothing here knows the network, a clock or credentials.
"""
