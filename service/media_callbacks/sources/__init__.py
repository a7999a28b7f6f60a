"""
Pure: from a request to completions. No clock, no network, no store.

``transports`` say whether it is genuine, ``products`` what it means, ``intake`` what is kept of it.
"""
