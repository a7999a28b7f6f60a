"""The vendor, played: payloads, simulated callbacks, the fake cloud. Never imported by the service."""
