"""What each golden file holds: under which key it was sealed, with which secret, and what comes out."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Literal
from uuid import UUID

from serverless_session.codec import KeyRing

FOLDER = Path(__file__).parent

SECRET = "golden-7f3kQv9zTn2LwXs5RbYc8mPd"
OLDER_SECRET = "golden-4hJd6gVt1BpZx0NqKe7uCyAf"
RING = KeyRing(SECRET, open=[OLDER_SECRET])

ENDS_AT = 1_900_000_000.125


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """`secret`: the one that sealed it. `compress`: whether it was asked for."""

    name: str
    value: object
    namespace: str = "app"
    purpose: str = "session"
    key: str = "app:session:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
    secret: str = SECRET
    ends_at: float = ENDS_AT
    serializer: Literal["json", "msgpack"] = "json"
    compress: bool = False

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.sealed"


EVERY_TYPE = {
    "none": None,
    "bool": [True, False],
    "int": [0, -1, 2**64, -(10**40)],
    "float": [0.0, -0.0, 1.5, 1e-320, float("inf"), float("-inf")],
    "str": ["", "naïve 😀", "\ud800", '"\\\0\u2028'],
    "list": [[], [1, [2, [3]]]],
    "tuple": [(), (1, ("a",))],
    "set": [set(), {1, "a", None, (2, b"x"), frozenset({"f"})}],
    "frozenset": frozenset({"x", "y"}),
    "bytes": bytes(range(256)),
    "datetime": [
        datetime(2026, 11, 24, 12, 30, 45, 123456),  # noqa: DTZ001
        datetime(2026, 11, 24, 12, 30, 45, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
    ],
    "date": date(2026, 11, 24),
    "time": [time(23, 59, 59, 999999), time(1, tzinfo=UTC)],
    "timedelta": timedelta(days=-1, seconds=2, microseconds=3),
    "Decimal": [Decimal("1.10"), Decimal("-0E-8"), Decimal("Infinity")],
    "UUID": UUID("12345678-1234-5678-1234-567812345678"),
    "$": {"$": "set", "v": [{"$": None}]},
    "v": {"v": 1},
}

MENU = {"dishes": [{"id": number, "name": f"dish {number}", "photo": bytes((number,)) * 20} for number in range(60)]}

GOLDEN = [
    Golden(name="1-every-type", value=EVERY_TYPE),
    Golden(name="1-empty-mapping", value={}),
    Golden(name="1-session", value={"v": 1, "created_at": 1_764_000_000.5, "data": {"user": 7, "cart": ["apple"]}}),
    Golden(name="1-stone", value={"v": 1, "moved_to": ["app:session:oWRoZ4QhZlvAqMJqhMyXmBJ2AAF9XZ2ZaMZo0tqFZDI"]}),
    Golden(name="1-older-secret", value={"sealed by": "a secret that now only opens"}, secret=OLDER_SECRET),
    Golden(
        name="1-other-namespace-and-purpose",
        value=["claim", 1],
        namespace="shop.eu-1",
        purpose="idempotency",
        key="shop.eu-1:idempotency:LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ",
    ),
    Golden(name="1-large", value={"text": "x" * 20_000}, ends_at=0.001),
    Golden(name="1-msgpack-every-type", value=EVERY_TYPE, serializer="msgpack"),
    Golden(name="1-compressed-json", value=MENU, purpose="cache", compress=True),
    Golden(name="1-compressed-msgpack", value=MENU, purpose="cache", serializer="msgpack", compress=True),
]
