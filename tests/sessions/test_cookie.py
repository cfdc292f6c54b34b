"""Ids and the bytes of cookies."""

import base64
import hmac
import itertools
from collections.abc import Callable

import pytest
from starlette.applications import Starlette

from serverless_session import SharedState
from serverless_session.codec import KeyRing
from serverless_session.errors import ConfigurationError
from serverless_session.sessions.cookie import CookieSettings, IdMaker, cookie_values
from serverless_session.stores import MemoryStore
from serverless_session.testing import CountingStore, ManualClock
from tests.sessions.apps import SECRET, app_over, browser, counted

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


# what str.strip or bytes.strip would take off, or has been seen to: a sibling domain plants a name by it
TRIMMED_BY_OTHERS = [
    *(bytes([byte]) for byte in (0x00, 0x0A, 0x0B, 0x0C, 0x0D, 0x1C, 0x1D, 0x1E, 0x1F, 0x7F, 0x85, 0xA0, 0xAD, 0xFF)),
    *(text.encode() for text in "\xa0\x85\u1680\u2003\u2028\u202f\u3000\ufeff\u200b"),
]


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
        (b"=session=a", []),  # a nameless cookie
        (b"=a; session=b", [b"b"]),
        (b"=", []),
        (b"", []),
        (b";;session=a;", [b"a"]),
        (b"session=", [b""]),
        (b'session="a"', [b'"a"']),  # quotes are part of a value
        (b"x=1, session=a", []),  # what some gateways make of two headers: a comma may stand in a value
        (b"session=a, x=1", [b"a, x=1"]),
        (b"session=\xa0a\x85", [b"\xa0a\x85"]),
        (b"session=\x01\xff", [b"\x01\xff"]),
        (b"session=\x0ba\x0c", [b"\x0ba\x0c"]),
        *[(junk + b"session=a", []) for junk in TRIMMED_BY_OTHERS],
        *[(b"session" + junk + b"=a", []) for junk in TRIMMED_BY_OTHERS],
        *[(b"x=1;" + junk + b"session=a", []) for junk in TRIMMED_BY_OTHERS],
        *[(b"x=1; " + junk + b" session=a", []) for junk in TRIMMED_BY_OTHERS],
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


@pytest.fixture
def host_app() -> tuple[Starlette, CountingStore]:
    """An app whose cookie a sibling domain cannot set, if names are compared as browsers compare them."""
    shared, store = counted()
    return app_over(shared, session_cookie=HOST), store


HOST = "__Host-session"


def ids_of(app: Starlette, *users: str) -> list[str]:
    """Genuine ids, one a user."""
    made = []
    for user in users:
        with browser(app) as client:
            made.append(client.post("/update", json={"user": user}).cookies[HOST])
    return made


def view(app: Starlette, *cookies: bytes) -> dict[str, str]:
    with browser(app) as client:
        response = client.get("/view", headers=[(b"cookie", cookie) for cookie in cookies])
        assert response.status_code == 200
        assert "set-cookie" not in response.headers
        seen: dict[str, str] = response.json()
        return seen


@pytest.mark.parametrize("junk", TRIMMED_BY_OTHERS)
def test_a_planted_name_is_another_name(host_app: tuple[Starlette, CountingStore], junk: bytes) -> None:
    """THREATS 18: the browser sees no `__Host-` there, so a sibling domain may set it."""
    app, store = host_app
    ann, evil = (made.encode() for made in ids_of(app, "ann", "evil"))
    store.reset()
    name = HOST.encode()
    assert view(app, junk + name + b"=" + evil) == {}
    assert view(app, name + junk + b"=" + evil) == {}
    assert view(app, b"x=1, " + name + b"=" + evil) == {}
    assert view(app, b"=" + name + b"=" + evil) == {}
    assert store.calls == 0
    assert view(app, junk + name + b"=" + evil + b"; " + name + b"=" + ann) == {"user": "ann"}


def test_two_ids_are_none_in_one_header_or_two(host_app: tuple[Starlette, CountingStore]) -> None:
    """THREATS 18: a browser sends the cookie of the longer path first; whose it is, nobody can tell."""
    app, store = host_app
    ann, evil = (f"{HOST}={made}".encode() for made in ids_of(app, "ann", "evil"))
    store.reset()
    for cookies in ([ann + b"; " + evil], [evil + b"; " + ann], [ann, evil], [evil, ann], [ann, b"x=1; " + evil, ann]):
        assert view(app, *cookies) == {}
    assert store.calls == 0
    for cookies in ([ann, ann], [ann + b"; " + ann], [b"x=1", ann], [ann, HOST.encode() + b"=null"]):
        assert view(app, *cookies) == {"user": "ann"}


@pytest.mark.parametrize(
    "change",
    [
        lambda made: b'"' + made + b'"',
        lambda made: made + b", x=1",
        lambda made: made + b"\xa0",
        lambda made: b"\x1f" + made,
        lambda made: made[:-1] + b"\x00",
        lambda made: made.replace(made[:1], b"\xc3\xa9"[:1]),
        lambda made: made[:30] + b"\n" + made[30:],
        lambda made: made.swapcase(),
        lambda made: made + b"=",
        lambda made: made * 1000,
        lambda made: b"\x00\xff\r\n" * 15_000,
        lambda made: b"A" * 60_000,
        lambda made: b"=" * 60,
        lambda made: b"",
    ],
)
def test_an_odd_value_costs_nothing(
    host_app: tuple[Starlette, CountingStore], change: Callable[[bytes], bytes]
) -> None:
    """THREATS 18: no trip, no error, nothing stored."""
    app, store = host_app
    (made,) = ids_of(app, "ann")
    store.reset()
    assert view(app, HOST.encode() + b"=" + change(made.encode())) == {}
    assert view(app, *[HOST.encode() + b"=" + change(made.encode())] * 3) == {}
    assert store.calls == 0


def test_macs_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """THREATS 55: by `compare_digest`, whole and 8 bytes long, and by nothing else."""
    made = maker(SECRET).new().text.encode()
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    assert maker(SECRET).recognise(made) is not None
    assert maker(SECRET).recognise(made[:-2] + b"AA") is None
    assert compared == [(8, 8)] * 2
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: True)
    assert maker(SECRET).recognise(made[:-2] + b"AA") is not None, "it alone decides"


# --- attributes -------------------------------------------------------------------------------------------------------

EVERY_SETTING = [
    dict(zip(("path", "same_site", "https_only", "domain", "partitioned"), setting, strict=True))
    for setting in itertools.product(
        ("/", "/shop"), ("lax", "strict", "none"), (None, True, False), (None, ".example.com"), (False, True)
    )
    if not (setting[2] is False and (setting[1] == "none" or setting[4]))
]


def attributes_of(set_cookie: str) -> tuple[set[str], set[str]]:
    """Those that say which cookie it is and how it is kept, and those that say for how long."""
    attributes = {attribute.lower() for attribute in set_cookie.split("; ")[1:]}
    until = {attribute for attribute in attributes if attribute.startswith(("max-age=", "expires="))}
    return attributes - until, until


@pytest.mark.parametrize("https", [True, False])
def test_a_removal_repeats_every_attribute(https: bool) -> None:
    """A browser takes a removal for another cookie's where path, domain or partition differ, or Secure is missing."""
    for setting in EVERY_SETTING:
        settings = CookieSettings(name="session", **setting)  # type: ignore[arg-type]
        stored, until = attributes_of(settings.set("x", 60, https=https).decode())
        removed, ended = attributes_of(settings.remove(https=https).decode())
        assert stored == removed, setting
        assert (until, ended) == ({"max-age=60"}, {"expires=thu, 01 jan 1970 00:00:00 gmt"})
        wanted = {f"path={setting['path']}", "httponly", f"samesite={setting['same_site']}"}
        wanted |= {f"domain={setting['domain']}"} if setting["domain"] else set()
        wanted |= {"partitioned"} if setting["partitioned"] else set()
        for_others = setting["same_site"] == "none" or setting["partitioned"]
        secure = for_others or (https if setting["https_only"] is None else setting["https_only"])
        assert stored == wanted | ({"secure"} if secure else set()), setting


def test_a_removal_through_the_app_repeats_every_attribute() -> None:
    for setting in EVERY_SETTING:
        shared, _ = counted()
        with browser(app_over(shared, **setting | {"domain": None, "path": "/"})) as client:
            stored = attributes_of(client.post("/update", json={"a": 1}).headers["set-cookie"])[0]
            assert attributes_of(client.post("/clear").headers["set-cookie"])[0] == stored
            assert "session" not in client.cookies


@pytest.mark.parametrize("name", ["__Host-session", "__HOST-session", "__Secure-session", "__secure-s"])
@pytest.mark.parametrize("https", [True, False])
def test_a_cookie_whose_name_promises_it_is_always_secure(name: str, https: bool) -> None:
    """Behind a proxy that ends TLS the app may see http; a browser drops such a cookie without Secure."""
    for https_only in (None, True):
        settings = CookieSettings(
            name=name, path="/", same_site="lax", https_only=https_only, domain=None, partitioned=False
        )
        for cookie in (settings.set("x", None, https=https), settings.remove(https=https)):
            assert b"; secure" in cookie


def test_a_secure_name_may_have_a_path_and_a_domain() -> None:
    settings = CookieSettings(
        name="__Secure-s", path="/shop", same_site="lax", https_only=None, domain="a.example", partitioned=False
    )
    assert b"; domain=a.example" in settings.set("x", None, https=True)


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
        {"name": "__HOST-session", "path": "/shop"},
        {"name": "__hOsT-session", "domain": "example.com"},
        {"name": "sessioné"},
        {"name": "session=x"},
        {"name": "session\x0b"},
        {"name": "session,x"},
        {"name": '"session"'},
        {"path": ""},
        {"path": "/é"},
        {"path": "/\x7f"},
        {"domain": "a.example\r\nx: y"},
        {"same_site": "none", "https_only": False},
        {"partitioned": True, "https_only": False},
        {"https_only": 2},
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
