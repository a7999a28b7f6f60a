"""Requests of ours to anybody: bounded in what may come back. Nothing about what is asked."""
