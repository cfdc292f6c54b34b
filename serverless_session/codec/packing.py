"""Packed bytes: what is sealed. In front stands how they were made, so that a value is read as it was written.

    compression (1 byte: 0 none, 1 zlib) | length of the name (1) | the serializer's name | what it wrote

With compression, what it wrote is `its length (4, big-endian) | a zlib stream`: so nothing is unpacked further than it
claims, and no claim beyond `LARGEST_BYTES` is looked at.

Compression is for those who ask for it. Sessions and claims never do: whoever sees the sizes of what is stored (in the
store, on the wire) could guess secrets beside text of his own choosing, letter by letter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from serverless_session.codec.serializers import JSON, Serializer, dumps_of, serializer_for
from serverless_session.errors import ConfigurationError, DamagedValue, UnknownFormat, ValueNotSerializable

LARGEST_BYTES: Final = 64 * 1024 * 1024
"""What is larger is refused, on either way, where it is compressed: a bomb of one megabyte could become a gigabyte."""

COMPRESS_ABOVE_BYTES: Final = 1024

_PLAIN: Final = b"\0"
_ZLIB: Final = b"\1"
_LEVEL: Final = 1
"""JSON of 100 kB: 684 us to 31 % of its size; level 6 takes 2,661 us to 26 %. Back is 200 us from either."""


class Packer:
    """Packs with one serializer; unpacks what that one, JSON or (where it is installed) MessagePack has packed.

    `compress_above_bytes`: what is longer is compressed, for those who ask for it; None: nothing is.
    """

    def __init__(self, serializer: Serializer, *, compress_above_bytes: int | None = COMPRESS_ABOVE_BYTES) -> None:
        self._dumps = dumps_of(serializer)
        self._name = _length_and_name(serializer)
        self._compress_above = compress_above_bytes
        self._loads = {_length_and_name(JSON): JSON.loads, self._name: serializer.loads}

    def pack(self, value: object, *, compress: bool = False) -> bytes:
        """The bytes for a value. `compress`: whether its feature asks for it (False).

        Raises `ValueNotSerializable`, naming the path of keys, for what would not come back as it is, and for more than
        `LARGEST_BYTES` that would have to be compressed.
        """
        body = self._dumps(value)
        if compress and self._compress_above is not None and len(body) > self._compress_above:
            compressed = _compressed(body)
            if len(compressed) < len(body):
                return _ZLIB + self._name + compressed
        return _PLAIN + self._name + body

    def unpack(self, packed: bytes) -> Any:
        """The value that was packed, whether or not it is compressed.

        Raises `UnknownFormat` for another serializer's bytes, `DamagedValue` for what its own serializer rejects.
        """
        if len(packed) < 2:
            raise DamagedValue
        name_ends = 2 + packed[1]
        compression, name, body = packed[:1], packed[1:name_ends], packed[name_ends:]
        loads = self._loads.get(name) or self._loads_of_messagepack(name)
        if loads is None or compression not in (_PLAIN, _ZLIB):
            raise UnknownFormat("a stored value was written by a serializer, or compressed in a way, unknown here")
        try:
            return loads(body if compression == _PLAIN else _decompressed(body))
        except UnknownFormat:
            raise
        except Exception:  # noqa: BLE001  the user's serializer may raise anything at what it did not write
            raise DamagedValue from None

    def _loads_of_messagepack(self, name: bytes) -> Callable[[bytes], Any] | None:
        """So that a SharedState may change from MessagePack to another serializer and still read what is there."""
        if name != b"\x07msgpack":
            return None
        try:
            loads = self._loads[name] = serializer_for("msgpack").loads
        except ConfigurationError:
            return None
        return loads


def _length_and_name(serializer: Serializer) -> bytes:
    name = serializer.name.encode("ascii")
    return bytes((len(name),)) + name


def _compressed(body: bytes) -> bytes:
    if len(body) > LARGEST_BYTES:
        raise ValueNotSerializable(
            (), f"takes {len(body):,} bytes, and at most {LARGEST_BYTES:,} can be compressed", mend="less into it"
        )
    import zlib

    return len(body).to_bytes(4) + zlib.compress(body, _LEVEL)


def _decompressed(compressed: bytes) -> bytes:
    import zlib

    claimed = int.from_bytes(compressed[:4])
    if claimed > LARGEST_BYTES:
        raise DamagedValue
    stream = zlib.decompressobj()
    body = stream.decompress(compressed[4:], claimed + 1)
    if len(body) != claimed or not stream.eof or stream.unused_data:
        raise DamagedValue  # cut, or followed by something else, or not what it claims to be
    return body
