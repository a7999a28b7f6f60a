"""
The operators' edge: who may look (``guard``), what there is to see and what can be steered (``api``).

Nothing is imported here: commands read answers by their models, without the server.
"""
