"""Stores and their contract. `contract` is what features and stores share; each store is imported only when chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serverless_session.stores.contract import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Expect,
    Expected,
    Failed,
    Found,
    Limits,
    Missing,
    Operation,
    Outcome,
    Read,
    Store,
    Version,
    Write,
    Written,
    new_version,
    refuse_repeated_keys,
)

if TYPE_CHECKING:
    from serverless_session.stores.memcached import MemcachedStore
    from serverless_session.stores.memory import MemoryStore
    from serverless_session.stores.opening import open_store
    from serverless_session.stores.redis import RedisStore

_LAZY = {"MemcachedStore": "memcached", "MemoryStore": "memory", "RedisStore": "redis", "open_store": "opening"}

__all__ = [
    "ABSENT",
    "ANYTHING",
    "Conflict",
    "Delete",
    "Deleted",
    "Expect",
    "Expected",
    "Failed",
    "Found",
    "Limits",
    "MemcachedStore",
    "MemoryStore",
    "Missing",
    "Operation",
    "Outcome",
    "Read",
    "RedisStore",
    "Store",
    "Version",
    "Write",
    "Written",
    "new_version",
    "open_store",
    "refuse_repeated_keys",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    except ModuleNotFoundError as error:
        from serverless_session.stores.opening import missing_client

        raise missing_client(error, name) from None
    globals()[name] = value
    return value
