"""The key ring: secrets of the operator in, one key for each purpose out.

`seal` makes new values, all of the ring opens old ones. Each secret has a 4-byte id that stands, authenticated, in
whatever it makes, so exactly one key is ever tried. To rotate: deploy the new secret among those that only open, then
make it the one that seals, then drop the old one once nothing sealed by it is alive.

Purposes get keys of their own by HKDF-SHA-256 (RFC 5869).
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from serverless_session.codec.xaes import KEY_BYTES, XAES256GCM
from serverless_session.errors import ConfigurationError, UnknownKey

KEY_ID_BYTES: Final = 4

_SALT: Final = b"serverless_session 1"


if TYPE_CHECKING:
    from starlette.datastructures import Secret

    class Revealing(Protocol):
        """A secret in a wrapper, as pydantic's `SecretStr`."""

        def get_secret_value(self) -> str: ...


SecretKey: TypeAlias = "str | Secret | Revealing"
"""A secret: a str, Starlette's `Secret`, or anything with `get_secret_value()` (pydantic's `SecretStr`)."""


def reveal(secret: SecretKey) -> str:
    """The secret as a str. Raises `ConfigurationError` for anything that is none."""
    if isinstance(secret, str):
        return secret
    value = getattr(secret, "get_secret_value", None)
    if callable(value):
        return str(value())
    if type(secret).__name__ == "Secret" and type(secret).__module__ == "starlette.datastructures":
        return str(secret)
    raise ConfigurationError(
        "bad-secret",
        f"a secret key cannot be of type {type(secret).__name__}",
        looked_at="secret_key=, secret_key_fallbacks=",
        mend="a str, starlette.datastructures.Secret, or an object with get_secret_value()",
    )


_PLACEHOLDERS: Final = (
    *("changeme", "changethis", "yoursecret", "replaceme", "insecure", "notsecret", "notsosecret", "supersecret"),
    *("mysecret", "topsecret", "placeholder", "example", "dummy", "09d25e094faa6ca2556c818166b7a956"),
)
"""Parts of secrets that stand in tutorials and templates, without their case, spaces, dashes and underscores."""

_JOINED: Final = dict.fromkeys(map(ord, " -_"))
_SHORTEST: Final = 32
_FEWEST_CHARACTERS: Final = 12


def weakness_of(secret: str) -> str | None:
    """What makes a secret easy to guess, in words without it; None if nothing is known against it."""
    if secret.startswith("arn:"):
        return "the secret key is the name (ARN) of a secret, not the secret"
    if len(secret) < _SHORTEST:
        return f"the secret key has {len(secret)} characters and needs {_SHORTEST}"
    if len(set(secret)) < _FEWEST_CHARACTERS:
        return f"the secret key has {len(set(secret))} different characters and needs {_FEWEST_CHARACTERS}"
    if any(part in secret.lower().translate(_JOINED) for part in _PLACEHOLDERS):
        return "the secret key is a known placeholder"
    return None


class KeyRing:
    """Secrets that seal and open. `seal`: the one that makes new values; `open`: others whose values are still read."""

    def __init__(self, seal: SecretKey, *, open: Sequence[SecretKey] = ()) -> None:
        self._secrets: dict[bytes, bytes] = {}
        self._keys: dict[tuple[bytes, str], bytes] = {}
        self._ciphers: dict[tuple[bytes, str], XAES256GCM] = {}
        revealed = [reveal(secret) for secret in (seal, *open)]
        self.weakness = next(filter(None, map(weakness_of, revealed)), None)
        """What makes one of the secrets easy to guess; None if nothing is known against them."""
        for secret in revealed:
            extracted = hkdf_extract(_SALT, secret.encode())
            self._secrets.setdefault(hkdf_expand(extracted, b"key id", KEY_ID_BYTES), extracted)
        self.sealing_id = next(iter(self._secrets))
        """The id of the secret that makes new values."""

    def __repr__(self) -> str:
        return f"KeyRing({len(self._secrets)} secrets)"

    def __contains__(self, key_id: bytes) -> bool:
        return key_id in self._secrets

    def key(self, key_id: bytes, purpose: str) -> bytes:
        """The 32-byte key of one secret for one purpose. Raises `UnknownKey`."""
        key = self._keys.get((key_id, purpose))
        if key is None:
            extracted = self._secrets.get(key_id)
            if extracted is None:
                raise UnknownKey
            key = self._keys[key_id, purpose] = hkdf_expand(extracted, purpose.encode(), KEY_BYTES)
        return key

    def cipher(self, key_id: bytes, purpose: str) -> XAES256GCM:
        """The cipher under that key. Raises `UnknownKey`."""
        cipher = self._ciphers.get((key_id, purpose))
        if cipher is None:
            cipher = self._ciphers[key_id, purpose] = XAES256GCM(self.key(key_id, purpose))
        return cipher


def hkdf_extract(salt: bytes, secret: bytes) -> bytes:
    """RFC 5869, section 2.2, with SHA-256."""
    return hmac.digest(salt, secret, "sha256")


def hkdf_expand(extracted: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, section 2.3, with SHA-256."""
    okm = block = b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes((counter,)), "sha256")
        okm += block
    return okm[:length]
