"""Where the middleware stands among others: other parts' session middleware inside it, its own, mounted apps, wrappers.

The admin panels are the real ones, unmodified, each with the session middleware of Starlette that it is used with.
"""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest
import sqladmin
from fastapi import FastAPI
from fastapi import Request as FastAPIRequest
from sqladmin.authentication import AuthenticationBackend
from sqlalchemy import create_engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.sessions import SessionMiddleware as StarletteSessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette_admin import BaseAdmin
from starlette_admin.auth import AdminUser, AuthProvider

from serverless_session import SessionMiddleware, SharedState, load_session
from serverless_session.errors import SessionNotLoaded
from serverless_session.stores import Delete, Operation, Read, Write
from tests.sessions.apps import ROUTES, app_over, browser, counted, update, view

# --- admin panels with a session middleware of their own --------------------------------------------------------------


class Panel(Protocol):
    """An admin panel, and what its administrator does in a browser."""

    def mount(self, app: Starlette, cookie: str) -> None: ...
    def log_in(self, browser: TestClient) -> None: ...
    def log_out(self, browser: TestClient) -> None: ...
    def lets_in(self, browser: TestClient) -> bool: ...


class SqlAdmin:
    class Authentication(AuthenticationBackend):
        async def login(self, request: Request) -> bool:
            form = await request.form()
            request.session["admin"] = form["username"]
            return form["password"] == "open sesame"

        async def logout(self, request: Request) -> bool:
            request.session.clear()
            return True

        async def authenticate(self, request: Request) -> bool:
            return request.session.get("admin") == "root"

    def mount(self, app: Starlette, cookie: str) -> None:
        backend = self.Authentication("the panel's own secret", session_cookie=cookie, https_only=True)
        sqladmin.Admin(app, create_engine("sqlite://"), authentication_backend=backend)

    def log_in(self, browser: TestClient) -> None:
        form = {"username": "root", "password": "open sesame"}
        assert browser.post("/admin/login", data=form, follow_redirects=False).status_code == 302

    def log_out(self, browser: TestClient) -> None:
        assert browser.get("/admin/logout", follow_redirects=False).status_code == 302

    def lets_in(self, browser: TestClient) -> bool:
        answer = browser.get("/admin/")
        assert answer.status_code == 200
        return not answer.url.path.endswith("/login")


class StarletteAdmin:
    class Provider(AuthProvider):
        async def login(self, username: str, password: str, remember_me: bool, request: Request) -> None:
            assert password == "open sesame"
            request.session["office"] = username

        async def logout(self, request: Request) -> None:
            request.session.clear()

        async def authenticate(self, request: Request) -> AdminUser | None:
            return AdminUser("root") if request.session.get("office") == "root" else None

    def mount(self, app: Starlette, cookie: str) -> None:
        sessions = Middleware(
            StarletteSessionMiddleware, secret_key="another secret", session_cookie=cookie, https_only=True
        )
        admin = BaseAdmin(
            base_url="/office",
            route_name="office",
            auth_provider=self.Provider(),
            secret_key="of its tokens and flashes",
            middlewares=[sessions],
        )
        admin.mount_to(app)

    def log_in(self, browser: TestClient) -> None:
        browser.get("/office/login")
        form = {"username": "root", "password": "open sesame", "csrftoken": self._token(browser)}
        assert browser.post("/office/login", data=form, follow_redirects=False).status_code == 303

    def log_out(self, browser: TestClient) -> None:
        form = {"csrftoken": self._token(browser)}
        assert browser.post("/office/logout", data=form, follow_redirects=False).status_code == 303

    def lets_in(self, browser: TestClient) -> bool:
        answer = browser.get("/office/")
        assert answer.status_code == 200
        return not answer.url.path.endswith("/login")

    def _token(self, browser: TestClient) -> str:
        return browser.cookies["starlette_admin_csrftoken"]


PANELS: dict[str, Callable[[], Panel]] = {"sqladmin": SqlAdmin, "starlette-admin": StarletteAdmin}


@pytest.fixture(params=PANELS)
def panel(request: pytest.FixtureRequest) -> Panel:
    made: Panel = PANELS[request.param]()
    return made


async def farewell(request: Request) -> Response:
    """Logs out as apps do that know of no session but its cookie."""
    response = JSONResponse({})
    response.delete_cookie("session")
    return response


def shop_with(panel: Panel, *, ours: str = "session", theirs: str = "session", **options: Any) -> Starlette:
    shared, _ = counted()
    app = app_over(shared, Route("/farewell", farewell, methods=["POST"]), session_cookie=ours, **options)
    panel.mount(app, theirs)
    return app


def log_in_to_the_shop(browser: TestClient) -> None:
    assert browser.post("/update", json={"user": "ann", "cart": []}).status_code == 200


def cart(browser: TestClient) -> list[str] | None:
    """What is in the cart; None: nobody is logged in to the shop."""
    session = browser.get("/view").json()
    assert session.keys() <= {"user", "cart"}, "nothing of the panel's is in it"
    return session["cart"] if "user" in session else None


def cookies_of(browser: TestClient) -> set[str]:
    return {name for name in browser.cookies if not name.startswith("starlette_admin_")}


NAMES = [
    pytest.param("session", "session", {"session", "session-nested"}, id="same"),
    pytest.param("session", "admin", {"session", "admin"}, id="different"),
    pytest.param("__Host-session", "__Host-session", {"__Host-session", "__Host-session-nested"}, id="__Host-"),
    pytest.param("__Host-session", "session", {"__Host-session", "session"}, id="different by a prefix"),
]


@pytest.mark.parametrize(("ours", "theirs", "kept"), NAMES)
@pytest.mark.parametrize("first", ["shop", "panel"])
def test_a_panels_login_and_ours_live_side_by_side(
    panel: Panel, ours: str, theirs: str, kept: set[str], first: str
) -> None:
    """THREATS 13."""
    with browser(shop_with(panel, ours=ours, theirs=theirs)) as visitor:
        if first == "panel":
            panel.log_in(visitor)
        log_in_to_the_shop(visitor)
        if first == "shop":
            panel.log_in(visitor)
        assert cookies_of(visitor) == kept
        for number in range(3):
            visitor.post("/append", json=f"item {number}")
            assert panel.lets_in(visitor)
            assert len(cart(visitor) or []) == number + 1
        assert cookies_of(visitor) == kept


@pytest.mark.parametrize(("ours", "theirs", "kept"), NAMES)
def test_a_logout_of_one_leaves_the_other(panel: Panel, ours: str, theirs: str, kept: set[str]) -> None:
    """THREATS 13."""
    with browser(shop_with(panel, ours=ours, theirs=theirs)) as visitor:
        log_in_to_the_shop(visitor)
        panel.log_in(visitor)
        panel.log_out(visitor)
        assert not panel.lets_in(visitor)
        assert cart(visitor) == []
        assert cookies_of(visitor) == {ours}
        panel.log_in(visitor)
        visitor.post("/clear")
        assert cart(visitor) is None
        assert panel.lets_in(visitor)
        assert cookies_of(visitor) == kept - {ours}
        log_in_to_the_shop(visitor)
        visitor.post("/regenerate")
        assert panel.lets_in(visitor)
        assert cart(visitor) == []


def test_a_panel_that_was_there_before_us_keeps_its_login(panel: Panel) -> None:
    """Its cookie has our name then, until the first change of it."""
    shared, _ = counted()
    before, after = Starlette(routes=ROUTES), app_over(shared)
    for app in (before, after):
        panel.mount(app, "session")
    with browser(before) as old, browser(after) as new:
        panel.log_in(old)
        new.cookies.update(old.cookies)
        assert panel.lets_in(new)
        assert cart(new) is None
        panel.log_out(new)
        assert not panel.lets_in(new)


@pytest.mark.parametrize("under", ["ours", "none"])
def test_two_panels_of_one_cookie_name_throw_each_other_out_under_us_as_without_us(under: str) -> None:
    """Ours takes one of them out of the quarrel, itself; they share the other place, as they share the only one."""
    app = shop_with(SqlAdmin()) if under == "ours" else Starlette()
    if under == "none":
        SqlAdmin().mount(app, "session")
    StarletteAdmin().mount(app, "session")
    one, other = SqlAdmin(), StarletteAdmin()
    with browser(app) as visitor:
        if under == "ours":
            log_in_to_the_shop(visitor)
        one.log_in(visitor)
        assert one.lets_in(visitor)
        other.log_in(visitor)
        assert (one.lets_in(visitor), other.lets_in(visitor)) == (False, True)
        one.log_in(visitor)
        assert (one.lets_in(visitor), other.lets_in(visitor)) == (True, False)
        if under == "ours":
            assert cart(visitor) == []
            assert cookies_of(visitor) == {"session", "session-nested"}


def test_two_panels_of_different_cookie_names_live_side_by_side() -> None:
    app, one, other = shop_with(SqlAdmin()), SqlAdmin(), StarletteAdmin()
    other.mount(app, "office")
    with browser(app) as visitor:
        log_in_to_the_shop(visitor)
        one.log_in(visitor)
        other.log_in(visitor)
        assert one.lets_in(visitor)
        assert other.lets_in(visitor)
        assert cart(visitor) == []


def test_a_panel_on_an_exempt_path_keeps_its_login(panel: Panel) -> None:
    """THREATS 13: no session is loaded there, but its cookie goes by the other name all the same."""
    shared, store = counted()
    app = app_over(shared, exempt=["/admin/*", "/office/*"])
    panel.mount(app, "session")
    with browser(app) as visitor:
        log_in_to_the_shop(visitor)
        store.reset()
        panel.log_in(visitor)
        assert panel.lets_in(visitor)
        assert store.calls == 0
        assert cart(visitor) == []
        panel.log_out(visitor)
        assert not panel.lets_in(visitor)
        assert cart(visitor) == []


def test_a_removal_of_our_cookie_by_the_app_passes(panel: Panel) -> None:
    with browser(shop_with(panel)) as visitor:
        log_in_to_the_shop(visitor)
        visitor.post("/farewell")
        assert cookies_of(visitor) == set()
        assert cart(visitor) is None


@pytest.mark.parametrize("options", [{}, {"lazy": True}, {"exempt": ["/farewell"]}], ids=["", "lazy", "exempt"])
def test_a_removal_of_our_cookie_passes_though_a_panel_has_one_too(panel: Panel, options: dict[str, Any]) -> None:
    """What the app meant is not told, and a logout that leaves somebody logged in is the worse of the two mistakes."""
    with browser(shop_with(panel)) as visitor, browser(shop_with(panel, **options)) as farewell:
        log_in_to_the_shop(visitor)
        panel.log_in(visitor)
        farewell.cookies.update(visitor.cookies)
        farewell.post("/farewell")
        assert cookies_of(farewell) == set()


class CopiesTheScope:
    """A middleware between that calls the app with a copy of the scope: what is put into that, nobody outside sees."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(dict(scope), receive, send)


async def pass_on(request: Request, call_next: Any) -> Any:
    return await call_next(request)


BETWEEN = {
    "plain": [],
    "scope-copying": [Middleware(CopiesTheScope)],
    "BaseHTTPMiddleware": [Middleware(BaseHTTPMiddleware, dispatch=pass_on)],
}


@pytest.mark.parametrize("between", ["scope-copying", "BaseHTTPMiddleware"])
def test_side_by_side_with_another_middleware_between(panel: Panel, between: str) -> None:
    """THREATS 13."""
    shared, _ = counted()
    app = Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, shared=shared), *BETWEEN[between]])
    panel.mount(app, "session")
    with browser(app) as visitor:
        log_in_to_the_shop(visitor)
        panel.log_in(visitor)
        assert panel.lets_in(visitor)
        assert cart(visitor) == []
        panel.log_out(visitor)
        assert not panel.lets_in(visitor)
        if between != "scope-copying":  # there it may mean either, and both are removed
            assert cart(visitor) == []
        panel.log_in(visitor)
        log_in_to_the_shop(visitor)
        visitor.post("/clear")
        assert cart(visitor) is None
        assert panel.lets_in(visitor)


@pytest.mark.parametrize(("theirs", "told"), [("session", 1), ("admin", 0)])
def test_a_cookie_of_our_name_that_is_not_ours_is_an_event(
    theirs: str, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    panel = SqlAdmin()
    with browser(shop_with(panel, theirs=theirs)) as visitor:
        log_in_to_the_shop(visitor)
        caplog.set_level(logging.INFO, "serverless_session")
        panel.log_in(visitor)
    events = [record for record in caplog.records if getattr(record, "event", None) == "session.foreign_cookie"]
    assert len(events) == told
    for value in visitor.cookies.values():
        assert value not in caplog.text


# --- ours inside ours -------------------------------------------------------------------------------------------------


def twice(inner: SharedState, outer: SharedState, *between: Middleware, **options: Any) -> Starlette:
    """An app behind two of ours; `options` are those of the inner one."""
    return Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(SessionMiddleware, shared=outer),
            *between,
            Middleware(SessionMiddleware, shared=inner, **options),
        ],
    )


def asked(operations: list[Operation]) -> list[type[Operation]]:
    kinds: list[type[Operation]] = [type(operation) for operation in operations]
    operations.clear()
    return kinds


@pytest.mark.parametrize("between", BETWEEN)
def test_two_of_ours_with_one_cookie_are_one(between: str) -> None:
    """THREATS 13: one load, one save, one cookie, and the trips of one."""
    shared, store = counted()
    never, untouched = counted()
    for inner in (shared, never):
        with browser(twice(inner, shared, *BETWEEN[between])) as client:
            store.reset()
            assert len(client.post("/update", json={"user": "ann"}).headers.get_list("set-cookie")) == 1
            assert asked(store.operations) == [Write]
            client.get("/view")
            assert asked(store.operations) == [Read]
            assert client.post("/update", json={"cart": []}).headers.get_list("vary") == ["Cookie"]
            assert asked(store.operations) == [Read, Write]
            client.post("/regenerate")
            assert asked(store.operations) == [Read, Write, Write]
            assert client.get("/view").json() == {"user": "ann", "cart": []}
            asked(store.operations)
            assert len(client.post("/clear").headers.get_list("set-cookie")) == 1
            assert asked(store.operations) == [Read, Delete]
            assert client.get("/view").json() == {}
    assert untouched.calls == 0


def test_ours_in_a_mounted_app_joins_ours_around_it() -> None:
    shared, store = counted()
    inner = Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, shared=shared)])
    with browser(app_over(shared, Mount("/inner", inner))) as client:  # type: ignore[arg-type]
        client.post("/update", json={"user": "ann"})
        store.reset()
        assert client.post("/inner/update", json={"cart": []}).json() == {"user": "ann", "cart": []}
        assert store.calls == 2
        assert client.get("/view").json() == {"user": "ann", "cart": []}
        client.post("/inner/clear")
        assert client.get("/view").json() == {}


def shop_and_office(**options: Any) -> Starlette:
    """A shop with ours, and in it an office with another of ours."""
    shared, _ = counted()
    office = Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, shared=shared, **options)])
    return app_over(shared, Mount("/office", office))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "cookies"),
    [
        ({"session_cookie": "office"}, {"session", "office"}),
        ({"path": "/office"}, {"session", "session-nested"}),
        ({"session_cookie": "office", "path": "/office"}, {"session", "office"}),
    ],
    ids=["name", "path", "both"],
)
@pytest.mark.parametrize("first", ["shop", "office"])
def test_two_of_ours_with_cookies_that_differ_are_independent(
    options: dict[str, Any], cookies: set[str], first: str
) -> None:
    """THREATS 13."""
    shop, office = "", "/office"
    with browser(shop_and_office(**options)) as client:
        order = [shop, office] if first == "shop" else [office, shop]
        for part in order:
            client.post(f"{part}/update", json={"in": part, "cart": []})
        assert {cookie.name for cookie in client.cookies.jar} == cookies
        for item in "ab":
            for part in order:
                client.post(f"{part}/append", json=item)
        for part in (shop, office):
            assert client.get(f"{part}/view").json() == {"in": part, "cart": ["a", "b"]}
        client.post(f"{office}/regenerate")
        client.post(f"{shop}/clear")
        assert client.get(f"{shop}/view").json() == {}
        assert client.get(f"{office}/view").json() == {"in": office, "cart": ["a", "b"]}
        client.post(f"{shop}/update", json={"in": shop})
        client.post(f"{office}/clear")
        assert client.get(f"{office}/view").json() == {}
        assert client.get(f"{shop}/view").json() == {"in": shop}


# --- mounted apps -----------------------------------------------------------------------------------------------------


def starlette_part() -> Starlette:
    return Starlette(routes=[Route("/view", view), Route("/update", update, methods=["POST"])])


def fastapi_part() -> FastAPI:
    part = FastAPI()

    @part.get("/view")
    def view(request: FastAPIRequest) -> dict[str, Any]:
        return request.session

    @part.post("/update")
    async def update(request: FastAPIRequest) -> dict[str, Any]:
        request.session.update(await request.json())
        return request.session

    return part


@pytest.mark.parametrize("whole", [Starlette, FastAPI])
@pytest.mark.parametrize("part", [starlette_part, fastapi_part])
def test_a_mounted_app_sees_and_saves_the_session(whole: type[Starlette], part: Callable[[], Starlette]) -> None:
    shared, store = counted()
    app = whole()
    app.add_middleware(SessionMiddleware, shared=shared)
    app.mount("/deep/part", part())
    app.mount("/part", part())
    with browser(app) as client:
        assert client.post("/part/update", json={"user": "ann"}).json() == {"user": "ann"}
        store.reset()
        assert client.post("/deep/part/update", json={"cart": []}).json() == {"user": "ann", "cart": []}
        assert store.calls == 2
        assert client.get("/part/view").json() == {"user": "ann", "cart": []}


def test_a_mounted_app_answers_its_own_exceptions_and_an_answer_is_saved() -> None:
    """Unlike that of the app itself, its 500 is made inside of the middleware: it is an answer like any other."""

    async def change_and_raise(request: Request) -> Response:
        request.session["seen"] = True
        raise RuntimeError

    shared, _ = counted()
    part = Starlette(routes=[Route("/raise", change_and_raise)])
    app = app_over(shared, Route("/raise", change_and_raise), Mount("/part", part))  # type: ignore[arg-type]
    with TestClient(app, base_url="https://testserver", raise_server_exceptions=False) as client:
        client.post("/update", json={"user": "ann"})
        assert client.get("/raise").status_code == 500
        assert client.get("/view").json() == {"user": "ann"}
        assert client.get("/part/raise").status_code == 500
        assert client.get("/view").json() == {"user": "ann", "seen": True}


# --- whoever reads it, however, whenever ------------------------------------------------------------------------------

READINGS: dict[str, Callable[[Any], object]] = {
    "s[k]": lambda session: session["user"],
    "get": lambda session: session.get("user"),
    "in": lambda session: "user" in session,
    "keys": lambda session: list(session.keys()),
    "items": lambda session: list(session.items()),
    "values": lambda session: list(session.values()),
    "dict(s)": dict,
    "{**s}": lambda session: {**session},
    "s | {}": lambda session: session | {},
    "s.copy()": lambda session: session.copy(),
    "repr": repr,
    "==": lambda session: session == {"user": "ann"},
    "len": len,
    "iter": list,
    "json.dumps": json.dumps,
}
REACHED: dict[str, Callable[[Request], Any]] = {
    "request.session": lambda request: request.session,
    "the scope": lambda request: request.scope["session"],
}


async def page(request: Request) -> Response:
    """A page made with the session, read in the way and at the time that the query says."""
    said = request.query_params
    reading, reached = READINGS[said["reading"]], REACHED[said["reached"]]
    headers = {"cache-control": said["says"]} if said["says"] else {}
    if said["when"] == "before":
        return PlainTextResponse(repr(reading(reached(request))), headers=headers)

    async def body() -> Any:
        yield ""
        yield repr(reading(reached(request)))

    return StreamingResponse(body(), headers=headers)


@pytest.fixture(params=BETWEEN)
def pages(request: pytest.FixtureRequest) -> Iterator[TestClient]:
    shared, _ = counted()
    routes = [*ROUTES, Route("/page", page)]
    ours = Middleware(SessionMiddleware, shared=shared)
    with browser(Starlette(routes=routes, middleware=[ours, *BETWEEN[request.param]])) as client:
        client.post("/update", json={"user": "ann"})
        yield client


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_page_made_with_a_session_is_private_however_it_was_read(pages: TestClient, when: str) -> None:
    """THREATS 7: 13 of 18 ways to read a dict are not seen by a subclass, and a stream reads after the start."""
    for reading in READINGS:
        for reached in REACHED:
            query = {"reading": reading, "reached": reached, "when": when, "says": ""}
            answer = pages.get("/page", params=query)
            assert answer.status_code == 200
            assert answer.text
            assert answer.headers.get("cache-control") == "private", (reading, reached)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("says", "sent"),
    [
        ("public, max-age=60", "public, max-age=60"),
        ("s-maxage=60", "s-maxage=60"),
        ("max-age=60", "max-age=60, private"),
        ("no-store", "no-store"),
        ("no-cache", "no-cache, private"),
    ],
)
def test_a_page_is_for_all_only_if_the_app_says_so(pages: TestClient, when: str, says: str, sent: str) -> None:
    """THREATS 7."""
    query = {"reading": "get", "reached": "the scope", "when": when, "says": says}
    assert pages.get("/page", params=query).headers["cache-control"] == sent


def test_a_lazy_session_is_not_loaded_after_the_start() -> None:
    """THREATS 7: the page would be a visitor's, and its headers would not say so."""

    async def page(request: Request) -> Response:
        async def body() -> Any:
            yield repr(await load_session(request))

        return StreamingResponse(body())

    shared, _ = counted()
    with browser(app_over(shared)) as eager, browser(app_over(shared, Route("/page", page), lazy=True)) as lazy:
        eager.post("/update", json={"user": "ann"})
        lazy.cookies.update(eager.cookies)
        with pytest.raises(SessionNotLoaded, match="session-too-late"):
            lazy.get("/page")


def test_a_page_for_a_visitor_without_a_session_is_left_as_it_is(pages: TestClient) -> None:
    pages.cookies.clear()
    query = {"reading": "get", "reached": "the scope", "when": "before", "says": ""}
    assert "cache-control" not in pages.get("/page", params=query).headers
