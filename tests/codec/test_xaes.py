"""XAES-256-GCM against C2SP's published vectors (c2sp.org/XAES-256-GCM)."""

import hashlib

import pytest

from serverless_session.codec.xaes import NONCE_BYTES, TAG_BYTES, XAES256GCM

NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"


class Stream:
    """The bytes of SHAKE128 over nothing, one after the other."""

    def __init__(self, length: int) -> None:
        self._bytes = hashlib.shake_128().digest(length)
        self._at = 0

    def read(self, count: int) -> bytes:
        self._at += count
        assert self._at <= len(self._bytes)
        return self._bytes[self._at - count : self._at]


@pytest.mark.parametrize(
    ("key", "aad", "ciphertext"),
    [
        (b"\x01" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),  # its L has a clear top bit
        (b"\x03" * 32, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
    ids=["a clear top bit", "a set top bit and aad"],
)
def test_the_published_vectors(key: bytes, aad: bytes, ciphertext: str) -> None:
    cipher = XAES256GCM(key)
    assert cipher.seal(NONCE, b"XAES-256-GCM", aad).hex() == ciphertext
    assert cipher.open(NONCE, bytes.fromhex(ciphertext), aad) == b"XAES-256-GCM"


def test_10_000_accumulated_messages() -> None:
    """Keys, nonces, texts and data from one stream; all ciphertexts into one digest."""
    stream, digest = Stream(10_000 * (32 + 24 + 2 + 2 * 255)), hashlib.shake_128()
    for _ in range(10_000):
        cipher, nonce = XAES256GCM(stream.read(32)), stream.read(24)
        plaintext = stream.read(stream.read(1)[0])
        aad = stream.read(stream.read(1)[0])
        ciphertext = cipher.seal(nonce, plaintext, aad)
        assert cipher.open(nonce, ciphertext, aad) == plaintext
        digest.update(ciphertext)
    assert digest.hexdigest(32) == "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"


def test_what_was_changed_does_not_open() -> None:
    cipher, aad = XAES256GCM(bytes(32)), b"beside"
    sealed = cipher.seal(NONCE, b"text", aad)
    for at in range(len(sealed)):
        for bit in range(8):
            changed = bytearray(sealed)
            changed[at] ^= 1 << bit
            assert cipher.open(NONCE, bytes(changed), aad) is None
    for length in range(len(sealed)):
        assert cipher.open(NONCE, sealed[:length], aad) is None
    for at in range(NONCE_BYTES):
        assert cipher.open(NONCE[:at] + b"#" + NONCE[at + 1 :], sealed, aad) is None
    assert cipher.open(NONCE, sealed, aad + b"\0") is None
    assert cipher.open(NONCE, sealed, b"") is None
    assert XAES256GCM(b"\1" + bytes(31)).open(NONCE, sealed, aad) is None


def test_an_empty_text_is_a_tag() -> None:
    cipher = XAES256GCM(bytes(32))
    sealed = cipher.seal(NONCE, b"", b"")
    assert len(sealed) == TAG_BYTES
    assert cipher.open(NONCE, sealed, b"") == b""


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_has_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        XAES256GCM(bytes(length))


@pytest.mark.parametrize("length", [0, 12, 23, 25])
def test_a_nonce_has_24_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="24 bytes"):
        XAES256GCM(bytes(32)).seal(bytes(length), b"", b"")
    with pytest.raises(ValueError, match="24 bytes"):
        XAES256GCM(bytes(32)).open(bytes(length), bytes(16), b"")


def test_messages_whose_nonces_begin_alike_open_each_as_itself() -> None:
    cipher, alike = XAES256GCM(bytes(32)), bytes(12)
    nonces = [alike + bytes([number]) * 12 for number in range(3)]
    sealed = [cipher.seal(nonce, b"text %d" % number, b"") for number, nonce in enumerate(nonces)]
    assert [cipher.open(nonce, text, b"") for nonce, text in zip(nonces, sealed, strict=True)] == [
        b"text 0",
        b"text 1",
        b"text 2",
    ]
    assert cipher.open(nonces[1], sealed[0], b"") is None


def test_a_message_opens_after_many_others() -> None:
    cipher = XAES256GCM(bytes(32))
    nonces = [number.to_bytes(24, "little") for number in range(300)]
    sealed = [cipher.seal(nonce, nonce, b"") for nonce in nonces]
    assert [cipher.open(nonce, text, b"") for nonce, text in zip(nonces, sealed, strict=True)] == nonces
