"""The session's id and the cookie that carries it: bytes in, bytes out.

An id is 256 random bits with the key id of the secret that made it and an 8-byte MAC, so a made-up id is turned away
without a trip to the store. It never stands in the store: only a hash of its random part does.

The Cookie header is parsed here, from its bytes: only spaces and tabs are trimmed and names are compared byte for byte,
because what `str.strip` also removes (\\xa0, \\x85, \\x0b, ...) lets a sibling domain plant a `__Host-` name. Several
different valid ids under our name count as none.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import string
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from serverless_session.codec.keys import KEY_ID_BYTES, KeyRing
from serverless_session.codec.sealing import length_prefixed
from serverless_session.errors import ConfigurationError

_VERSION: Final = b"\x01"
_RANDOM_BYTES: Final = 32
_MAC_BYTES: Final = 8
_ID_CHARACTERS: Final = 60  # base64 of 1 + 4 + 32 + 8 bytes, without padding
_PURPOSE: Final = "session id"

_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")  # RFC 9110
_DOMAIN: Final = frozenset(string.ascii_letters + string.digits + "-.")
_ATTRIBUTE: Final = frozenset(map(chr, range(0x20, 0x7F))) - {";"}  # RFC 6265, path-value


class SessionId(NamedTuple):
    """A genuine id. `text` goes into the cookie and nowhere else; `secret` addresses the record."""

    text: str
    secret: bytes

    def __repr__(self) -> str:
        return "SessionId()"  # no log can show one


class IdMaker:
    """Makes and recognises the ids of one app (its namespace)."""

    def __init__(self, ring: KeyRing, namespace: str) -> None:
        self._ring = ring
        self._namespace = namespace.encode()

    def new(self) -> SessionId:
        """A new id, straight from the system's randomness."""
        return self._signed(os.urandom(_RANDOM_BYTES))

    def recognise(self, value: bytes) -> SessionId | None:
        """The id that a cookie's value is, or None if we have not made it (or its key has left the ring).

        Its text is always one of the key that seals now, so a cookie that is sent again outlives the key it came with.
        """
        if len(value) != _ID_CHARACTERS:
            return None
        try:
            raw = base64.b64decode(value, altchars=b"-_", validate=True)
        except binascii.Error:
            return None
        signed, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        head, secret = signed[: 1 + KEY_ID_BYTES], signed[1 + KEY_ID_BYTES :]
        if head[:1] != _VERSION or head[1:] not in self._ring or not hmac.compare_digest(mac, self._mac(signed)):
            return None
        return SessionId(value.decode("ascii"), secret) if head[1:] == self._ring.sealing_id else self._signed(secret)

    def _signed(self, secret: bytes) -> SessionId:
        signed = _VERSION + self._ring.sealing_id + secret
        return SessionId(base64.urlsafe_b64encode(signed + self._mac(signed)).decode("ascii"), secret)

    def _mac(self, signed: bytes) -> bytes:
        key = self._ring.key(signed[1 : 1 + KEY_ID_BYTES], _PURPOSE)
        return hmac.digest(key, length_prefixed(self._namespace) + signed, "sha256")[:_MAC_BYTES]


def cookie_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Every value that the request's Cookie headers give to `name`, in order."""
    values = []
    for header, content in headers:
        if header.lower() != b"cookie":
            continue
        for pair in content.split(b";"):
            its_name, equals, value = pair.partition(b"=")
            if equals and its_name.strip(b" \t") == name:
                values.append(value.strip(b" \t"))
    return values


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CookieSettings:
    """How our cookie is set and removed. `https_only=None`: Secure whenever the request came over https.

    And always, where a browser would drop the cookie otherwise.
    """

    name: str
    path: str
    same_site: Literal["lax", "strict", "none"]
    https_only: bool | None
    domain: str | None
    partitioned: bool

    def __post_init__(self) -> None:
        if not self.name or not _TOKEN.issuperset(self.name):
            raise _bad_cookie("the cookie's name is no HTTP token", "session_cookie=", 'session_cookie="session"')
        if self.same_site not in ("lax", "strict", "none"):
            raise _bad_cookie("the cookie's SameSite is unknown", "same_site=", '"lax", "strict" or "none"')
        if not self.path.startswith("/") or not _ATTRIBUTE.issuperset(self.path):
            raise _bad_cookie("the cookie's path is no path", "path=", 'path="/"')
        if self.domain is not None and not (self.domain and _DOMAIN.issuperset(self.domain)):
            raise _bad_cookie("the cookie's domain is no domain", "domain=", 'domain="example.com", or nothing')
        if self.https_only not in (None, True, False):
            raise _bad_cookie(
                "https_only is neither True, False nor None", "https_only=", "https_only=None, its default"
            )
        self._check_prefix()
        if self.https_only is False and (self.same_site == "none" or self.partitioned):
            what = "a cookie for other sites' pages (SameSite=none, Partitioned) must be Secure, or browsers drop it"
            raise _bad_cookie(what, "same_site=, partitioned=, https_only=", "https_only=None, its default, or True")
        if self.same_site == "none" or self.partitioned or self._prefix is not None:
            self.https_only = True  # whatever a proxy has made of the scheme

    @property
    def slot(self) -> tuple[str, str]:
        """What tells our cookies apart in a browser."""
        return self.name, self.path

    @property
    def _prefix(self) -> str | None:
        return next((prefix for prefix in ("__host-", "__secure-") if self.name.lower().startswith(prefix)), None)

    def _check_prefix(self) -> None:
        """Browsers drop, without a word, a cookie whose name promises what its attributes do not keep (RFC 6265bis)."""
        if self._prefix is not None and self.https_only is False:
            raise _bad_cookie("a cookie of that name must be Secure", "session_cookie=, https_only=", "https_only=True")
        if self._prefix == "__host-" and (self.path != "/" or self.domain is not None):
            mend = 'path="/" and no domain, or a name that begins with __Secure-'
            raise _bad_cookie("a __Host- cookie has no domain and the path /", "session_cookie=, path=, domain=", mend)

    def set(self, value: str, max_age: int | None, *, https: bool) -> bytes:
        """The Set-Cookie value that stores `value`; `max_age`: seconds, None for a cookie of the browser's session."""
        age = f"Max-Age={max_age}; " if max_age is not None else ""
        return f"{self.name}={value}; path={self.path}; {age}{self._attributes(https)}".encode("latin-1")

    def remove(self, *, https: bool) -> bytes:
        """The Set-Cookie value that removes the cookie; it repeats every attribute, or some browsers keep it."""
        expires = "expires=Thu, 01 Jan 1970 00:00:00 GMT; "
        return f"{self.name}=null; path={self.path}; {expires}{self._attributes(https)}".encode("latin-1")

    def _attributes(self, https: bool) -> str:
        attributes = "httponly; samesite=" + self.same_site
        if https if self.https_only is None else self.https_only:
            attributes += "; secure"
        if self.domain is not None:
            attributes += f"; domain={self.domain}"
        if self.partitioned:
            attributes += "; partitioned"
        return attributes


def _bad_cookie(what: str, looked_at: str, mend: str) -> ConfigurationError:
    return ConfigurationError("bad-cookie", what, looked_at=looked_at, mend=mend)
