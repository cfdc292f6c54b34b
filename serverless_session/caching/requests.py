"""Requests that are given to a cached function: does it read what its key says nothing of?

The key leaves a request out, by its type: it is there for `request.app`, to be handed on, or for nothing. A function
that reads more of it, its cookies above all, makes a value that is one visitor's. So it is given a copy that takes
note, and what came of it is not kept.
"""

from __future__ import annotations

import copy
from typing import Any, Final

from starlette.requests import HTTPConnection

_SAYS_NOTHING: Final = frozenset(
    {
        "type",
        "asgi",
        "http_version",
        "app",
        "router",
        "endpoint",
        "route",
        "extensions",
        "method",
        "scheme",
        "fastapi_astack",
    }
    | {"fastapi_inner_astack", "fastapi_function_astack", "fastapi_middleware_astack", "root_path", "app_root_path"}
)
"""What of a scope is the same for all who ask for one thing, or is no data of theirs."""

_READ_BEFORE: Final = ("_headers", "_cookies", "_query_params", "_url", "_base_url", "_state", "_path_params")
"""Where Starlette keeps what it has read once."""


class Watch:
    """Takes note of what is read of requests."""

    def __init__(self) -> None:
        self.was_read = False

    def over(self, value: Any) -> Any:
        """The same, or for a request a copy that takes note."""
        if not isinstance(value, HTTPConnection):
            return value
        watched = copy.copy(value)
        for name in _READ_BEFORE:
            vars(watched).pop(name, None)
        watched.scope = _Scope(value.scope, self)
        return watched


class _Scope(dict[str, Any]):
    def __init__(self, scope: Any, watch: Watch) -> None:
        super().__init__(scope)
        self._watch = watch

    def _note(self, name: object) -> None:
        if name not in _SAYS_NOTHING and not (isinstance(name, str) and name.startswith("fastapi")):
            self._watch.was_read = True

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
