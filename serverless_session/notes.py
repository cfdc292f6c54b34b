"""What the parts of the package tell each other about one request.

One mutable object in the scope: a middleware between that calls the app with a copy of the scope copies the reference,
so what an inner part writes down is still seen by an outer one.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

_PLACE: Final = "serverless_session"


@dataclass(slots=True, repr=False)
class RequestNotes:
    """`live_session`: the request came with a session, so its answer is one visitor's unless the app says otherwise.

    `sessions`: what stands in `scope["session"]`, by the name and path of the cookie that it goes by.
    """

    live_session: bool = False
    sessions: dict[tuple[str, str], Any] = field(default_factory=dict)


def notes_of(scope: MutableMapping[str, Any]) -> RequestNotes:
    """The notes on the request of an ASGI scope."""
    notes: RequestNotes = scope.setdefault(_PLACE, RequestNotes())
    return notes
