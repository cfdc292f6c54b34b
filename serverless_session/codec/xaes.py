"""XAES-256-GCM as C2SP specifies it (c2sp.org/XAES-256-GCM), over AES and AES-GCM from `cryptography`.

A 24-byte random nonce makes 2^80 messages under one key safe, where plain AES-GCM's 12 bytes stop at 2^32: the first
half derives a key for the message (a CMAC-based KDF, two AES blocks), the second is the nonce of an AES-256-GCM under
it.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
TAG_BYTES: Final = 16


class XAES256GCM:
    """One 256-bit key. Nonces must be random, 24 bytes from the system each."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError("XAES-256-GCM takes a key of 32 bytes")
        self._cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305  single blocks inside CMAC, as specified
        doubled = int.from_bytes(self._blocks(bytes(16))) << 1
        if doubled >> 128:
            doubled ^= (1 << 128) | 0x87
        self._k1 = doubled

    def seal(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Ciphertext and tag; `aad` is authenticated, not contained."""
        return self._of_message(nonce).encrypt(nonce[12:], plaintext, aad)

    def open(self, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes | None:
        """The plaintext, or None where authentication fails."""
        try:
            return self._of_message(nonce).decrypt(nonce[12:], ciphertext, aad)
        except InvalidTag:
            return None

    def _of_message(self, nonce: bytes) -> AESGCM:
        if len(nonce) != NONCE_BYTES:
            raise ValueError("XAES-256-GCM takes a nonce of 24 bytes")
        counters = (int.from_bytes(bytes((0, counter, 0x58, 0)) + nonce[:12]) ^ self._k1 for counter in (1, 2))
        return AESGCM(self._blocks(b"".join(block.to_bytes(16) for block in counters)))

    def _blocks(self, blocks: bytes) -> bytes:
        encryptor = self._cipher.encryptor()
        return encryptor.update(blocks)
