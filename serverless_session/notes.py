"""What the parts of the package tell each other about one request.

One mutable object in the scope: a middleware between that calls the app with a copy of the scope copies the reference,
so what an inner part writes down is still seen by an outer one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

_PLACE: Final = "serverless_session"


class RequestNotes:
    """`live_session`: the request came with a session, so its answer is one visitor's unless the app says otherwise.

    `owed_cookies`: of each part, the Set-Cookie values for what is saved already, in case no answer of the app leaves.
    `last_wishes`: what must be done even if the app is never heard of again, as the ending of a session.
    `sessions`: what stands in `scope["session"]`, by the name and path of the cookie that it goes by. `taken`: the
    secrets of the ids that the request's cookies carry, as far as a session middleware has looked at them.
    """

    __slots__ = ("last_wishes", "live_session", "owed_cookies", "sessions", "taken")

    def __init__(self) -> None:
        self.live_session = False
        self.owed_cookies: list[Callable[[], list[bytes]]] = []
        self.last_wishes: list[Callable[[], Awaitable[None]]] = []
        self.sessions: dict[tuple[str, str], Any] = {}
        self.taken: set[bytes] = set()


def notes_of(scope: MutableMapping[str, Any]) -> RequestNotes:
    """The notes on the request of an ASGI scope."""
    notes: RequestNotes = scope.setdefault(_PLACE, RequestNotes())
    return notes
