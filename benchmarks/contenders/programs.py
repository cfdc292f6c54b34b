"""Programs that start cold: imports, an app, a handler, and one event of payload format 2.0 that uses it.

Each is a text, run by an interpreter that has nothing but `needs`; it is given the port of a Redis server. With a
second argument it also says how many modules it has loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from benchmarks.results import Role
from tests.aws.events import event_v2

FLOOR: Final = "Starlette and Mangum"
OURS_HANDLER: Final = "serverless-session, handler"
OURS: Final = "serverless-session, sessions"
OURS_MSGPACK: Final = "serverless-session, sessions, MessagePack"
OURS_CACHE: Final = "serverless-session, cache"


class Case(StrEnum):
    """What the app has."""

    ALONE = "an app alone"
    SESSION = "an app with sessions, a new one"
    CACHE = "an app with a cache, a miss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """`in_quick`: does a quick run ask it, too?"""

    case: Case
    name: str
    role: Role
    needs: tuple[str, ...]
    text: str
    note: str = ""
    in_quick: bool = False


_HEAD: Final = f"""\
import sys
EVENT = {event_v2()!r}
class Context:
    def get_remaining_time_in_millis(self):
        return 3000
SECRET = "kW3vJm9xQ2rT7bYp5sLd8fHg4nZc6aRe"
URL = "redis://127.0.0.1:" + sys.argv[1]
"""

_TAIL: Final = """
if len(sys.argv) > 2:
    print(len(sys.modules))
"""

_APP: Final = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
async def page(request):
    {work}
    return PlainTextResponse("ok")
app = Starlette(routes=[Route("/", page)])
"""

_MANGUM: Final = """
from mangum import Mangum
assert Mangum(app, lifespan="off")(EVENT, Context())["statusCode"] == 200
"""

_OUR_HANDLER: Final = """
from serverless_session import LambdaHandler
handler = LambdaHandler(app)
assert handler(EVENT, Context())["statusCode"] == 200
"""

_WRITE: Final = 'request.session["user"] = "ada@example.com"'

_OUR_SESSIONS: Final = """
from serverless_session import SessionMiddleware, SharedState
app.add_middleware(SessionMiddleware, shared=SharedState(URL, secret_key=SECRET, serializer="{serializer}"))
"""

_STARSESSIONS: Final = """
from redis.asyncio import Redis
from starsessions import SessionAutoloadMiddleware, SessionMiddleware
from starsessions.stores.redis import RedisStore
app.add_middleware(SessionAutoloadMiddleware)
app.add_middleware(SessionMiddleware, store=RedisStore(connection=Redis.from_url(URL)), lifetime=3600)
"""

_LITESTAR: Final = f"""
from litestar import Litestar, Request, get
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.redis import RedisStore
@get("/")
async def page(request: Request) -> str:
    {_WRITE}
    return "ok"
sessions = ServerSideSessionConfig()
app = Litestar([page], middleware=[sessions.middleware], stores={{"sessions": RedisStore.with_client(URL)}})
"""

_FLASK: Final = """
import io
import flask
import redis
from flask_session import Session
app = flask.Flask("shop")
app.config.update(SECRET_KEY=SECRET, SESSION_TYPE="redis", SESSION_REDIS=redis.Redis.from_url(URL))
Session(app)
@app.route("/")
def page():
    flask.session["user"] = "ada@example.com"
    return "ok"
environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/", "QUERY_STRING": "", "SERVER_NAME": "a",
    "SERVER_PORT": "443", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "a", "wsgi.version": (1, 0),
    "wsgi.url_scheme": "https", "wsgi.errors": sys.stderr, "wsgi.input": io.BytesIO(), "wsgi.multithread": True,
    "wsgi.multiprocess": True, "wsgi.run_once": False}
seen = []
assert b"".join(app(environ, lambda status, headers, info=None: seen.append(status))) == b"ok"
assert seen == ["200 OK"]
"""


def _cached(decorated: str, *, first: str = "") -> str:
    """An app whose page calls a cached function; `first`: what it awaits before."""
    menu = f"\n{decorated}\nasync def menu(key: str) -> dict:\n    return {{'key': key}}\n"
    return menu + _APP.format(work=f'{first or "pass"}\n    assert await menu("tea") == {{"key": "tea"}}')


_OUR_CACHE: Final = """
from serverless_session import Cache, SharedState
cache = Cache(SharedState(URL, secret_key=SECRET), ttl=60)
"""

_AIOCACHE: Final = """
from aiocache import RedisCache, cached
from aiocache.serializers import JsonSerializer
where = {"cache": RedisCache, "endpoint": "127.0.0.1", "port": int(sys.argv[1]), "serializer": JsonSerializer()}
"""

_CASHEWS: Final = """
from cashews import cache
cache.setup(URL)
"""

_DOGPILE: Final = """
from dogpile.cache import make_region
region = make_region().configure("dogpile.cache.redis", expiration_time=60, arguments={"url": URL})
@region.cache_on_arguments()
def menu(key: str) -> dict:
    return {"key": key}
"""

_FASTAPI_CACHE: Final = """
from fastapi_cache import FastAPICache
from fastapi_cache.backends.redis import RedisBackend
from fastapi_cache.decorator import cache
from redis.asyncio import Redis
FastAPICache.init(RedisBackend(Redis.from_url(URL)), prefix="menu")
"""

_REDIS_PY: Final = """
from redis.asyncio import Redis
client = Redis.from_url(URL)
"""

_LAMBDA: Final = ("starlette", "mangum")


def _program(
    case: Case, name: str, role: Role, needs: tuple[str, ...], *texts: str, note: str = "", quick: bool = False
) -> Program:
    text = "".join((_HEAD, *texts, _TAIL))
    return Program(case=case, name=name, role=role, needs=needs, text=text, note=note, in_quick=quick)


def _redis_page() -> str:
    return _REDIS_PY + _APP.format(work='await client.set("key", "value", ex=60)')


ALL: Final = (
    _program(Case.ALONE, "an empty program", Role.LIMIT, (), quick=True),
    _program(Case.ALONE, FLOOR, Role.FLOOR, _LAMBDA, _APP.format(work="pass"), _MANGUM, quick=True),
    _program(
        Case.SESSION,
        "Starlette and Mangum, redis-py",
        Role.BARE,
        (*_LAMBDA, "redis"),
        _redis_page(),
        _MANGUM,
        note="one SET",
    ),
    _program(
        Case.ALONE,
        OURS_HANDLER,
        Role.OURS,
        ("serverless-session[lambda]",),
        _APP.format(work="pass"),
        _OUR_HANDLER,
        quick=True,
    ),
    _program(
        Case.SESSION,
        OURS,
        Role.OURS,
        ("serverless-session[lambda,redis]",),
        _APP.format(work=_WRITE),
        _OUR_SESSIONS.format(serializer="json"),
        _OUR_HANDLER,
        quick=True,
    ),
    _program(
        Case.SESSION,
        OURS_MSGPACK,
        Role.OURS,
        ("serverless-session[lambda,redis,msgpack]",),
        _APP.format(work=_WRITE),
        _OUR_SESSIONS.format(serializer="msgpack"),
        _OUR_HANDLER,
    ),
    _program(
        Case.SESSION,
        "Starlette's cookie sessions, Mangum",
        Role.PEER,
        (*_LAMBDA, "itsdangerous"),
        _APP.format(work=_WRITE),
        "from starlette.middleware.sessions import SessionMiddleware\n",
        "app.add_middleware(SessionMiddleware, secret_key=SECRET)\n",
        _MANGUM,
        note="no store",
    ),
    _program(
        Case.SESSION,
        "starsessions, Mangum",
        Role.PEER,
        (*_LAMBDA, "starsessions", "redis"),
        _APP.format(work=_WRITE),
        _STARSESSIONS,
        _MANGUM,
        quick=True,
    ),
    _program(
        Case.SESSION, "Litestar's sessions, Mangum", Role.PEER, ("litestar", "mangum", "redis"), _LITESTAR, _MANGUM
    ),
    _program(
        Case.SESSION, "Flask-Session", Role.PEER, ("flask", "flask-session", "redis"), _FLASK, note="WSGI, no handler"
    ),
    _program(
        Case.CACHE,
        OURS_CACHE,
        Role.OURS,
        ("serverless-session[lambda,redis]",),
        _OUR_CACHE,
        _cached("@cache.cached()"),
        _OUR_HANDLER,
    ),
    _program(
        Case.CACHE,
        "aiocache, Mangum",
        Role.PEER,
        (*_LAMBDA, "aiocache", "redis"),
        _AIOCACHE,
        _cached("@cached(ttl=60, **where)"),
        _MANGUM,
    ),
    _program(
        Case.CACHE,
        "cashews, Mangum",
        Role.PEER,
        (*_LAMBDA, "cashews", "redis"),
        _CASHEWS,
        _cached('@cache(ttl=60, key="menu:{key}")', first="await cache.init()"),
        _MANGUM,
    ),
    _program(
        Case.CACHE,
        "dogpile.cache, Mangum",
        Role.PEER,
        (*_LAMBDA, "dogpile.cache", "redis"),
        _DOGPILE,
        _APP.format(work='assert menu("tea") == {"key": "tea"}'),
        _MANGUM,
        note="synchronous",
    ),
    _program(
        Case.CACHE,
        "fastapi-cache2, Mangum",
        Role.PEER,
        (*_LAMBDA, "fastapi-cache2", "jinja2", "redis"),
        _FASTAPI_CACHE,
        _cached("@cache(expire=60)"),
        _MANGUM,
        note="needs jinja2, which it does not ask for",
    ),
)
