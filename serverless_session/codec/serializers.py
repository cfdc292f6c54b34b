"""How objects become bytes and come back equal, type for type, or are refused when they are first stored.

JSON with types is the default (`tagging` says how), MessagePack with the same types is there for bytes-heavy values
(`messagepack`); what the user's own serializer writes is read back at every write. Never pickle.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, Literal

from serverless_session.codec.tagging import Notation, Refused, tagged, untagged
from serverless_session.errors import ConfigurationError, ValueNotSerializable, missing_extra

Path = tuple[object, ...]


@dataclass(slots=True)
class Serializer:
    """How objects become bytes: `Serializer("orjson", orjson.dumps, orjson.loads)`.

    `name`: 1-32 ASCII characters, stored beside each value. `dumps`: object to bytes (or str, taken as UTF-8). `loads`:
    the way back. Every value is read back once before it is stored; what does not come back equal, type for type, is
    refused.
    """

    name: str
    dumps: Callable[[Any], bytes | str]
    loads: Callable[[bytes], Any]

    def __post_init__(self) -> None:
        if not (self.name.isascii() and self.name.isprintable() and 1 <= len(self.name) <= 32):
            raise ValueError("a serializer's name has 1-32 printable ASCII characters")


_OURS: Final = ("json", "msgpack")
"""Their values come back equal because of how they are written, so they are not read back at every write."""


def serializer_for(chosen: Serializer | Literal["json", "msgpack"]) -> Serializer:
    """The serializer that a setting names. Raises `ConfigurationError`."""
    if chosen == "json" or chosen is JSON:
        return JSON
    if chosen == "msgpack":
        return _messagepack()
    if not isinstance(chosen, Serializer) or chosen.name in _OURS:
        raise ConfigurationError(
            "bad-serializer",
            'the serializer is neither "json" nor "msgpack" nor a Serializer with a name of its own',
            looked_at="serializer=",
            mend='"json", "msgpack", or Serializer(name, dumps, loads) from serverless_session.codec',
        )
    return chosen


def _messagepack() -> Serializer:
    try:
        from serverless_session.codec.messagepack import MESSAGEPACK
    except ModuleNotFoundError as error:
        if error.name != "msgpack":
            raise
        raise missing_extra('serializer="msgpack"', package="msgpack", extra="msgpack") from None
    return MESSAGEPACK


# --- with types -------------------------------------------------------------------------------------------------------


def dumps_tagged(value: object, notation: Notation, write: Callable[[Any], bytes]) -> bytes:
    """`write` what `tagged` makes of the value. Raises `ValueNotSerializable`, naming the path of keys."""
    try:
        return write(tagged(value, notation))
    except Refused as refused:
        path = tuple(reversed(refused.way))
        raise ValueNotSerializable(path, refused.why, mend=refused.mend) from None
    except ValueError:  # Python refuses to print integers of more than 4,300 digits
        raise ValueNotSerializable(
            (), "holds an integer of more than 4,300 digits", mend="a str of its digits"
        ) from None


_encode: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode

_JSON_NOTATION: Final = Notation(
    native=frozenset({str, int, float, bool, type(None)}), order=json.JSONEncoder(sort_keys=True).encode
)


def _dumps_json(value: object) -> bytes:
    return dumps_tagged(value, _JSON_NOTATION, lambda plain: _encode(plain).encode("utf-8", "surrogatepass"))


def _loads_json(body: bytes) -> Any:
    text = body.decode("utf-8", "surrogatepass")
    return json.loads(text, object_hook=untagged) if '"$"' in text else json.loads(text)


JSON: Final = Serializer("json", _dumps_json, _loads_json)


# --- the user's own serializer ----------------------------------------------------------------------------------------


def dumps_of(serializer: Serializer) -> Callable[[object], bytes]:
    """What turns values into bytes that come back equal, or raises `ValueNotSerializable`."""
    if serializer.name in _OURS:
        return serializer.dumps  # type: ignore[return-value]  # ours make bytes
    return functools.partial(_dumps_checked, serializer)


def _dumps_checked(serializer: Serializer, value: object) -> bytes:
    try:
        dumped = serializer.dumps(value)
        body = dumped.encode() if isinstance(dumped, str) else bytes(dumped)
        difference = first_difference(value, serializer.loads(body))
    except Exception as error:  # noqa: BLE001  the user's serializer and types may raise anything
        raise ValueNotSerializable(
            (),
            f"cannot be stored: serializer {serializer.name!r} raised {type(error).__name__}",
            mend="what it accepts",
        ) from None
    if difference is not None:
        raise ValueNotSerializable(
            difference, f"does not come back equal from serializer {serializer.name!r}", mend="what it keeps as it is"
        )
    return body


def first_difference(one: Any, other: Any, path: Path = ()) -> Path | None:
    """The path to the first place where two values differ in type or content; None where they are the same."""
    if type(one) is not type(other):
        return path
    if isinstance(one, dict):
        if not _same_members(one, other):
            return path
        pairs: Any = ((key, one[key], other[key]) for key in one)
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            return path
        pairs = ((place, item, other[place]) for place, item in enumerate(one))
    elif isinstance(one, set | frozenset):
        return None if _same_members(one, other) else path
    else:
        return None if one == other or (one != one and other != other) else path
    for key, item, counterpart in pairs:
        difference = first_difference(item, counterpart, (*path, key))
        if difference is not None:
            return difference
    return None


def _same_members(one: Collection[Any], other: Collection[Any]) -> bool:
    """Equal keys or items, type for type: `{1} == {True}`, and they are not the same."""
    theirs = {member: member for member in other}
    return len(one) == len(other) and all(
        member in theirs and first_difference(member, theirs[member]) is None for member in one
    )
