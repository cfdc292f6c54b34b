"""Sessions and caches, kept outside of a serverless function and safe under concurrency, for Starlette and FastAPI.

Public names are imported when first used, so `import serverless_session` costs next to nothing, and only what an app
uses is ever loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serverless_session.aws.handler import LambdaHandler
    from serverless_session.caching.cache import Cache
    from serverless_session.caching.context import CacheContext, NotModified
    from serverless_session.caching.policy import CachePolicy
    from serverless_session.caching.stats import CacheStats
    from serverless_session.deadline import Duration
    from serverless_session.errors import ServerlessSessionError
    from serverless_session.sessions.loading import load_session
    from serverless_session.sessions.merge import sum_of_changes
    from serverless_session.sessions.middleware import SessionMiddleware
    from serverless_session.sessions.session import Session
    from serverless_session.shared import SharedState
    from serverless_session.stores.opening import open_store

_HOMES = {
    "Cache": "caching.cache",
    "CacheContext": "caching.context",
    "CachePolicy": "caching.policy",
    "CacheStats": "caching.stats",
    "Duration": "deadline",
    "LambdaHandler": "aws.handler",
    "ServerlessSessionError": "errors",
    "NotModified": "caching.context",
    "Session": "sessions.session",
    "SessionMiddleware": "sessions.middleware",
    "SharedState": "shared",
    "load_session": "sessions.loading",
    "open_store": "stores.opening",
    "sum_of_changes": "sessions.merge",
}

__all__ = [
    "Cache",
    "CacheContext",
    "CachePolicy",
    "CacheStats",
    "Duration",
    "LambdaHandler",
    "NotModified",
    "ServerlessSessionError",
    "Session",
    "SessionMiddleware",
    "SharedState",
    "load_session",
    "open_store",
    "sum_of_changes",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
