"""
Pure: from a request to what is to be kept of it. No clock, no network, no store.

``transports`` say whether it is genuine, ``products`` what it means, ``intake`` what is kept.
"""
