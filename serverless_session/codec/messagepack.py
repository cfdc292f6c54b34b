"""MessagePack with types: bytes as they are where JSON needs base64, and the same rules otherwise.

Only what is native differs from JSON: bytes, and integers beyond 64 bits, which MessagePack cannot write and which are
tagged. Its extension types are not used; its own timestamp would be read as what it is, a datetime in UTC.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from serverless_session.codec.serializers import Serializer, dumps_tagged
from serverless_session.codec.tagging import Notation, untagged
from serverless_session.errors import UnknownFormat


def _beyond_64_bits(number: object) -> object:
    return {"$": "int", "v": str(number)}


def _write(plain: Any) -> bytes:
    written: bytes
    try:
        written = msgpack.packb(plain, default=_beyond_64_bits)
    except UnicodeEncodeError:  # naming an error handler takes msgpack a slower way: 10 kB in 48 us instead of 31
        written = msgpack.packb(plain, default=_beyond_64_bits, unicode_errors="surrogatepass")
    return written


_NOTATION: Final = Notation(native=frozenset({str, int, float, bool, type(None), bytes}), order=_write)


def _dumps(value: object) -> bytes:
    return dumps_tagged(value, _NOTATION, _write)


def _extension(code: int, data: bytes) -> Any:
    raise UnknownFormat("a stored value holds a type that this release does not know")


def _loads(body: bytes) -> Any:
    tags = untagged if b"\xa1$" in body else None
    return msgpack.unpackb(body, object_hook=tags, ext_hook=_extension, timestamp=3, unicode_errors="surrogatepass")


MESSAGEPACK: Final = Serializer("msgpack", _dumps, _loads)
