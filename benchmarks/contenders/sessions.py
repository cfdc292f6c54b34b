"""Those who keep sessions, and those who show what the wire and a framework cost without them.

An app does one of four things with a session of a given size: nothing, read one key, change one key, or fill a new one.
Each contender is made for one of them by `prepare(action, size)`. Before it is timed, it has shown that a session comes
back: an app that reads answers with what was stored.
"""

import json
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache, partial
from itertools import count
from typing import Any, Final

from benchmarks.asking import Contender, Place, Unfit
from benchmarks.contenders.raw import Socket, command
from benchmarks.contenders.requests import Visitor, WsgiVisitor
from benchmarks.measuring import Run
from benchmarks.results import Role
from serverless_session import SessionMiddleware, SharedState

LIFETIME: Final = 14 * 24 * 3600
TIMEOUT: Final = 10
"""Seconds: a machine that does something else for one of them is no failure of a store."""
LARGEST: Final = 128 * 1024
SECRET: Final = "kW3vJm9xQ2rT7bYp5sLd8fHg4nZc6aRe"
OURS: Final = "serverless-session"
OURS_MSGPACK: Final = "serverless-session, MessagePack"
OURS_LAZY: Final = "serverless-session, lazy"
FLOOR: Final = "redis-py"


class Action(StrEnum):
    """What the app does with the session."""

    UNTOUCHED = "untouched"
    READ = "read-only"
    WRITE = "one write"
    NEW = "new visitor"


def contents(size: int) -> dict[str, Any]:
    """A session of about so many bytes of JSON, made anew at each call: a visitor and a cart."""
    made: dict[str, Any] = json.loads(_contents(size))
    return made


@lru_cache
def _contents(size: int) -> str:
    session = {"user": "ada@example.com", "count": 0, "csrf": "c2VjcmV0LXRva2VuLW9mLWFkYQ", "cart": []}
    items: list[str] = []
    left = size - len(json.dumps(session, separators=(",", ":")))
    while True:
        number = len(items) + 1
        item = json.dumps(
            {"id": 1000 + number, "name": f"blue mug {number}", "price": 12.5, "count": 2}, separators=(",", ":")
        )
        left -= len(item) + 1
        if left < 0:
            return json.dumps(session, separators=(",", ":")).replace("[]", f"[{','.join(items)}]")
        items.append(item)


def all_contenders(action: Action, size: int) -> list[Contender]:
    """In the order in which they are shown."""

    def of(
        name: str, role: Role, prepare: Callable[[Action, int, Place], Run], *, bare: str = "", note: str = ""
    ) -> Contender:
        return Contender(name=name, role=role, prepare=partial(prepare, action, size), bare=bare, note=note)

    lazy = [of(OURS_LAZY, Role.OURS, _ours_lazy, note="`lazy=True`: loaded when asked for")]
    return [
        of("bare socket", Role.LIMIT, _bare_socket),
        of(FLOOR, Role.FLOOR, _redis_py),
        of("bare ASGI app", Role.BARE, _bare_asgi),
        of(OURS, Role.OURS, _ours),
        of(OURS_MSGPACK, Role.OURS, _ours_msgpack),
        *(lazy if action is Action.UNTOUCHED else []),
        of(
            "Starlette's cookie sessions",
            Role.PEER,
            _starlette_cookie,
            note="the data is in the cookie",
        ),
        of("starsessions", Role.PEER, _starsessions),
        of("Litestar, bare", Role.BARE, _litestar_bare),
        of("Litestar's sessions", Role.PEER, _litestar, bare="Litestar, bare"),
        of("Flask, bare", Role.BARE, _flask_bare),
        of("Flask-Session", Role.PEER, _flask_session, bare="Flask, bare", note="synchronous"),
    ]


# --- the limit and the floor ------------------------------------------------------------------------------------------


def _commands(action: Action, size: int) -> list[tuple[bytes, ...]]:
    """What is to be done on Redis, at the least: read and prolong, and write where something is written."""
    kept, lifetime = json.dumps(contents(size), separators=(",", ":")).encode(), str(LIFETIME).encode()
    get: tuple[bytes, ...] = (b"GETEX", b"session", b"EX", lifetime)
    put: tuple[bytes, ...] = (b"SET", b"session", kept, b"EX", lifetime)
    return {Action.UNTOUCHED: [get], Action.READ: [get], Action.WRITE: [get, put], Action.NEW: [put]}[action]


def _bare_socket(action: Action, size: int, place: Place) -> Run:
    wire = Socket(place)
    lifetime = str(LIFETIME).encode()
    wire.ask(command(b"SET", b"session", json.dumps(contents(size)).encode(), b"EX", lifetime))
    asked = [command(*words) for words in _commands(action, size)]

    def run(calls: int) -> None:
        for _ in range(calls):
            for question in asked:
                wire.ask(question)

    return run


def _redis_py(action: Action, size: int, place: Place) -> Run:
    from redis.asyncio import Redis

    client = Redis.from_url(place.url, max_connections=512)
    place.close_with(client.aclose)
    kept = json.dumps(contents(size), separators=(",", ":")).encode()
    place.wait(client.set("session", kept, ex=LIFETIME))

    async def read() -> None:
        await client.getex("session", ex=LIFETIME)

    async def write() -> None:
        await client.getex("session", ex=LIFETIME)
        await client.set("session", kept, ex=LIFETIME)

    async def new() -> None:
        await client.set("session", kept, ex=LIFETIME)

    return place.repeating({Action.UNTOUCHED: read, Action.READ: read, Action.WRITE: write, Action.NEW: new}[action])


# --- ASGI middleware --------------------------------------------------------------------------------------------------


def asgi_app(action: Action, size: int) -> Any:
    """An app on bare ASGI whose session is in the scope. It fills the session first, at `fill`."""
    filled, numbers = contents(size), count(1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b"ok"
        if scope["path"] == "/fill" or action is Action.NEW:
            scope["session"].update(filled)
        elif action is Action.WRITE:
            scope["session"]["count"] = next(numbers)
        elif action is Action.READ:
            body = scope["session"]["user"].encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})

    return app


def asgi_run(app: Any, action: Action, place: Place) -> Run:
    """Fill a session of `app`, show that it comes back, and visit with it."""
    visitor = Visitor(app)
    if action is not Action.NEW:
        first = Visitor(app, "/fill")
        place.wait(first())
        visitor.keep_cookie_of(first)
        place.wait(visitor())
        if action is Action.READ and visitor.body != b"ada@example.com":
            raise Unfit(f"the session did not come back: {visitor.body[:100]!r}")
    return place.repeating(visitor)


def _bare_asgi(action: Action, size: int, place: Place) -> Run:
    app = asgi_app(action, size)
    kept = contents(size)

    async def with_a_dict(scope: Any, receive: Any, send: Any) -> None:
        scope["session"] = kept
        await app(scope, receive, send)

    return place.repeating(Visitor(with_a_dict))


def shared_state(place: Place, serializer: Any = "json") -> SharedState:
    shared = SharedState(place.url, secret_key=SECRET, serializer=serializer, timeout=TIMEOUT)
    place.close_with(shared.store.aclose)
    return shared


def our_app(app: Any, place: Place, *, serializer: str = "json", lazy: bool = False) -> Any:
    return SessionMiddleware(
        app, shared=shared_state(place, serializer), max_age=LIFETIME, lazy=lazy, max_session_bytes=LARGEST
    )


def _ours(action: Action, size: int, place: Place) -> Run:
    return asgi_run(our_app(asgi_app(action, size), place), action, place)


def _ours_msgpack(action: Action, size: int, place: Place) -> Run:
    return asgi_run(our_app(asgi_app(action, size), place, serializer="msgpack"), action, place)


def _ours_lazy(action: Action, size: int, place: Place) -> Run:
    from starlette.requests import HTTPConnection

    from serverless_session import load_session

    inner = asgi_app(action, size)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/fill":
            await load_session(HTTPConnection(scope))
        await inner(scope, receive, send)

    return asgi_run(our_app(app, place, lazy=True), action, place)


def starlette_cookie_app(app: Any) -> Any:
    from starlette.middleware.sessions import SessionMiddleware as CookieSessions

    return CookieSessions(app, secret_key=SECRET, max_age=LIFETIME, https_only=True)


def _starlette_cookie(action: Action, size: int, place: Place) -> Run:
    if size > 2048:
        raise Unfit("browsers drop a cookie of more than 4,096 bytes")
    return asgi_run(starlette_cookie_app(asgi_app(action, size)), action, place)


def starsessions_app(app: Any, action: Action, place: Place) -> Any:
    from redis.asyncio import Redis
    from starlette.requests import HTTPConnection
    from starsessions import SessionMiddleware as Starsessions
    from starsessions import load_session
    from starsessions.stores.redis import RedisStore

    client = Redis.from_url(place.url)
    place.close_with(client.aclose)

    async def loading(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (action is not Action.UNTOUCHED or scope["path"] == "/fill"):
            await load_session(HTTPConnection(scope))
        await app(scope, receive, send)

    return Starsessions(loading, store=RedisStore(connection=client), lifetime=LIFETIME)


def _starsessions(action: Action, size: int, place: Place) -> Run:
    return asgi_run(starsessions_app(asgi_app(action, size), action, place), action, place)


# --- frameworks with sessions of their own ----------------------------------------------------------------------------


def _litestar_app(action: Action, size: int, place: Place, *, is_bare: bool) -> Any:
    from litestar import Litestar, MediaType, Request, get
    from litestar.middleware.session.server_side import ServerSideSessionConfig
    from litestar.stores.redis import RedisStore

    filled, numbers = contents(size), count(1)

    async def fill(request: Request) -> str:
        request.session.update(filled)
        return "ok"

    async def visit(request: Request) -> str:
        if is_bare or action is Action.UNTOUCHED:
            return "ok"
        if action is Action.NEW:
            request.session.update(filled)
        elif action is Action.WRITE:
            request.session["count"] = next(numbers)
        else:
            return str(request.session["user"])
        return "ok"

    routes = [get("/fill", media_type=MediaType.TEXT)(fill), get("/", media_type=MediaType.TEXT)(visit)]
    if is_bare:
        return Litestar(routes, openapi_config=None)
    store = RedisStore.with_client(place.url)
    place.close_with(store._redis.aclose)
    sessions = ServerSideSessionConfig(max_age=LIFETIME, secure=True)
    return Litestar(routes, middleware=[sessions.middleware], stores={"sessions": store}, openapi_config=None)


def _litestar_bare(action: Action, size: int, place: Place) -> Run:
    return place.repeating(Visitor(_litestar_app(action, size, place, is_bare=True)))


def _litestar(action: Action, size: int, place: Place) -> Run:
    return asgi_run(_litestar_app(action, size, place, is_bare=False), action, place)


def _flask_app(action: Action, size: int, place: Place, *, is_bare: bool) -> Any:
    import flask
    import redis

    filled, numbers = contents(size), count(1)
    app = flask.Flask("shop")
    app.config["SECRET_KEY"] = SECRET

    def fill() -> str:
        flask.session.update(filled)
        return "ok"

    def visit() -> str:
        if is_bare or action is Action.UNTOUCHED:
            return "ok"
        if action is Action.NEW:
            flask.session.update(filled)
        elif action is Action.WRITE:
            flask.session["count"] = next(numbers)
        else:
            return str(flask.session["user"])
        return "ok"

    app.add_url_rule("/fill", view_func=fill)
    app.add_url_rule("/", view_func=visit)
    if not is_bare:
        from flask_session import Session

        app.config["SESSION_TYPE"] = "redis"
        app.config["SESSION_REDIS"] = redis.Redis.from_url(place.url)
        app.config["PERMANENT_SESSION_LIFETIME"] = LIFETIME
        app.config["SESSION_COOKIE_SECURE"] = True
        Session(app)
    return app


def _flask_bare(action: Action, size: int, place: Place) -> Run:
    return _again(WsgiVisitor(_flask_app(action, size, place, is_bare=True)))


def _flask_session(action: Action, size: int, place: Place) -> Run:
    app = _flask_app(action, size, place, is_bare=False)
    visitor = WsgiVisitor(app)
    if action is not Action.NEW:
        first = WsgiVisitor(app, "/fill")
        first()
        visitor.keep_cookie_of(first)
        visitor()
        if action is Action.READ and visitor.body != b"ada@example.com":
            raise Unfit(f"the session did not come back: {visitor.body[:100]!r}")
    return _again(visitor)


def _again(visitor: WsgiVisitor) -> Run:
    def run(calls: int) -> None:
        for _ in range(calls):
            visitor()

    return run
