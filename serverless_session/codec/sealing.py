"""The stored format: packed bytes sealed with their end, for one key of one purpose in one namespace.

Format 1, after the store's own version prefix:

    magic "ss" | format 1 | suite 1 | key id (4) | nonce (24) | XAES-256-GCM of: end (8) | packed bytes | tag (16)

`end` is the moment from which the value is Missing whatever the store says: milliseconds since 1970, unsigned,
big-endian. Authenticated beside it: the eight bytes before the nonce, namespace, purpose and store key, each with its
length in front. So bytes moved to another key, purpose or app do not open. Suite 1 is XAES-256-GCM; other suites (plain
bytes where there is no secret, envelope keys of a KMS) get numbers of their own.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from serverless_session.codec.keys import KEY_ID_BYTES, KeyRing
from serverless_session.codec.xaes import NONCE_BYTES, TAG_BYTES
from serverless_session.errors import DamagedValue, UnknownFormat

_MAGIC: Final = b"ss"
_FORMAT: Final = 1
_XAES: Final = 1
_HEAD: Final = _MAGIC + bytes((_FORMAT, _XAES))
_HEAD_BYTES: Final = len(_HEAD) + KEY_ID_BYTES
_END_BYTES: Final = 8
_LEAST: Final = _HEAD_BYTES + NONCE_BYTES + _END_BYTES + 2 + TAG_BYTES

OVERHEAD_BYTES: Final = _HEAD_BYTES + NONCE_BYTES + _END_BYTES + TAG_BYTES


class Opened(NamedTuple):
    """What was sealed, and until when (seconds since 1970) it may be used."""

    packed: bytes
    ends_at: float


class Sealer:
    """Seals and opens the values of one purpose in one namespace."""

    def __init__(self, ring: KeyRing, *, namespace: str, purpose: str) -> None:
        self._ring = ring
        self._purpose = purpose
        self._bound = length_prefixed(namespace.encode(), purpose.encode())
        self._bound_to: dict[bytes, bytes] = {}

    def seal(self, packed: bytes, *, key: str, ends_at: float) -> bytes:
        """`key`: the store key it will stand under; `ends_at`: seconds since 1970."""
        key_id, nonce = self._ring.sealing_id, os.urandom(NONCE_BYTES)
        head = _HEAD + key_id
        body = round(ends_at * 1000).to_bytes(_END_BYTES) + packed
        return head + nonce + self._ring.cipher(key_id, self._purpose).seal(nonce, body, self._aad(head, key))

    def open(self, sealed: bytes, *, key: str) -> Opened:
        """Raises `DamagedValue`, `UnknownKey` or `UnknownFormat`, nothing else. Whether it has ended, ask."""
        if not sealed.startswith(_MAGIC) or len(sealed) < len(_HEAD):
            raise DamagedValue
        if sealed[: len(_HEAD)] != _HEAD:
            raise UnknownFormat("a stored value is of a format that this release does not know")
        if len(sealed) < _LEAST:
            raise DamagedValue
        head, nonce = sealed[:_HEAD_BYTES], sealed[_HEAD_BYTES : _HEAD_BYTES + NONCE_BYTES]
        cipher = self._ring.cipher(head[len(_HEAD) :], self._purpose)
        body = cipher.open(nonce, sealed[_HEAD_BYTES + NONCE_BYTES :], self._aad(head, key))
        if body is None:
            raise DamagedValue
        return Opened(body[_END_BYTES:], int.from_bytes(body[:_END_BYTES]) / 1000)

    def _aad(self, head: bytes, key: str) -> bytes:
        bound = self._bound_to.get(head)
        if bound is None:
            bound = self._bound_to[head] = length_prefixed(head) + self._bound
        encoded = key.encode()
        return bound + len(encoded).to_bytes(4) + encoded


def length_prefixed(*parts: bytes) -> bytes:
    """Parts one after the other, each with its length in front: ("a", "bc") and ("ab", "c") differ."""
    return b"".join([len(part).to_bytes(4) + part for part in parts])
