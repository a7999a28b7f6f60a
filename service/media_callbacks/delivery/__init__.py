"""Events on their way to sinks: claim, send, record, replay. Knows sinks and inbox by their roles only."""
