"""From the configuration to the sources and sinks that it names; ``app`` makes the rest. Opens and starts nothing."""
