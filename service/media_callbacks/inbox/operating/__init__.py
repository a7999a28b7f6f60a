"""What operators list, look at, replay and erase, and the states of sinks, in any database."""
