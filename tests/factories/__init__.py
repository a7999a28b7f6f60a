"""What tests have in common: services that run, vendors and consumers that do as told, clocks, tables."""
