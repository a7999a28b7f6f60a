"""Sinks carry events to where consumers read them."""
