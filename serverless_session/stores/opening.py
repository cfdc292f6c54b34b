"""From a URL to a store. Only the chosen store's module, and with it the client library, is ever imported.

Equal URLs with equal options are one store in a process, so they share its connections however many objects name them.
"""

from __future__ import annotations

import threading
from typing import Final

from serverless_session.errors import ConfigurationError, missing_extra
from serverless_session.stores.contract import Store

_SCHEMES: Final = ("memory://", "redis://", "rediss://", "unix://", "memcached://", "memcacheds://")

_EXTRAS: Final = {"redis": "redis", "pymemcache": "memcached"}
"""The client library of each store, and the extra that brings it."""

_open: dict[tuple[str, tuple[tuple[str, object], ...]], Store] = {}
_lock = threading.Lock()


def open_store(url: str, **options: object) -> Store:
    """The store at `url`; the same object for the same URL and options.

    `memory://` (one a process), `redis://`, `rediss://`, `unix://` (Redis or Valkey), `memcached://h1:11211,h2:11211`
    (`memcacheds://` with TLS). `options` are the keyword arguments of the store's constructor. Raises
    `ConfigurationError` for an unknown scheme, a bad address or a client library that is missing, and `TypeError` for
    an option that the store does not have.
    """
    known = (url, tuple(sorted(options.items())))
    with _lock:
        if known not in _open:
            _open[known] = open_anew(url, **options)
        return _open[known]


def missing_client(error: ModuleNotFoundError, what: str) -> Exception:
    """The error that names the extra which brings the client that `what` could not import; or `error`, if none does."""
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRAS:
        return error
    return missing_extra(what, package=package, extra=_EXTRAS[package])


def open_anew(url: str, **options: object) -> Store:
    """A store of its own at `url`, shared with nobody; otherwise as `open_store`."""
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    try:
        match scheme:
            case "memory" if url.lower() == "memory://":
                from serverless_session.stores.memory import MemoryStore

                return MemoryStore(**options)  # type: ignore[arg-type]
            case "redis" | "rediss" | "unix":
                from serverless_session.stores.redis import RedisStore

                return RedisStore(url, **options)  # type: ignore[arg-type]
            case "memcached" | "memcacheds":
                from serverless_session.stores.memcached import MemcachedStore

                return MemcachedStore(url, **options)  # type: ignore[arg-type]
    except ModuleNotFoundError as error:
        raise missing_client(error, f"a store at {scheme}://") from None
    raise ConfigurationError(
        "unknown-store",
        f"there is no store for {scheme + '://' if scheme else 'an address without a scheme'}",
        looked_at="the store's URL (nothing may follow memory://)" if scheme == "memory" else "the store's URL",
        mend="one of " + ", ".join(_SCHEMES) + ", or a Store object of your own",
    )
