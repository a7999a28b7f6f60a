"""How a message comes, and whether it is genuine. Pure: no clock, no network."""
