"""Asks about what nobody told: pulls queues, and queries the vendor about expected jobs and held events."""
