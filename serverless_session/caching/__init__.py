"""Caches of values. Not public yet."""
