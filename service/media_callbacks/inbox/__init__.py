"""Durable, once: keeps every receipt, decides which events are new, hands them out. Others see roles and records."""
