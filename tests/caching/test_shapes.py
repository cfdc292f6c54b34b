"""Values come back as the type that is written down, or are refused where it is written."""

import dataclasses
import datetime as dt
import enum
import typing
import uuid
import zoneinfo
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict

import pydantic
import pytest
from starlette.responses import Response

from serverless_session import SharedState
from serverless_session.caching.shapes import shape_of
from serverless_session.errors import ConfigurationError, ValueNotSerializable
from serverless_session.records.leases import Unfit
from tests.sessions.apps import SECRET

PACKER = SharedState("memory://", secret_key=SECRET).packer


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


@dataclasses.dataclass
class Mug:
    colour: Colour
    price: Decimal
    sizes: tuple[Size, ...] = ()
    like: "list[Mug]" = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Computed:
    """Its constructor must not run again."""

    price: float
    tax: float = dataclasses.field(init=False, default=0.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "price", self.price * 1.2)
        object.__setattr__(self, "tax", self.price * 0.2)


@dataclasses.dataclass
class Hoarding:
    price: int

    def __post_init__(self) -> None:
        self.more = object()


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Options(TypedDict):
    gift: bool
    note: NotRequired[str | None]


class Tea(pydantic.BaseModel):
    name: str
    steeps: dt.timedelta
    found_at: dt.datetime | None = None
    parts: dict[int, list[Decimal]] = {}


class Aliased(pydantic.BaseModel):
    one: int = pydantic.Field(serialization_alias="ONE")
    two: int = pydantic.Field(validation_alias="TWO")

    model_config = pydantic.ConfigDict(populate_by_name=True)


class Page(pydantic.BaseModel, typing.Generic[typing.TypeVar("T")]):  # type: ignore[misc]  # one that is not named
    items: list[Any]


Sku = NewType("Sku", str)
NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 1),
        (bool, True),
        (float, 1.5),
        (float, 1),
        (None, None),
        (str, "tea"),
        (bytes, b"\0\xff"),
        (Decimal, Decimal("1.10")),
        (uuid.UUID, uuid.UUID(int=7)),
        (dt.datetime, NOON),
        (Any, {"a": [1, (2, None)]}),
        (object, "anything"),
        (list, [1, "a"]),
        (dict, {"a": 1}),
        (list[int], [1, 2]),
        (Sequence[int], [1, 2]),
        (set[str], {"a"}),
        (frozenset[int], frozenset({1})),
        (tuple[int, str], (1, "a")),
        (tuple[int, ...], (1, 2, 3)),
        (tuple[()], ()),
        (dict[str, int], {"a": 1}),
        (dict[str, Any], {"a": {"b": 1}}),
        (Mapping[str, Decimal], {"a": Decimal(1)}),
        (dict[int, str], {1: "a", 2: "b"}),
        (dict[tuple[int, int], set[int]], {(1, 2): {3}}),
        (int | None, None),
        (Optional[int], 3),  # noqa: UP045
        (int | str, "3"),
        (Literal["missing"] | Tea, Tea(name="green", steeps=dt.timedelta(1))),
        (list[Any] | list[Tea], [Tea(name="green", steeps=dt.timedelta(1))]),
        (Mug | Tea, Tea(name="green", steeps=dt.timedelta(minutes=3))),
        (list[Mug | None], [None, Mug(Colour.RED, Decimal(9))]),
        (Literal["a", 1, True], True),
        (Annotated[int, "of something"], 4),
        (Sku, "mug-1"),
        (Colour, Colour.BLUE),
        (Size, Size.LARGE),
        (Computed, Computed(4)),
        (Mug, Mug(Colour.RED, Decimal("9.90"), (Size.SMALL,), [Mug(Colour.BLUE, Decimal(1))])),
        (Point, Point(1, 2.5)),
        (dict[str, Point], {"here": Point(1)}),
        (Options, {"gift": True}),
        (Options, {"gift": True, "note": None}),
        (Tea, Tea(name="green", steeps=dt.timedelta(minutes=3), found_at=NOON, parts={1: [Decimal("0.5")]})),
        (list[Tea], [Tea(name="green", steeps=dt.timedelta(1))]),
        (Aliased, Aliased(one=1, two=2)),
        (Page, Page(items=[1, "a"])),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_value_comes_back_equal_and_of_its_type(annotation: Any, value: Any) -> None:
    """THREATS 52."""
    shape = shape_of(annotation, called="it")
    plain = PACKER.unpack(PACKER.pack(shape.dump(value)))
    back = shape.load(plain)
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, list | tuple):
        assert list(map(type, back)) == list(map(type, value))


class Plain:
    def __repr__(self) -> str:
        return "Plain()"


class Excluding(pydantic.BaseModel):
    name: str
    secret: str = pydantic.Field(exclude=True)


class Hidden(pydantic.BaseModel):
    password: pydantic.SecretStr


class Herb(Tea):
    origin: str


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, True),
        (int, "1"),
        (str, None),
        (list[int], (1,)),
        (list[int], ["a"]),
        (dict[str, int], {1: 1}),
        (tuple[int, str], (1,)),
        (Colour, "red"),
        (Literal["a"], "b"),
        (int | str, 1.5),
        (Point, (1, 2.0)),
        (Options, {"gift": True, "colour": "red"}),
        (Tea, {"name": "green"}),
        (Tea, Herb(name="mint", steeps=dt.timedelta(1), origin="here")),
        (Excluding, Excluding(name="a", secret="b")),
        (Hidden, Hidden(password=pydantic.SecretStr("b"))),
        (Any, Plain()),
        (Hoarding, Hoarding(1)),
        (Tea, Tea(name="a", steeps=dt.timedelta(1), found_at=NOON.astimezone(zoneinfo.ZoneInfo("Europe/Berlin")))),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_value_that_is_not_what_is_written_is_refused_when_it_is_to_be_kept(annotation: Any, value: Any) -> None:
    with pytest.raises(ValueNotSerializable):
        PACKER.pack(shape_of(annotation, called="it").dump(value))


@pytest.mark.parametrize(
    "annotation",
    [Response, Plain, list[Plain], Plain | None, dict[str, Response], typing.TypeVar("T"), type, "Undefined"],
    ids=str,
)
def test_a_type_that_cannot_be_restored_is_an_error_where_it_is_written(annotation: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot-restore.*the value of f\(\)"):
        shape_of(annotation, called="the value of f()")


@pytest.mark.parametrize(
    ("annotation", "plain"),
    [
        (int, "1"),
        (list[int], {"a": 1}),
        (dict[int, str], {"1": "a"}),
        (dict[int, str], [[1]]),
        (Colour, "green"),
        (Mug, {"colour": "red"}),
        (Mug, {"colour": "red", "price": Decimal(1), "sizes": (), "like": [], "handle": True}),
        (Tea, '{"name": 1}'),
        (Tea, 7),
        (Mug | Tea, [5, None]),
        (Literal["a"], "b"),
        (tuple[int, str], (1,)),
        (Options, {"colour": 1}),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_what_is_kept_and_no_longer_fits_is_a_miss(annotation: Any, plain: Any) -> None:
    with pytest.raises(Unfit):
        shape_of(annotation, called="it").load(plain)
