"""From the configuration to the parts that it names. Opens and starts nothing."""
