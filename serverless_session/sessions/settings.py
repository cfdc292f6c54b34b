"""What a user says about sessions, checked and made ready once. Everything here raises `ConfigurationError`."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final, Literal, NamedTuple

from serverless_session.errors import ConfigurationError
from serverless_session.sessions.cookie import CookieSettings
from serverless_session.sessions.foreign import ForeignCookies
from serverless_session.sessions.lifecycle import Rules

OnStoreFailure = Literal["503", "anonymous", "raise"]

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")


class Settings(NamedTuple):
    """The settings of one `SessionMiddleware`."""

    cookie: CookieSettings
    foreign: ForeignCookies
    rules: Rules
    lazy: bool
    exempt: ExemptPaths
    allowed_origins: Collection[bytes]
    on_store_failure: OnStoreFailure


class ExemptPaths:
    """Paths on which no session is loaded: exact ones, and prefixes that end in `*`."""

    def __init__(self, given: Sequence[str]) -> None:
        paths = tuple(given)
        if isinstance(given, str) or not all(
            isinstance(path, str) and path.startswith("/") and "*" not in path[:-1] for path in paths
        ):
            raise ConfigurationError(
                "bad-exempt",
                "what is exempt is a list of paths, each of which begins with / and may end in *",
                looked_at="exempt=",
                mend='exempt=["/healthz", "/static/*"]',
            )
        self._exact = frozenset(path for path in paths if not path.endswith("*"))
        self._prefixes = tuple(path[:-1] for path in paths if path.endswith("*"))

    def __bool__(self) -> bool:
        return bool(self._exact or self._prefixes)

    def __contains__(self, path: str) -> bool:
        return path in self._exact or path.startswith(self._prefixes)


def checked_origins(given: Sequence[str]) -> frozenset[bytes]:
    """Origins as browsers send them: `https://host`, with a port if it is not the usual one."""
    origins = [] if isinstance(given, str) else [origin.lower() for origin in given]
    if isinstance(given, str) or not all(_ORIGIN.fullmatch(origin) for origin in origins):
        raise ConfigurationError(
            "bad-origin",
            "an allowed origin is a scheme and a host, as browsers send them",
            looked_at="allowed_origins=",
            mend='allowed_origins=["https://app.example.com"], without a path',
        )
    return frozenset(origin.encode() for origin in origins)


def checked_size(given: int) -> int:
    if type(given) is int and given > 0:
        return given
    raise ConfigurationError(
        "bad-size",
        "the size of a session is a number of bytes above 0",
        looked_at="max_session_bytes=",
        mend="max_session_bytes=65_536, its default",
    )


def checked_on_conflict(given: str) -> bool:
    """Are conflicts refused?"""
    if given in ("merge", "error"):
        return given == "error"
    raise ConfigurationError(
        "bad-on-conflict",
        "what is to happen when two requests change the same is unknown",
        looked_at="on_conflict=",
        mend='"merge" (the default) or "error"',
    )


def checked_on_store_failure(given: OnStoreFailure) -> OnStoreFailure:
    if given in ("503", "anonymous", "raise"):
        return given
    raise ConfigurationError(
        "bad-on-store-failure",
        "what is to happen when the store fails is unknown",
        looked_at="on_store_failure=",
        mend='"503" (the default), "anonymous" or "raise"',
    )


def check_switches(**switches: object) -> None:
    """What is on or off is a bool: a text that says "False" would be on."""
    if strange := [f"{name}=" for name, switch in switches.items() if not isinstance(switch, bool)]:
        raise ConfigurationError(
            "bad-switch", "what is on or off is True or False", looked_at=", ".join(strange), mend="True or False"
        )
