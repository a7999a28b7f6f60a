"""From the configuration to parts: the only place, with ``app``, that knows both. Opens and starts nothing."""
