"""Bytes that tell one call from another: typed and length-prefixed, so that no two different arguments meet.

`1`, `"1"`, `True`, `1.0`, `None` and `""` differ, and so do `("a", "bc")` and `("ab", "c")`. The order of a mapping or
a set says nothing. What has no value of its own (a connection, an object known by its address) cannot stand in a key:
its `repr` would make every call a new one, or two different ones the same.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from serverless_session.caching.shapes import Shape
from serverless_session.codec.sealing import length_prefixed


class CallKey:
    """The key of one call of a cached function. `shape`: how its value is kept."""

    __slots__ = ("encoded", "shape")

    def __init__(self, encoded: bytes, shape: Shape) -> None:
        self.encoded = encoded
        self.shape = shape

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CallKey) and other.encoded == self.encoded

    def __hash__(self) -> int:
        return hash(self.encoded)

    def __repr__(self) -> str:
        return "CallKey()"


def key_bytes(value: object) -> bytes:
    """The bytes for a value, or for a tuple of arguments. Raises `TypeError` for what cannot be told by its value."""
    kind = type(value)
    if (simple := _SIMPLE.get(kind)) is not None:
        tag, encode = simple
        return tag + encode(value)
    if (several := _SEVERAL.get(kind)) is not None:
        tag, parts = several
        return tag + length_prefixed(*parts(value))
    if (named := _BY_NAME.get((kind.__module__, kind.__qualname__))) is not None:
        tag, encode = named
        return tag + encode(value)
    if kind is CallKey:
        encoded: bytes = value.encoded  # type: ignore[attr-defined]  # it begins with a length, and no other key does
        return encoded
    if isinstance(value, type):
        return b"T" + length_prefixed(_name(value))
    if isinstance(value, enum.Enum):
        return b"E" + length_prefixed(_name(kind), key_bytes(value.value))
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return b"O" + length_prefixed(_name(kind), key_bytes(fields | getattr(value, "__dict__", {})))
    if callable(getattr(kind, "model_dump", None)):  # pydantic: what it dumps may lack fields, and types
        hidden = [getattr(value, name, None) for name in ("__pydantic_extra__", "__pydantic_private__")]
        return b"O" + length_prefixed(_name(kind), key_bytes(value.__dict__), key_bytes(hidden))
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return b"O" + length_prefixed(_name(kind), key_bytes(tuple(value)))
    raise TypeError(
        f"a value of type {kind.__qualname__} cannot stand in a key: it is not known by its value. "
        'Name what tells one call from another: key="user.id"'
    )


def _name(kind: type) -> bytes:
    return f"{kind.__module__}.{kind.__qualname__}".encode()


def _pairs(mapping: Mapping[Any, Any]) -> Iterable[bytes]:
    return sorted(length_prefixed(key_bytes(key), key_bytes(value)) for key, value in mapping.items())


def _text(value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


def _moment(value: datetime.datetime) -> bytes:
    """Two zones may show one moment in two ways; what is shown differs, so they are two."""
    return length_prefixed(value.isoformat().encode(), str(value.fold).encode(), str(value.tzinfo).encode())


_SIMPLE: Final[dict[type, tuple[bytes, Callable[[Any], bytes]]]] = {
    type(None): (b"n", lambda value: b""),
    bool: (b"b", lambda value: b"1" if value else b"0"),
    int: (b"i", _text),
    float: (b"f", lambda value: repr(value).encode()),
    str: (b"s", _text),
    bytes: (b"y", bytes),
    datetime.datetime: (b"m", _moment),
    datetime.date: (b"d", lambda value: value.isoformat().encode()),
    datetime.time: (b"c", lambda value: _text((value, value.fold, value.tzinfo))),
    datetime.timedelta: (b"w", lambda value: _text((value.days, value.seconds, value.microseconds))),
}
"""By the exact type: what derives from one may mean something else by being equal."""

_BY_NAME: Final[dict[tuple[str, str], tuple[bytes, Callable[[Any], bytes]]]] = {
    ("decimal", "Decimal"): (b"D", _text),
    ("uuid", "UUID"): (b"U", lambda value: value.bytes),
}
"""Those whose modules need not be imported for it."""

_SEVERAL: Final[dict[type, tuple[bytes, Callable[[Any], Iterable[bytes]]]]] = {
    tuple: (b"t", lambda value: map(key_bytes, value)),
    list: (b"l", lambda value: map(key_bytes, value)),
    set: (b"e", lambda value: sorted(map(key_bytes, value))),
    frozenset: (b"e", lambda value: sorted(map(key_bytes, value))),
    dict: (b"p", _pairs),
}


def takes(annotation: Any) -> bool:
    """Can values of this type stand in a key? What only a call can tell (no annotation, `Any`) may."""
    if annotation in (Any, object, None, inspect.Parameter.empty) or isinstance(annotation, str | typing.TypeVar):
        return True
    if annotation.__class__.__name__ == "TypeAliasType":  # it may name itself
        return True
    if isinstance(annotation, typing.NewType):
        return takes(annotation.__supertype__)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return takes(arguments[0])
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, types.UnionType):
        return all(takes(member) for member in arguments)
    kind = origin if origin is not None else annotation
    if not isinstance(kind, type):
        return False
    if kind.__module__ == "collections.abc" and kind.__name__ in _VIRTUAL:
        return all(takes(argument) for argument in arguments)
    if kind in _SIMPLE or (kind.__module__, kind.__qualname__) in _BY_NAME:
        return True
    if kind in _SEVERAL:
        return all(takes(argument) for argument in arguments if argument is not ...)
    return (
        issubclass(kind, enum.Enum)
        or dataclasses.is_dataclass(kind)
        or callable(getattr(kind, "model_dump", None))
        or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    )


_VIRTUAL: Final = frozenset(
    {"Sequence", "Mapping", "Set", "Iterable", "Collection", "MutableSequence", "MutableMapping"}
)
