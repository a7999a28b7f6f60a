"""Bytes in, answer out: what the public may ask, how it is read within bounds, and how it is answered."""
