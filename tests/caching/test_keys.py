"""One key for one value, and for no other."""

import datetime
import decimal
import enum
import uuid
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from serverless_session.caching.keys import key_bytes
from serverless_session.codec.serializers import first_difference


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Address:
    street: str
    number: int


class User(BaseModel):
    name: str
    tags: set[str] = set()


DIFFERENT: list[Any] = [
    1,
    "1",
    b"1",
    True,
    1.0,
    decimal.Decimal(1),
    decimal.Decimal("1.0"),
    None,
    "",
    b"",
    (),
    [],
    {},
    set(),
    0,
    False,
    (1,),
    [1],
    {1},
    {1: 1},
    ("a", "bc"),
    ("ab", "c"),
    (("a",), "b"),
    ("a", ("b",)),
    Colour.RED,
    Colour.BLUE,
    Level.LOW,
    Point(1, 2),
    (1, 2),
    Address("a", 1),
    Address("a", 2),
    {"street": "a", "number": 1},
    User(name="ann"),
    {"name": "ann", "tags": set()},
    uuid.UUID(int=1),
    datetime.date(2026, 1, 1),
    datetime.datetime(2026, 1, 1),  # noqa: DTZ001
    datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    datetime.datetime(2026, 1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
    datetime.time(1),
    datetime.time(1, fold=1),
    datetime.timedelta(1),
]


def test_what_differs_has_other_keys() -> None:
    assert len({key_bytes(value) for value in DIFFERENT}) == len(DIFFERENT)


def test_the_order_of_a_mapping_or_a_set_says_nothing() -> None:
    assert key_bytes({"a": 1, "b": 2}) == key_bytes({"b": 2, "a": 1})
    assert key_bytes({"b", "a", "c"}) == key_bytes(frozenset(["c", "b", "a"]))
    assert key_bytes(0.0) != key_bytes(-0.0), "which a function may tell apart"
    assert key_bytes(User(name="ann", tags={"x", "y"})) == key_bytes(User(name="ann", tags={"y", "x"}))


class Text(str):
    """What derives from a type of ours may mean something else by being equal."""


@pytest.mark.parametrize("value", [object(), lambda: None, Text("a"), (1, object()), {"a": [open]}])
def test_what_is_not_known_by_its_value_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="key="):
        key_bytes(value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(values, values)
def test_two_values_have_one_key_only_if_they_are_the_same(one: Any, other: Any) -> None:
    assert (key_bytes(one) == key_bytes(other)) is (first_difference(one, other) is None)
