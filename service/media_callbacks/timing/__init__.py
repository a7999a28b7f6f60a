"""Whatever has to do with time passing: the clocks, waiting that tests can replace, when to try again, how fast."""
