"""
The operators' edge: who may look (``guard``), what there is to see and what can be steered (``events``, ``receipts``,
``feed``, ``replays``, ``erasures``, ``sinks``, ``jobs`` with their report, ``monitoring``), and the application and the
document that are made of it (``api``).

Nothing is imported here: commands read answers by their models, without the server.
"""
