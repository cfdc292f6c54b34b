"""Ids and the bytes of cookies."""

import base64

import pytest
from starlette.applications import Starlette

from serverless_session import SharedState
from serverless_session.codec import KeyRing
from serverless_session.errors import ConfigurationError
from serverless_session.sessions.cookie import CookieSettings, IdMaker, cookie_values
from serverless_session.stores import MemoryStore
from serverless_session.testing import ManualClock
from tests.sessions.apps import SECRET, app_over, browser

OTHER = "x9Tq2mVb7LcZ0hRkWd4NyPfGs6JuEa13"


def maker(*secrets: str, namespace: str = "app") -> IdMaker:
    return IdMaker(KeyRing(secrets[0], open=secrets[1:]), namespace)


def test_an_id_is_recognised_by_whoever_has_its_key() -> None:
    made = maker(SECRET).new()
    assert maker(SECRET).recognise(made.text.encode()) == made
    recognised = maker(OTHER, SECRET).recognise(made.text.encode())
    assert recognised is not None
    assert recognised.secret == made.secret
    assert maker(OTHER).recognise(made.text.encode()) is None


def test_a_session_in_use_outlives_the_key_it_began_under() -> None:
    """The cookie that a prolonging change sends is signed with the key that seals now."""
    clock = ManualClock()
    store = MemoryStore(clock=clock)

    def deployed(secret: str, *fallbacks: str) -> Starlette:
        shared = SharedState(store, secret_key=secret, secret_key_fallbacks=fallbacks, clock=clock)
        return app_over(shared, max_age=1000)

    def visited(app: Starlette, cookie: str | None, **data: int) -> tuple[dict[str, int], str | None]:
        with browser(app) as client:
            answer = client.post("/update", json=data, headers={"cookie": f"session={cookie}"} if cookie else {})
            return answer.json(), answer.cookies.get("session")

    _, cookie = visited(deployed(SECRET), None, a=1)
    clock.advance(500)
    _, renewed = visited(deployed(OTHER, SECRET), cookie, b=2)
    assert renewed is not None
    assert renewed != cookie
    assert visited(deployed(OTHER), renewed, c=3)[0] == {"a": 1, "b": 2, "c": 3}
    assert visited(deployed(OTHER, SECRET), cookie, d=4)[0] == {"a": 1, "b": 2, "c": 3, "d": 4}, "the same session"


def test_an_id_of_another_namespace_is_made_up() -> None:
    """THREATS 27: two apps with one secret and one store."""
    assert maker(SECRET, namespace="shop").recognise(maker(SECRET, namespace="office").new().text.encode()) is None


def test_an_id_has_256_random_bits_and_a_mac_of_64() -> None:
    """THREATS 55."""
    ids = [maker(SECRET).new() for _ in range(100)]
    assert {len(made.secret) for made in ids} == {32}
    assert {len(base64.urlsafe_b64decode(made.text)) for made in ids} == {1 + 4 + 32 + 8}
    assert len({made.secret for made in ids}) == 100


def test_every_changed_bit_makes_it_made_up() -> None:
    made = maker(SECRET).new()
    raw = base64.urlsafe_b64decode(made.text)
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        assert maker(SECRET).recognise(base64.urlsafe_b64encode(changed)) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"x",
        b"A" * 60,
        b"A" * 59,
        b"A" * 60_000,
        b"\xff" * 60,
        b"\x00" * 60,
        "é".encode() * 30,
        b"+/" * 30,
    ],
)
def test_what_is_no_id_is_none(value: bytes) -> None:
    assert maker(SECRET).recognise(value) is None


def test_no_id_shows_in_a_repr() -> None:
    made = maker(SECRET).new()
    assert made.text not in repr(made)
    assert repr(made.secret) not in repr(made)


@pytest.mark.parametrize(
    ("header", "values"),
    [
        (b"session=a", [b"a"]),
        (b"x=1; session=a; y=2", [b"a"]),
        (b"session=a; session=b", [b"a", b"b"]),
        (b" \tsession \t=\t a ", [b"a"]),
        (b"Session=a", []),
        (b"session", []),
        (b"=session", []),
        (b"xsession=a; sessionx=b", []),
        (b"session=a=b", [b"a=b"]),
        # what str.strip would trim: a sibling domain plants a name by it
        *[
            (junk + b"session=a", [])
            for junk in (b"\xa0", b"\x85", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x00", b"\xc2\xa0")
        ],
        *[(b"session" + junk + b"=a", []) for junk in (b"\xa0", b"\x85", b"\x0b", b"\x1f")],
    ],
)
def test_cookies_are_parsed_from_their_bytes(header: bytes, values: list[bytes]) -> None:
    """THREATS 18."""
    assert cookie_values([(b"cookie", header)], b"session") == values


def test_several_cookie_headers_are_all_read() -> None:
    assert cookie_values([(b"Cookie", b"session=a"), (b"x", b"session=no"), (b"cookie", b"session=b")], b"session") == [
        b"a",
        b"b",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a b"},
        {"name": ""},
        {"name": "a;b"},
        {"path": "x"},
        {"path": "/;domain=evil"},
        {"path": "/\r\nx"},
        {"domain": ""},
        {"domain": "a;b"},
        {"same_site": "Lax"},
        {"name": "__Host-session", "path": "/shop"},
        {"name": "__Host-session", "domain": "example.com"},
        {"name": "__Host-session", "https_only": False},
        {"name": "__secure-session", "https_only": False},
    ],
)
def test_settings_that_cannot_be_a_cookie_are_refused(wrong: dict[str, object]) -> None:
    right = {
        "name": "session",
        "path": "/",
        "same_site": "lax",
        "https_only": None,
        "domain": None,
        "partitioned": False,
    }
    with pytest.raises(ConfigurationError) as caught:
        CookieSettings(**right | wrong)  # type: ignore[arg-type]
    assert caught.value.code == "bad-cookie"
    assert len(str(caught.value).splitlines()) == 3
