"""Tolerant reading of JSON and XML, within bounds. Knows no product."""
