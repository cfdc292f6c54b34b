"""The visitor's browser, as far as sessions see it: a jar of cookies, filled and emptied by Set-Cookie."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

SESSION_COOKIE: Final = "session"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCookie:
    """One Set-Cookie: `attributes` with lower-case names, "" for those without a value."""

    name: str
    value: str = field(repr=False)
    attributes: dict[str, str]

    @classmethod
    def of(cls, line: str) -> SetCookie:
        """What a Set-Cookie line says (RFC 6265, section 5.2)."""
        pair, *rest = line.split(";")
        name, _, value = pair.partition("=")
        attributes = {}
        for attribute in rest:
            its_name, _, its_value = attribute.partition("=")
            attributes[its_name.strip().lower()] = its_value.strip()
        return cls(name=name.strip(), value=value.strip(), attributes=attributes)

    @property
    def removes(self) -> bool:
        """Its life is over before it begins; Max-Age counts before Expires."""
        if "max-age" in self.attributes:
            return int(self.attributes["max-age"]) <= 0
        if "expires" in self.attributes:
            return email.utils.parsedate_to_datetime(self.attributes["expires"]).timestamp() <= time.time()
        return False


class Browser:
    """A jar of one site's cookies."""

    def __init__(self) -> None:
        self._jar: dict[str, str] = {}

    def take(self, cookies: Iterable[SetCookie]) -> None:
        """Do what an answer's cookies say, in their order."""
        for cookie in cookies:
            if cookie.removes:
                self._jar.pop(cookie.name, None)
            else:
                self._jar[cookie.name] = cookie.value

    @property
    def cookies(self) -> tuple[str, ...]:
        """What goes along with the next request, `name=value` each."""
        return tuple(f"{name}={value}" for name, value in self._jar.items())

    @property
    def session_id(self) -> str | None:
        """The value of the session's cookie."""
        return self._jar.get(SESSION_COOKIE)
