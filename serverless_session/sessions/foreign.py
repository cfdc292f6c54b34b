"""A cookie of our name that another part of the app keeps: in the browser it goes by another name.

Parts that are mounted into an app (admin panels, say) often bring a session middleware of their own, whose cookie has
the same name and path as ours. A browser has one place for the two, so each login would throw the other away. Here what
such a part sets goes out as `NAME-nested`, and comes back in to it under the name that it knows.

Whose a Set-Cookie is, we know: ours is added after the app has spoken. A removal by an app whose request brought no
such second cookie can only mean ours, and is left as it is. Where it brought one, a removal means that, if another
session stands in the place of ours by then; else it may mean either, and both are removed: a logout that logs out of
too much is the smaller mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from serverless_session.sessions.headers import Headers

_SUFFIX: Final = b"-nested"
_BLANK: Final = b" \t"


class ForeignCookies:
    """`name`: of our own cookie."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()
        self._away = self._name + _SUFFIX

    def came_in(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Does the request bring such a cookie?"""
        return any(self._away in content for name, content in headers if name.lower() == b"cookie")

    def inwards(self, headers: Sequence[tuple[bytes, bytes]]) -> Headers:
        """The request's headers as the other part is to see them: its cookie under our name, and ours left out."""
        return [
            (name, self._renamed(content)) if name.lower() == b"cookie" else (name, content)
            for name, content in headers
        ]

    def _renamed(self, content: bytes) -> bytes:
        kept = []
        for pair in content.split(b";"):
            name, equals, value = pair.partition(b"=")
            if equals and name.strip(_BLANK) == self._away:
                kept.append(name.replace(self._away, self._name) + equals + value)
            elif not (equals and name.strip(_BLANK) == self._name):
                kept.append(pair)
        return b";".join(kept).lstrip(_BLANK)

    def outwards(self, headers: Headers, *, came_in: bool, replaced: bool, tell: Callable[[], None]) -> Headers:
        """The app's response headers with its cookie of our name under the other one; `tell` is called for it.

        `replaced`: another session stands in the place of ours.
        """
        sent: Headers = []
        for name, content in headers:
            its_name, _, rest = content.partition(b"=")
            if name.lower() == b"set-cookie" and its_name.strip(_BLANK) == self._name:
                removes = _removes(rest)
                if removes and not (came_in and replaced):
                    sent.append((name, content))
                if came_in or not removes:
                    tell()
                    sent.append((name, self._away + b"=" + rest))
            else:
                sent.append((name, content))
        return sent


def _removes(set_cookie: bytes) -> bool:
    attributes = [part.strip(_BLANK).lower() for part in set_cookie.split(b";")[1:]]
    return any(part.startswith((b"max-age=0", b"max-age=-")) or b"01 jan 1970" in part for part in attributes)
