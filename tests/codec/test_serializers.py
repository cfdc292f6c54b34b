"""What is stored comes back equal, type for type, or is refused with the path that leads to it."""

import enum
import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict, defaultdict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serverless_session.codec.messagepack import MESSAGEPACK
from serverless_session.codec.packing import Packer
from serverless_session.codec.serializers import JSON, Serializer, first_difference
from serverless_session.codec.tagging import DEPTH
from serverless_session.errors import DamagedValue, UnknownFormat, ValueNotSerializable

PACKER = Packer(JSON)
MSGPACKER = Packer(MESSAGEPACK)
both = pytest.mark.parametrize("packer", [PACKER, MSGPACKER], ids=["json", "msgpack"])
PICKLE = Serializer("pickle", pickle.dumps, pickle.loads)


def same(one: Any, other: Any) -> bool:
    """Equal, type for type, all the way down. Written apart from what the package has for its own check."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            any(same(key, its) and same(one[key], other[its]) for its in other) for key in one
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set | frozenset):
        return len(one) == len(other) and all(any(same(item, its) for its in other) for item in one)
    if isinstance(one, float | Decimal):
        return repr(one) == repr(other)
    if isinstance(one, datetime | time):
        return bool(one == other) and one.utcoffset() == other.utcoffset()
    return bool(one == other)


def refusal(value: object, packer: Packer = PACKER) -> ValueNotSerializable:
    with pytest.raises(ValueNotSerializable) as refused:
        packer.pack(value)
    error = refused.value
    assert error.code == "value-not-serializable"
    assert str(error).startswith("[value-not-serializable] the value")
    assert error.mend
    assert error.__cause__ is None
    return error


offsets = st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
zones = st.none() | st.just(UTC) | offsets
hashable_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.dates()
    | st.datetimes(timezones=zones)
    | st.times(timezones=zones)
    | st.timedeltas()
)
scalars = hashable_scalars | st.just(float("nan")) | st.just(Decimal("NaN"))
hashables = st.recursive(
    hashable_scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4), max_leaves=6
)
values = st.recursive(
    scalars | st.sets(hashables, max_size=4) | st.frozensets(hashables, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(["$", "v", "$v", "dict"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@both
@given(values)
@settings(deadline=None, max_examples=400)
@example({"$": "set", "v": [1]})
@example({"$": {"$": {"$": None}}})
@example([{"$": 1}, ({"$": 2},), {"v": {"$": "bytes", "v": "AA=="}}])
@example({"": {}, "a": [[], (), set(), frozenset(), b"", ""]})
@example([0, 0.0, -0.0, False, "0", b"0", Decimal(0), Decimal("-0"), Decimal("0.00"), None])
@example(
    [float("inf"), float("-inf"), float("nan"), Decimal("Infinity"), Decimal("-sNaN123"), 1e-320, 2**64, -(10**300)]
)
@example(["\ud800", "\ud83d\ude00", "😀", "\0", "\u2028", '"\\/', "\x7f"])
@example({frozenset({(1, frozenset({b"x"})), ("a",)}), (1, 2.0, "3"), None, True})
@example([datetime.min, datetime.max, date.min, date.max, time.min, time.max, timedelta.min, timedelta.max])  # noqa: DTZ901
@example([datetime(2026, 11, 24, 1, 2, 3, 4, UTC), time(1, 2, tzinfo=timezone(timedelta(hours=-3, seconds=1)))])
def test_what_is_stored_comes_back_equal_type_for_type(packer: Packer, value: object) -> None:
    packed = packer.pack(value)
    back = packer.unpack(packed)
    assert same(back, value)
    assert packer.pack(back) == packed, "and packs to the same bytes"


@both
@given(values)
@settings(deadline=None, max_examples=100)
def test_packing_changes_nothing_in_the_value(packer: Packer, value: object) -> None:
    copy = pickle.loads(pickle.dumps(value))
    packer.pack(value)
    assert same(value, copy)


def test_what_the_format_is() -> None:
    """Kept for ever: other releases read it."""
    assert PACKER.pack({"a": 1}) == b'\0\x04json{"a":1}'
    assert PACKER.pack(("é",)) == b'\0\x04json{"$":"tuple","v":["\xc3\xa9"]}'
    assert PACKER.pack({"$": b"x"}) == b'\0\x04json{"$":"dict","v":[["$",{"$":"bytes","v":"eA=="}]]}'
    assert PACKER.pack({3, 1, 2}) == b'\0\x04json{"$":"set","v":[1,2,3]}'
    assert MSGPACKER.pack({"a": 1}) == b"\0\x07msgpack\x81\xa1a\x01"
    assert MSGPACKER.pack(b"x") == b"\0\x07msgpack\xc4\x01x"
    assert MSGPACKER.pack(("é",)) == b"\0\x07msgpack\x82\xa1$\xa5tuple\xa1v\x91\xa2\xc3\xa9"
    assert MSGPACKER.pack(2**64) == b"\0\x07msgpack\x82\xa1$\xa3int\xa1v\xb418446744073709551616"


# --- what is refused, by the path of keys, never with the value -------------------------------------------------------


class Plain:
    def __repr__(self) -> str:
        return "HUNTER2"


class Level(enum.IntEnum):
    HUNTER2 = 1


class Word(str):
    __slots__ = ()


class Number(int):
    pass


Pair = namedtuple("Pair", "a b")


@both
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Plain(), "Plain"),
        (Level.HUNTER2, "Level"),
        (Word("HUNTER2"), "Word"),
        (Number(4), "Number"),
        (Pair(1, "HUNTER2"), "Pair"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (defaultdict(int), "collections.defaultdict"),
        (bytearray(b"HUNTER2"), "bytearray"),
        (memoryview(b"HUNTER2"), "memoryview"),
        (1j, "complex"),
        (Plain, "type"),
        (len, "builtin_function_or_method"),
        (range(3), "range"),
        (object(), "object"),
    ],
)
def test_other_types_are_refused_by_the_path_that_leads_there(packer: Packer, value: object, named: str) -> None:
    for around, path in (
        (value, ()),
        ({"user": {"list": [0, value]}}, ("user", "list", 1)),
        ({"a": ({"b": value},)}, ("a", 0, "b")),
        ({"$": [value]}, ("$", 0)),
    ):
        error = refusal(around, packer)
        assert error.path == path
        assert "the value" + "".join(f"[{part!r}]" for part in path) in str(error)
        assert named in error.why
        assert "HUNTER2" not in str(error)


@both
@pytest.mark.parametrize("value", [Level.HUNTER2, Word("HUNTER2"), Pair(1, 2)])
def test_items_of_sets_are_looked_at_too(packer: Packer, value: object) -> None:
    assert refusal({"s": {value}}, packer).path[0] == "s"
    assert refusal({"s": frozenset({value})}, packer).path[0] == "s"
    assert "HUNTER2" not in str(refusal({"s": {value}}, packer))


@both
@pytest.mark.parametrize(
    ("key", "shown"),
    [(7, 7), (Level.HUNTER2, "?"), (Word("HUNTER2"), "?"), (None, "?"), (True, "?"), ((1, 2), "?"), (b"HUNTER2", "?")],
)
def test_keys_are_str(packer: Packer, key: object, shown: object) -> None:
    error = refusal({"cart": {key: "HUNTER2"}}, packer)
    assert error.path == ("cart", shown)
    assert "is a key of type" in error.why
    assert "str keys" in error.mend
    assert "HUNTER2" not in str(error)


@pytest.mark.parametrize(
    "value", [datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")), time(1, tzinfo=ZoneInfo("UTC"))]
)
def test_a_zone_by_name_is_refused_with_what_to_write(value: object) -> None:
    error = refusal({"at": value})
    assert error.path == ("at",)
    assert "zoneinfo.ZoneInfo" in error.why
    assert "astimezone(timezone.utc)" in error.mend


@pytest.mark.parametrize("microseconds", [1, 500_000, 3_600_000_001, -1])
def test_a_zone_with_a_fraction_of_a_second_is_refused(microseconds: int) -> None:
    """`fromisoformat` takes one below a second for UTC."""
    zone = timezone(timedelta(microseconds=microseconds))
    for value in (datetime(2026, 1, 1, tzinfo=zone), time(1, tzinfo=zone)):
        assert "a fraction of a second" in refusal({"at": value}).why


def nested(levels: int, kind: Any = list) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"k": value} if kind is dict else kind([value])
    return value


@both
@pytest.mark.parametrize("kind", [list, dict, tuple])
def test_nesting_has_an_end(packer: Packer, kind: type) -> None:
    deep = nested(DEPTH, kind)
    assert packer.unpack(packer.pack(deep)) == deep
    error = refusal(nested(100_000, kind), packer)
    assert "nested more than 100 levels deep" in error.why
    assert len(error.path) > DEPTH
    assert "[...]" in str(error)
    assert len(str(error)) < 400


@both
def test_a_value_inside_itself_is_refused(packer: Packer) -> None:
    mapping: dict[str, Any] = {"a": 1}
    mapping["self"] = mapping
    assert "nested more than" in refusal(mapping, packer).why
    items: list[Any] = [1]
    items.append((items,))
    assert "nested more than" in refusal(items, packer).why


@both
@pytest.mark.parametrize("value", [10**5000, [10**5000], {"a": {10**5000}}, (10**5000, {"$": 1})], ids=type)
def test_an_integer_that_python_would_not_print_is_refused(packer: Packer, value: object) -> None:
    assert "4,300 digits" in refusal(value, packer).why


@both
def test_the_largest_integers_come_back(packer: Packer) -> None:
    value = [10**4299, -(10**4299), {10**4299}]
    assert packer.unpack(packer.pack(value)) == value


def test_an_error_can_be_seen_from_further_down() -> None:
    error = refusal({"data": {"user": Plain()}}).below(1, "request.session")
    assert error.path == ("user",)
    assert "request.session['user'] is of type" in str(error)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[1,]", b"{'a':1}", b'{"$":"set"}', b'{"$":"bytes","v":"?"}'])
def test_bytes_that_json_did_not_write_are_damaged(body: bytes) -> None:
    with pytest.raises(DamagedValue):
        PACKER.unpack(b"\0\x04json" + body)


@pytest.mark.parametrize(
    "tagged",
    [
        b'{"$":"date","v":"x"}',
        b'{"$":"UUID","v":"x"}',
        b'{"$":"Decimal","v":"x"}',
        b'{"$":"timedelta","v":[1e400,0,0]}',
        b'{"$":"dict","v":[[1]]}',
        b'{"$":"set","v":[[]]}',
        b'{"$":[],"v":1}',
        b'{"$":"tuple","v":null}',
    ],
)
def test_a_tag_with_other_contents_is_damaged(tagged: bytes) -> None:
    with pytest.raises(DamagedValue):
        PACKER.unpack(b"\0\x04json" + tagged)


def test_a_type_of_a_later_release_is_an_unknown_format() -> None:
    with pytest.raises(UnknownFormat, match="a type that this release does not know"):
        PACKER.unpack(b'\0\x04json{"a":{"$":"fraction","v":[1,2]}}')


@pytest.mark.parametrize("head", [b"\2\x04json", b"\0\x04cbor", b"\0\x06orjson", b"\0\x00", b"\xff\xff"])
def test_another_serializer_or_a_compression_is_an_unknown_format(head: bytes) -> None:
    with pytest.raises(UnknownFormat, match="by a serializer, or compressed in a way, unknown here"):
        PACKER.unpack(head + b'{"a":1}')


def test_sets_give_the_same_bytes_in_every_process() -> None:
    program = (
        "from serverless_session.codec.messagepack import MESSAGEPACK\n"
        "from serverless_session.codec.packing import Packer\n"
        "from serverless_session.codec.serializers import JSON\n"
        "mixed = {'b', 'a', 'c', 1, 2.5, None, b'x', ('t', 1), frozenset({'z', 'y', 'x'})}\n"
        "value = {'s': mixed, 'f': frozenset('hello')}\n"
        "print(Packer(JSON).pack(value).hex(), Packer(MESSAGEPACK).pack(value).hex())\n"
    )
    seen = set()
    for seed in ("0", "1", "2", "3", "4"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        seen.add(done.stdout)
    assert len(seen) == 1


# --- a serializer of one's own ----------------------------------------------------------------------------------------


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


PLAIN_JSON = Serializer("plain", compact, json.loads)


def test_ones_own_serializer_is_named_beside_the_value() -> None:
    packer = Packer(PLAIN_JSON)
    packed = packer.pack({"a": [1, 2.5, None, "x"]})
    assert packed == b'\0\x05plain{"a":[1,2.5,null,"x"]}'
    assert packer.unpack(packed) == {"a": [1, 2.5, None, "x"]}


def test_a_serializer_may_give_str() -> None:
    packer = Packer(Serializer("text", json.dumps, json.loads))
    assert packer.unpack(packer.pack({"é": "ü"})) == {"é": "ü"}


def test_values_from_before_one_had_a_serializer_are_still_read() -> None:
    packed = PACKER.pack({"t": (1, {2})})
    assert Packer(PLAIN_JSON).unpack(packed) == {"t": (1, {2})}
    with pytest.raises(UnknownFormat):
        PACKER.unpack(Packer(PLAIN_JSON).pack({}))


def falsy(one: object, other: object) -> Serializer:
    """A serializer from which `one` comes back as `other`."""
    return Serializer("falsy", lambda value: b"", lambda body: other)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ((1, 2), ()),
        ({"cart": [("HUNTER2", 1)]}, ("cart", 0)),
        ({"a": {1: "HUNTER2"}}, ("a",)),
        ({"a": {"b": Level.HUNTER2}}, ("a", "b")),
    ],
)
def test_what_does_not_come_back_as_it_was_is_refused(value: object, path: tuple[object, ...]) -> None:
    error = refusal(value, Packer(PLAIN_JSON))
    assert error.path == path
    assert "'plain'" in error.why
    assert "HUNTER2" not in str(error)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        ("1", b"1"),
        ([1], (1,)),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1}, {"b": 1}),
        ([1, 2], [1]),
        ({"a": [1, {"b": 1}]}, {"a": [1, {"b": True}]}),
        ({1}, {True}),
        (frozenset({1}), frozenset({1.0})),
        ({(1, 2)}, {(1, 2.0)}),
        ({1: "x"}, {True: "x"}),
        ({1: "x"}, {1.0: "x"}),
        ([float("nan")], [None]),
        (date(2026, 1, 1), datetime(2026, 1, 1)),  # noqa: DTZ001
    ],
)
def test_equal_is_not_enough(one: object, other: object) -> None:
    assert first_difference(one, other) is not None
    assert first_difference(other, one) is not None
    refusal(one, Packer(falsy(one, other)))


@given(values)
@settings(deadline=None, max_examples=100)
@example([float("nan"), Decimal("NaN")])
def test_what_comes_back_as_it_was_is_no_difference(value: object) -> None:
    packer = Packer(PICKLE)
    assert same(packer.unpack(packer.pack(value)), value)


def test_the_order_of_keys_is_no_difference() -> None:
    assert first_difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) is None


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise ArithmeticError("HUNTER2")

    def __hash__(self) -> int:
        return 1


def test_whatever_a_serializer_raises_is_a_refusal() -> None:
    def fails(value: object) -> bytes:
        raise RuntimeError("HUNTER2")

    for packer in (
        Packer(Serializer("fails", fails, json.loads)),
        Packer(Serializer("fails", compact, fails)),
        Packer(Serializer("fails", lambda value: 3.5, json.loads)),  # type: ignore[arg-type,return-value]
    ):
        error = refusal({"a": 1}, packer)
        assert "'fails' raised" in error.why
        assert "HUNTER2" not in str(error)
    for value in (Incomparable(), Decimal("sNaN")):
        assert "HUNTER2" not in str(refusal({"a": value}, Packer(PICKLE)))


def test_what_ones_own_serializer_did_not_write_is_damaged() -> None:
    with pytest.raises(DamagedValue):
        Packer(PLAIN_JSON).unpack(b"\0\x05plain{")


@pytest.mark.parametrize("name", ["", "x" * 33, "naïve", "a\nb", "a\0"])
def test_a_name_is_printable_ascii(name: str) -> None:
    with pytest.raises(ValueError, match="1-32 printable ASCII"):
        Serializer(name, compact, json.loads)


def test_uuid_and_decimal_come_back() -> None:
    value = [UUID(int=5), Decimal("1E+3"), Decimal("1000"), Decimal("1.10")]
    back = PACKER.unpack(PACKER.pack(value))
    assert [str(item) for item in back] == [str(item) for item in value]
