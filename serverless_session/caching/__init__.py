"""Caches of values: `Cache`, `CachePolicy`, `CacheContext`."""
