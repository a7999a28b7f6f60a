"""
Durable, once: keeps receipts, decides which events are new, hands them out. Others see its roles and records;
docs/architecture.md has its rooms.
"""
