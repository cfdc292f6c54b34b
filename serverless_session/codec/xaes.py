"""XAES-256-GCM as C2SP specifies it (c2sp.org/XAES-256-GCM), over AES and AES-GCM from `cryptography`.

A 24-byte random nonce makes 2^80 messages under one key safe, where plain AES-GCM's 12 bytes stop at 2^32: the first
half derives a key for the message (a CMAC-based KDF, two AES blocks), the second is the nonce of an AES-256-GCM under
it. What is read is mostly what was read, or written, a moment ago, so the ciphers of the last messages are remembered:
opening 1 KiB takes 8 us instead of 18 in a process that talks to a server between.
"""

from __future__ import annotations

import functools
import threading
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
TAG_BYTES: Final = 16
_HALF: Final = NONCE_BYTES // 2
_REMEMBERED: Final = 64
"""Ciphers of messages, for each key: 2.5 kB each. They are derived from it, and live no longer."""


class XAES256GCM:
    """One 256-bit key. Nonces must be random, 24 bytes from the system each."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError("XAES-256-GCM takes a key of 32 bytes")
        # One encryptor for all messages: ECB has no state, and making one takes 4 us, a block 0.3.
        cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305  single blocks inside CMAC, as specified
        self._encryptor, self._lock = cipher.encryptor(), threading.Lock()
        doubled = int.from_bytes(self._blocks(bytes(16))) << 1
        if doubled >> 128:
            doubled ^= (1 << 128) | 0x87
        self._k1 = doubled << 128 | doubled
        self._cipher = functools.lru_cache(_REMEMBERED)(self._derive)

    def seal(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Ciphertext and tag; `aad` is authenticated, not contained."""
        return self._of_message(nonce).encrypt(nonce[_HALF:], plaintext, aad)

    def open(self, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes | None:
        """The plaintext, or None where authentication fails."""
        try:
            return self._of_message(nonce).decrypt(nonce[_HALF:], ciphertext, aad)
        except InvalidTag:
            return None

    def _of_message(self, nonce: bytes) -> AESGCM:
        if len(nonce) != NONCE_BYTES:
            raise ValueError("XAES-256-GCM takes a nonce of 24 bytes")
        return self._cipher(nonce[:_HALF])

    def _derive(self, half: bytes) -> AESGCM:
        """The cipher of the messages whose nonces begin with `half`."""
        counters = int.from_bytes(b"\0\1X\0" + half + b"\0\2X\0" + half) ^ self._k1
        return AESGCM(self._blocks(counters.to_bytes(32)))

    def _blocks(self, blocks: bytes) -> bytes:
        with self._lock:
            return self._encryptor.update(blocks)
