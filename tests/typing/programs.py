"""The public API as users write it; checked by `mypy --strict`, never run."""

import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, assert_type

from fastapi import FastAPI
from pydantic import BaseModel, SecretStr
from starlette.applications import Starlette
from starlette.datastructures import Secret
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from serverless_session import (
    LambdaHandler,
    ServerlessSessionError,
    Session,
    SessionMiddleware,
    SharedState,
    load_session,
    open_store,
    sum_of_changes,
)
from serverless_session.codec import KeyRing, Serializer
from serverless_session.errors import ConfigurationError, StoreTimeout, StoreUnavailable, ValueTooLarge, WriteUncertain
from serverless_session.fastapi import CurrentSession
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Found,
    Limits,
    MemoryStore,
    Missing,
    Operation,
    Outcome,
    Read,
    RedisStore,
    Store,
    Write,
    Written,
    new_version,
)
from serverless_session.testing import CountingStore, FaultyStore, ManualClock, StoreConformance

KEY = os.environ["KEY"]

# 1 Starlette
app = Starlette(middleware=[Middleware(SessionMiddleware, secret_key=KEY, max_age=timedelta(days=1))])
app.add_middleware(SessionMiddleware, KEY, "session", 3600, "/", "lax", True, None, False)
app.add_middleware(SessionMiddleware, secret_key=Secret(KEY), store="redis://localhost", same_site="strict")


async def visit(request: Request) -> JSONResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse(request.session)


# 3 login, logout
api = FastAPI()
shared = SharedState("redis://localhost", secret_key=SecretStr(KEY), secret_key_fallbacks=["OLD"], namespace="shop")
api.add_middleware(SessionMiddleware, shared=shared)


class Login(BaseModel):
    name: str


@api.post("/login")
async def login(session: CurrentSession, form: Login) -> None:
    session.login(form.name, max_age=timedelta(days=30))
    session.login(7)
    session.regenerate()
    assert_type(session.user_id, str | None)
    assert_type(session.created_at, datetime)
    assert_type(session.authenticated_within(timedelta(minutes=10)), bool)
    await session.change("visits", lambda visits: (visits or 0) + 1)
    assert_type(session.is_new, bool)
    assert_type(dict(session.items()), dict[str, Any])
    assert_type([key for key, _ in session.items()], list[str])
    assert_type(list(session.values()), list[Any])
    assert_type(list(session), list[str])


@api.post("/logout")
async def logout(session: CurrentSession) -> None:
    session.logout()


async def chat(websocket: WebSocket) -> None:
    session = await load_session(websocket)
    assert_type(session, Session)
    assert_type(await session.save(), bool)
    assert_type(await session.reload(), bool)


def longest(base: list[str] | None, mine: list[str], theirs: list[str]) -> list[str]:
    return max(mine, theirs, key=len)


api.add_middleware(
    SessionMiddleware,
    shared=shared,
    rolling=True,
    idle_timeout=timedelta(minutes=30),
    absolute_timeout=43_200,
    lazy=True,
    exempt=["/healthz", "/static/*"],
    merge={"visits": sum_of_changes, "names": longest},
    together=[("tenant", "role")],
    on_conflict="error",
    max_session_bytes=10_000,
    allowed_origins=["https://app.example.com"],
    on_store_failure="anonymous",
)


# 10 environments
SharedState()
assert_type(SharedState.default(), SharedState)
assert_type(shared.replace(store="memory://", timeout=timedelta(seconds=2)), SharedState)
SharedState(MemoryStore(capacity_bytes=1_000_000), secret_key=KeyRing(KEY, open=["OLD"]), timeout=0.5)
SharedState(RedisStore("redis://localhost", max_connections=4), secret_key=KEY)
assert_type(open_store("memory://"), Store)


# 11 own store, own serializer
class DictStore(Store):
    limits = Limits(largest_value_bytes=1_000_000)

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        return [self._one(operation) for operation in operations]

    def _one(self, operation: Operation) -> Outcome:
        match operation:
            case Read():
                return Missing()
            case Write(value=value, version=version):
                return Written() if len(value) else Conflict(Found(value, version))
            case Delete():
                return Deleted()


def dumps(value: object) -> bytes:
    return repr(value).encode()


SharedState(DictStore(), serializer=Serializer("own", dumps, bytes.decode))


async def use(store: Store) -> None:
    version = new_version()
    assert_type(await store.read("k"), Found | Missing)
    assert_type(await store.write("k", b"v", ttl=60, version=version, expect=ABSENT), Written | Conflict)
    assert_type(await store.delete("k", expect=version), Deleted | Missing | Conflict)
    await store.delete("k", expect=ANYTHING)
    await store.delete("k", expect=ABSENT)  # type: ignore[arg-type]
    await store.write("k", b"v", ttl=60, version=version)  # type: ignore[call-arg]


class TestDictStore(StoreConformance):
    increments = 10

    async def open_store(self) -> Store:
        return DictStore()


class TestNothing(StoreConformance):
    pass


TestNothing()  # type: ignore[abstract]


# 12 tests
def test_a_dead_store_is_503() -> None:
    with shared.override(store=(faulty := FaultyStore(MemoryStore(), seed=1))):
        faulty.fail(StoreUnavailable)
        faulty.fail(StoreTimeout, on=Read, after=1, times=2)
        faulty.fail(WriteUncertain)  # type: ignore[arg-type]
        faulty.lose_answers(done=None, late=(0.1, timedelta(seconds=2)), on=(Write, Delete))
        faulty.delay(timedelta(seconds=1))
        faulty.at_random(fail=0.05, lose=0.05, delay=(0, 0.01))
        faulty.heal()
        assert_type(faulty.injected.failed, int)


def test_it() -> None:
    with shared.override(store=CountingStore(MemoryStore()), clock=(clock := ManualClock())) as store:
        clock.advance(timedelta(minutes=1))
        assert_type(store, Store)


# 9 Lambda
handler = LambdaHandler(api)

errors: list[type[ServerlessSessionError]] = [
    ConfigurationError,
    StoreUnavailable,
    StoreTimeout,
    ValueTooLarge,
    WriteUncertain,
]
Session().user_idd = "mistyped"  # type: ignore[attr-defined]
SessionMiddleware(app, KEY, same_site="sometimes")  # type: ignore[arg-type]
SharedState("memory://", secret_key=7)  # type: ignore[arg-type]
