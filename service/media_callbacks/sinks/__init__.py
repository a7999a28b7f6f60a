"""One small file a bus: from an event to what is sent, and what its answer means. Knows no store and no retry."""
