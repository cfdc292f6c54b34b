"""Requests that are given to a cached function: does it read what its key says nothing of?

The key leaves a request out, by its type: it is there for `request.app`, to be handed on, or for nothing. A function
that reads more of it, its cookies above all, makes a value that is one visitor's. So it is given a copy that takes
note, and what came of it is not kept.
"""

from __future__ import annotations

import copy
import functools
from typing import Any, Final

from starlette.requests import HTTPConnection

_SAYS_NOTHING: Final = frozenset(
    "type asgi http_version app router endpoint route extensions method scheme root_path app_root_path".split()  # noqa: SIM905
)
"""What of a scope is the same for all who ask for one thing, or is no data of theirs."""

_READ_BEFORE: Final = ("_headers", "_cookies", "_query_params", "_url", "_base_url", "_state", "_path_params")
"""Where Starlette keeps what it has read once."""


_OF_THE_BODY: Final = ("body", "json", "form", "stream", "receive_text", "receive_bytes", "receive_json", "iter_text")
"""What reads of a request or a WebSocket beside its scope, perhaps from where it was put when it was read before."""


class Watch:
    """Takes note of what is read of requests."""

    def __init__(self) -> None:
        self.read: set[str] = set()

    def over(self, value: Any) -> Any:
        """The same, or for a request a copy that takes note."""
        if not isinstance(value, HTTPConnection):
            return value
        watched = copy.copy(value)
        for name in _READ_BEFORE:
            vars(watched).pop(name, None)
        watched.scope = _Scope(value.scope, self)
        watched.__class__ = _reading(type(value))
        vars(watched)["_cache_watch"] = self
        return watched


@functools.cache
def _reading(kind: type[Any]) -> type[Any]:
    """The same type, whose ways to the body take note."""

    def noting(name: str) -> Any:
        original = getattr(kind, name)

        @functools.wraps(original)
        def reads(self: Any, *args: Any, **kwargs: Any) -> Any:
            self._cache_watch.read.add("body")
            return original(self, *args, **kwargs)

        return reads

    ways = {name: noting(name) for name in _OF_THE_BODY if hasattr(kind, name)}
    return type(kind.__name__, (kind,), ways)


class _Scope(dict[str, Any]):
    def __init__(self, scope: Any, watch: Watch) -> None:
        super().__init__(scope)
        self._watch = watch

    def _note(self, name: object) -> None:
        if name not in _SAYS_NOTHING and not (isinstance(name, str) and name.startswith("fastapi")):
            self._watch.read.add(name if isinstance(name, str) else "more")

    def __getitem__(self, name: str) -> Any:
        self._note(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._note(name)
        return super().get(name, default)

    def setdefault(self, name: str, default: Any = None) -> Any:
        self._note(name)
        return super().setdefault(name, default)

    def __iter__(self) -> Any:
        self._note("all of it")
        return super().__iter__()

    def items(self) -> Any:
        self._note("all of it")
        return super().items()

    def values(self) -> Any:
        self._note("all of it")
        return super().values()

    def copy(self) -> dict[str, Any]:
        self._note("all of it")
        return super().copy()

    def pop(self, name: str, *default: Any) -> Any:
        self._note(name)
        return super().pop(name, *default)

    def __or__(self, other: Any) -> Any:
        self._note("all of it")
        return super().__or__(other)

    def __ror__(self, other: Any) -> Any:
        self._note("all of it")
        return super().__ror__(other)
