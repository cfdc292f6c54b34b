"""Values come back as the type that a function is annotated with: how they are taken apart and put together again.

The codec keeps plain types (`codec.tagging`). What an annotation says beyond them is done here: dataclasses and named
tuples by their fields, enums by their values, mappings with other keys than text as pairs, unions by the number of the
member; pydantic models and msgspec structs by their own libraries, which whoever uses them has imported. An annotation
that cannot be restored is an error where it is written, not at the first hit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import sys
import types
import typing
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from typing import Any, Final, NamedTuple

from serverless_session.errors import ConfigurationError, ValueNotSerializable
from serverless_session.records.leases import Unfit


class Shape(NamedTuple):
    """`dump`: a value as plain types; raises `ValueNotSerializable`. `load`: the way back; raises `Unfit`."""

    dump: Callable[[Any], Any]
    load: Callable[[Any], Any]


def shape_of(annotation: Any, *, called: str) -> Shape:
    """How values of a type are kept. `called`: for errors, as "the return annotation of product()".

    Raises `ConfigurationError` for a type that cannot be restored.
    """
    try:
        return _shape(annotation, ())
    except _Unrestorable as error:
        raise ConfigurationError(
            "cannot-restore",
            f"{called} has {error}, which would not come back from the store as it was",
            looked_at="the annotation",
            mend="plain types, containers of them, a dataclass, enum, NamedTuple, pydantic model or msgspec Struct",
        ) from None


class _Unrestorable(Exception):
    """The type, as the error calls it."""


def _same(value: Any) -> Any:
    return value


ANYTHING: Final = Shape(_same, _same)
"""No annotation: the codec's types, each of which comes back as itself."""

_PLAIN: Final = frozenset({str, int, float, bool, type(None), bytes, datetime, date, time, timedelta})
_PLAIN_BY_NAME: Final = frozenset({("decimal", "Decimal"), ("uuid", "UUID")})
_BARE: Final = frozenset({dict, list, tuple, set, frozenset, Mapping})
_AROUND: Final = (typing.Annotated, typing.Required, typing.NotRequired, getattr(typing, "ReadOnly", typing.Annotated))
"""What stands around a type and says nothing of its values."""


def _shape(kind: Any, within: tuple[Any, ...]) -> Shape:
    if kind is None:
        kind = type(None)
    if kind in (Any, object) or kind in _BARE:
        return ANYTHING
    if isinstance(kind, typing.TypeVar):
        raise _Unrestorable(f"the type variable {kind.__name__}")
    if isinstance(kind, typing.NewType):
        return _shape(kind.__supertype__, within)
    if kind.__class__.__name__ == "TypeAliasType":
        if kind in within:
            return _later(kind)
        _known[kind] = shape = _shape(kind.__value__, (*within, kind))
        return shape
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in _AROUND:
        return _shape(arguments[0], within)
    if origin is typing.Literal:
        return _literal(arguments)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, within)
    if (leaf := _leaf(kind, origin)) is not None:
        return leaf
    if origin is not None:
        return _container(kind, origin, arguments, within)
    if not isinstance(kind, type):
        raise _Unrestorable(f"{kind!r}")
    if kind in _PLAIN or (kind.__module__, kind.__name__) in _PLAIN_BY_NAME:
        return _exactly(kind)
    if issubclass(kind, enum.Enum):
        return _enum(kind)
    if kind in within:
        return _later(kind)
    if typing.is_typeddict(kind):
        return _fields(kind, dict, typing.get_type_hints(kind, include_extras=True), within, whole=False)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, within)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        hints = typing.get_type_hints(kind, include_extras=True)
        return _fields(kind, kind, {name: hints.get(name, Any) for name in kind._fields}, within)
    raise _Unrestorable(f"the type {_name(kind)}")


# --- plain types ------------------------------------------------------------------------------------------------------


def _exactly(kind: type) -> Shape:
    def dump(value: Any) -> Any:
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise _not_a(kind, value)
        return value

    def load(plain: Any) -> Any:
        if type(plain) is not kind and not (kind is float and type(plain) is int):
            raise Unfit
        return plain

    return Shape(dump, load)


def _literal(values: tuple[Any, ...]) -> Shape:
    by_value = {(type(value), value): value for value in values}
    shapes = {type(value): _shape(type(value), ()) for value in values}

    def dump(value: Any) -> Any:
        if type(value) not in shapes or (type(value), value) not in by_value:
            raise _not("one of the values of the Literal", value)
        return shapes[type(value)].dump(value)

    def load(plain: Any) -> Any:
        for shape in shapes.values():
            try:
                value = shape.load(plain)
                if (type(value), value) in by_value:
                    return value
            except (Unfit, TypeError):
                continue
        raise Unfit

    return Shape(dump, load)


def _enum(kind: type[enum.Enum]) -> Shape:
    def dump(value: Any) -> Any:
        if type(value) is not kind or kind(value.value) is not value:
            raise _not_a(kind, value)
        return value.value

    def load(plain: Any) -> Any:
        try:
            return kind(plain)
        except (ValueError, TypeError):
            raise Unfit from None

    return Shape(dump, load)


# --- containers -------------------------------------------------------------------------------------------------------


def _container(kind: Any, origin: Any, arguments: tuple[Any, ...], within: tuple[Any, ...]) -> Shape:
    if not isinstance(origin, type):
        raise _Unrestorable(f"{kind!r}")
    if origin in (list, set, frozenset):
        return _items(origin, _shape(arguments[0], within))
    if origin.__module__ == "collections.abc" and origin.__name__ in ("Sequence", "MutableSequence", "Iterable"):
        return _items(list, _shape(arguments[0], within))
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is ...:
            return _items(tuple, _shape(arguments[0], within))
        return _places(tuple([_shape(argument, within) for argument in arguments]))
    if origin is dict or (origin.__module__ == "collections.abc" and origin.__name__ in ("Mapping", "MutableMapping")):
        return _mapping(_shape(arguments[0], within), _shape(arguments[1], within), text=arguments[0] is str)
    if dataclasses.is_dataclass(origin):
        raise _Unrestorable(f"the generic dataclass {_name(origin)}")
    raise _Unrestorable(f"the type {_name(origin)}")


def _is_exactly(kind: type, value: Any) -> bool:
    return type(value) is kind


def _items(kind: type, item: Shape) -> Shape:
    dumped: Any = kind if kind in (list, tuple) else list
    make: Any = kind
    keep_items = item is ANYTHING

    def dump(value: Any) -> Any:
        if not _is_exactly(kind, value):
            raise _not_a(kind, value)
        return value if keep_items else dumped([item.dump(one) for one in value])

    def load(plain: Any) -> Any:
        if not isinstance(plain, kind if keep_items else dumped):
            raise Unfit
        items: Any = plain
        return items if keep_items else make([item.load(one) for one in items])

    return Shape(dump, load)


def _places(items: tuple[Shape, ...]) -> Shape:
    def dump(value: Any) -> Any:
        if type(value) is not tuple or len(value) != len(items):
            raise _not(f"a tuple of {len(items)}", value)
        return tuple([item.dump(one) for item, one in zip(items, value, strict=True)])

    def load(plain: Any) -> Any:
        if type(plain) is not tuple or len(plain) != len(items):
            raise Unfit
        return tuple([item.load(one) for item, one in zip(items, plain, strict=True)])

    return Shape(dump, load)


def _mapping(key: Shape, item: Shape, *, text: bool) -> Shape:
    keep_items = text and item is ANYTHING

    def dump(value: Any) -> Any:
        if type(value) is not dict:
            raise _not_a(dict, value)
        if keep_items:
            return value
        if text:
            return {key.dump(name): item.dump(one) for name, one in value.items()}
        return [[key.dump(name), item.dump(one)] for name, one in value.items()]

    def load(plain: Any) -> Any:
        if not _is_exactly(dict if text else list, plain):
            raise Unfit
        if keep_items:
            return plain
        pairs: Any = plain.items() if text else plain
        try:
            return {key.load(name): item.load(one) for name, one in pairs}
        except (ValueError, TypeError):
            raise Unfit from None

    return Shape(dump, load)


def _union(members: tuple[Any, ...], within: tuple[Any, ...]) -> Shape:
    """The first member that takes the value; its number is kept where the plain value does not tell by itself."""
    shapes = [_shape(member, within) for member in sorted(members, key=_takes_anything)]
    if all(member in _PLAIN or member is None for member in members):

        def same(value: Any) -> Any:
            return _first(shapes, value)[1]

        def load_same(plain: Any) -> Any:
            for shape in shapes:
                try:
                    return shape.load(plain)
                except Unfit:
                    continue
            raise Unfit

        return Shape(same, load_same)

    def dump(value: Any) -> Any:
        return list(_first(shapes, value))

    def load(plain: Any) -> Any:
        if type(plain) is not list or len(plain) != 2 or type(plain[0]) is not int or not 0 <= plain[0] < len(shapes):
            raise Unfit
        return shapes[plain[0]].load(plain[1])

    return Shape(dump, load)


def _takes_anything(annotation: Any) -> bool:
    return annotation in (Any, object) or any(map(_takes_anything, typing.get_args(annotation)))


def _first(shapes: list[Shape], value: Any) -> tuple[int, Any]:
    for number, shape in enumerate(shapes):
        try:
            return number, shape.dump(value)
        except ValueNotSerializable:
            continue
    raise _not("a member of the union", value)


# --- by fields --------------------------------------------------------------------------------------------------------


def _dataclass(kind: type, within: tuple[Any, ...]) -> Shape:
    """Restored field by field, not by its constructor: that would compute again what it has made of its arguments."""
    if any("__new__" in vars(ancestor) for ancestor in kind.__mro__[:-1]):
        raise _Unrestorable(f"the dataclass {_name(kind)}, which makes its objects in its own way")
    hints = typing.get_type_hints(kind, include_extras=True)

    def make(**fields: Any) -> Any:
        made: Any = object.__new__(kind)
        for name, value in fields.items():
            object.__setattr__(made, name, value)
        return made

    return _fields(kind, make, {field.name: hints[field.name] for field in dataclasses.fields(kind)}, within)


def _fields(
    kind: Any, make: Callable[..., Any], hints: Mapping[str, Any], within: tuple[Any, ...], *, whole: bool = True
) -> Shape:
    """`whole`: every field is there."""
    shapes = {name: _shape(hint, (*within, kind)) for name, hint in hints.items()}
    _known[kind] = shape = _fields_shape(kind, make, shapes, whole=whole)
    return shape


def _fields_shape(kind: Any, make: Callable[..., Any], shapes: dict[str, Shape], *, whole: bool) -> Shape:
    exact = dict if not whole else kind

    def dump(value: Any) -> Any:
        if type(value) is not exact:
            raise _not_a(kind, value)
        if not whole:
            if unknown := value.keys() - shapes.keys():
                raise ValueNotSerializable(
                    sorted(unknown, key=repr)[:1], f"is no key of {_name(kind)}", mend="its keys"
                )
            return {name: shapes[name].dump(one) for name, one in value.items()}
        if getattr(value, "__dict__", {}).keys() - shapes.keys() - vars(kind).keys():
            raise ValueNotSerializable(
                (),
                f"of type {_name(kind)} holds more than its fields, which would be lost",
                mend="fields for all of it",
            )
        return {name: shape.dump(getattr(value, name)) for name, shape in shapes.items()}

    def load(plain: Any) -> Any:
        if type(plain) is not dict or not (plain.keys() <= shapes.keys()) or (whole and len(plain) != len(shapes)):
            raise Unfit
        loaded = {name: shapes[name].load(one) for name, one in plain.items()}
        try:
            return make(**loaded)
        except Exception:  # noqa: BLE001 - of a NamedTuple with a constructor of its own
            raise Unfit from None

    return Shape(dump, load)


_known: Final[dict[Any, Shape]] = {}


def _later(kind: Any) -> Shape:
    """A type inside of itself."""
    return Shape(lambda value: _known[kind].dump(value), lambda plain: _known[kind].load(plain))


# --- by their own libraries -------------------------------------------------------------------------------------------


def _leaf(kind: Any, origin: Any) -> Shape | None:
    """A pydantic model or msgspec struct, plain or generic; None: neither."""
    base = origin if isinstance(origin, type) else kind
    if not isinstance(base, type):
        return None
    pydantic, msgspec = sys.modules.get("pydantic"), sys.modules.get("msgspec")
    if pydantic is not None and (issubclass(base, pydantic.BaseModel) or hasattr(base, "__pydantic_validator__")):
        return _by_pydantic(pydantic, kind)
    if msgspec is not None and issubclass(base, msgspec.Struct):
        decoder = msgspec.json.Decoder(kind)
        return _by_text(kind, [msgspec.json.encode], decoder.decode)
    return None


def _by_pydantic(pydantic: Any, kind: Any) -> Shape:
    """By the names of fields, since pydantic can (2.11): an alias may be good for one way only."""
    adapter = pydantic.TypeAdapter(kind)
    if "validate_by_name" in pydantic.ConfigDict.__annotations__:
        writing, reading = {"by_alias": False}, {"by_alias": False, "by_name": True}
    else:
        writing, reading = {"by_alias": True}, {}
    ways = [
        lambda value: adapter.dump_json(value, round_trip=True, exclude_unset=True, **writing),
        lambda value: adapter.dump_json(value, round_trip=True, **writing),  # some defaults are new each time
    ]
    return _by_text(kind, ways, lambda text: adapter.validate_json(text, **reading))


def _by_text(kind: Any, ways: list[Callable[[Any], bytes]], decode: Callable[[str], Any]) -> Shape:
    """Checked on the way in: these libraries have fields that they write and do not read, and the other way round.

    `ways` to write it: the first one after which it comes back the same is taken.
    """
    exact = typing.get_origin(kind) or kind

    def dump(value: Any) -> Any:
        if not isinstance(value, exact) or (exact is kind and type(value) is not kind):
            raise _not_a(exact, value)
        for encode in ways:
            with contextlib.suppress(Exception):  # validators may raise anything
                text = encode(value).decode()
                if _is_same(decode(text), value):
                    return text
        raise ValueNotSerializable(
            (), f"of type {_name(exact)} does not come back from JSON as it was", mend="fields that do"
        )

    def load(plain: Any) -> Any:
        if type(plain) is not str:
            raise Unfit
        try:
            return decode(plain)
        except Exception:  # noqa: BLE001 - validators may raise anything
            raise Unfit from None

    return Shape(dump, load)


def _is_same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, datetime | time):
        # A zone that is no fixed offset comes back as one.
        return (
            one == other
            and one.fold == other.fold
            and type(other.tzinfo).__name__ in ("NoneType", "timezone", "TzInfo")
        )
    fields = getattr(one, "__dict__", None) or {name: getattr(one, name) for name in getattr(one, "__slots__", ())}
    if fields and not isinstance(one, enum.Enum):
        theirs = {name: getattr(other, name, None) for name in fields}
        return one == other and _is_same(dict(fields), theirs)
    return bool(one == other)


def _not_a(kind: Any, value: Any) -> ValueNotSerializable:
    return _not(f"a {_name(kind)}", value)


def _not(what: str, value: Any) -> ValueNotSerializable:
    return ValueNotSerializable(
        (),
        f"is of type {_name(type(value))}, and its annotation says {what}",
        mend="the annotation of what is returned",
    )


def _name(kind: Any) -> str:
    return getattr(kind, "__qualname__", repr(kind))
