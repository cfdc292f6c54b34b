"""Endpoints and dependencies of FastAPI that are cached, and functions that are given a request or a session."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any

import pydantic
import pytest
from fastapi import Depends, FastAPI, Response
from fastapi.testclient import TestClient
from starlette.requests import Request

from serverless_session import CacheContext, CachePolicy, Session, SessionMiddleware
from serverless_session.errors import ConfigurationError
from serverless_session.fastapi import CurrentSession
from tests.caching.shops import a_cache


class Product(pydantic.BaseModel):
    product_id: int
    price: Decimal = Decimal("9.90")


def database() -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
        yield connection


def test_endpoints_and_dependencies_are_cached_by_what_they_are_given() -> None:
    cache, asked = a_cache(), list[Any]()
    app = FastAPI()

    @cache.cached(tags=["rates"])
    async def rate_of(request: Request, currency: str = "EUR") -> Decimal:
        asked.append(currency)
        return Decimal("1.25")

    @app.get("/products/{product_id}")
    @cache.cached()
    async def show(
        context: CacheContext,
        request: Request,
        response: Response,
        product_id: int,
        rate: Annotated[Decimal, Depends(rate_of)],
        db: Annotated[sqlite3.Connection | None, Depends(database)] = None,
    ) -> Product:
        """One product."""
        asked.append(product_id)
        return Product(product_id=product_id, price=rate)

    @app.get("/plain/{product_id}")
    @cache.cached()
    def plain(product_id: int, q: str | None = None) -> list[Product]:
        asked.append(("plain", product_id, q))
        return [Product(product_id=product_id)]

    with TestClient(app) as client:
        for _ in range(2):
            assert client.get("/products/7").json() == {"product_id": 7, "price": "1.25"}
            assert client.get("/plain/7").json() == [{"product_id": 7, "price": "9.90"}]
            client.get("/plain/7?q=a")
        assert client.get("/products/x").status_code == 422
        schema = client.get("/openapi.json").json()
    assert asked == ["EUR", 7, ("plain", 7, None), ("plain", 7, "a")]
    operation = schema["paths"]["/products/{product_id}"]["get"]
    assert operation["description"] == "One product."
    assert {parameter["name"] for parameter in operation["parameters"]} == {"product_id", "currency"}


def test_many_plain_endpoints_at_once_do_not_wait_for_each_others_threads() -> None:
    """More than anyio has worker threads (40): the computation runs in the thread that asked."""
    cache, asked = a_cache(), list[Any]()
    app = FastAPI()

    @app.get("/{n}")
    @cache.cached()
    def slow(n: int) -> int:
        asked.append(n)
        threading.Event().wait(0.01)
        return n

    with TestClient(app) as client:
        threads = [threading.Thread(target=client.get, args=(f"/{n % 60}",)) for n in range(120)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(asked) == list(range(60))


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_a_function_that_is_given_a_session_needs_a_user_in_its_key() -> None:
    cache = a_cache()
    with pytest.raises(ConfigurationError, match=r"session\.user_id"):

        @cache.cached()
        async def cart(session: CurrentSession) -> list[str]:
            return []

    with pytest.raises(ConfigurationError, match=r"session\.user_id"):

        @cache.cached(key="product_id")
        async def seen(session: Session, product_id: int) -> list[str]:
            return []

    @cache.cached(key=("session.user_id", "product_id"))
    async def mine(session: CurrentSession, product_id: int) -> str:
        return f"{session.user_id} {product_id}"

    app = FastAPI()
    app.get("/mine/{product_id}")(mine)

    @app.post("/login/{user}")
    async def log_in(user: str, session: CurrentSession) -> None:
        session.login(user)

    app.add_middleware(SessionMiddleware, shared=cache._shared)
    for user in ("ada", "eve"):
        with TestClient(app, base_url="https://testserver") as client:
            client.post(f"/login/{user}")
            assert client.get("/mine/7").json() == f"{user} 7"


@pytest.mark.parametrize("read_before", [False, True])
def test_what_a_request_led_to_a_session_is_not_kept(read_before: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The request says nothing of the value by its type; what reads the session through it is one visitor's."""
    cache = a_cache()
    app = FastAPI()

    def require_name(request: Request) -> None:
        assert not read_before or request.session["name"]

    @app.get("/hello", dependencies=[Depends(require_name)])
    @cache.cached()
    async def hello(request: Request) -> str:
        return f"hello {request.session.get('name')}"

    @app.post("/name/{name}")
    async def name(name: str, request: Request) -> None:
        request.session["name"] = name

    app.add_middleware(SessionMiddleware, shared=cache._shared)
    for visitor in ("ada", "eve"):
        with TestClient(app, base_url="https://testserver") as client:
            client.post(f"/name/{visitor}")
            assert client.get("/hello").json() == f"hello {visitor}"
    assert "cache.request_was_read" in caplog.text
    assert "hello()" in caplog.text


ADA, EVE = (
    dict[str, Any]({"type": "http", "path": "/", "query_string": b"", "headers": [(b"authorization", name)]})
    for name in (b"ada", b"eve")
)


@pytest.mark.parametrize(
    "read",
    [
        lambda request: request.headers["authorization"],
        lambda request: request.headers.get("authorization"),
        lambda request: request.cookies,
        lambda request: dict(request.scope),
        lambda request: list(request.items()),
        lambda request: {**request.scope},
        lambda request: request.query_params,
        lambda request: request.state,
        lambda request: request.url.path,
        lambda request: request["path"],
        lambda request: request.scope | {},
        lambda request: {} | request.scope,
    ],
)
@pytest.mark.parametrize("how", ["async", "sync", "raises"])
async def test_what_is_read_of_a_request_is_one_visitors(read: Any, how: str, caplog: pytest.LogCaptureFixture) -> None:
    cache, asked = a_cache(policy=CachePolicy(ttl=60, negative_ttl=60, negative_errors=(LookupError,))), list[str]()

    @cache.cached()
    async def hello(request: Request) -> str:
        asked.append(str(read(request)))
        if how == "raises":
            raise LookupError(asked[-1])
        return asked[-1]

    @cache.cached()
    def hello_sync(request: Request) -> str:
        asked.append(str(read(request)))
        return asked[-1]

    for scope in (ADA, EVE, ADA):
        request = Request(dict(scope))
        assert request.headers["authorization"], "read before, by whoever guards the endpoint"
        with contextlib.suppress(LookupError):
            await (hello_sync.aio(request) if how == "sync" else hello(request))
    assert len(asked) == 3
    assert "cache.request_was_read" in caplog.text


def test_what_is_read_of_a_body_is_one_visitors(caplog: pytest.LogCaptureFixture) -> None:
    """Also of one that the framework has read before."""
    cache = a_cache()
    app = FastAPI()

    @app.post("/raw")
    @cache.cached()
    async def raw(request: Request) -> str:
        return (await request.body()).decode()

    @app.post("/json")
    @cache.cached()
    async def as_json(request: Request) -> str:
        return str((await request.json())["name"])

    @app.post("/form")
    @cache.cached()
    async def as_form(request: Request) -> str:
        return str((await request.form())["name"])

    @app.post("/stream")
    @cache.cached()
    async def as_stream(request: Request) -> str:
        return b"".join([chunk async for chunk in request.stream()]).decode()

    @app.post("/again", dependencies=[Depends(read_before)])
    @cache.cached()
    async def again(request: Request) -> str:
        return (await request.body()).decode()

    with TestClient(app) as client:
        for name in ("ada", "eve"):
            for path in ("/raw", "/stream", "/again"):
                assert client.post(path, content=name).json() == name
            assert client.post("/json", json={"name": name}).json() == name
            assert client.post("/form", data={"name": name}).json() == name
    assert "(body)" in caplog.text


async def read_before(request: Request) -> None:
    await request.body()


async def test_a_request_of_which_nothing_is_read_says_nothing() -> None:
    cache, asked = a_cache(), list[Any]()

    @cache.cached()
    async def hello(request: Request, name: str) -> str:
        asked.append(request.method)
        return f"hello {name}"

    for scope in (ADA, EVE):
        assert await hello(Request(scope | {"method": "GET"}), "you") == "hello you"
    assert asked == ["GET"]


async def test_what_of_a_request_counts_is_named() -> None:
    cache, asked = a_cache(), list[Any]()

    @cache.cached(key=("request.headers.authorization",))
    async def hello(request: Request) -> str:
        asked.append(request.headers["authorization"])
        return f"hello {asked[-1]}"

    for scope in (ADA, EVE, ADA):
        name = Request(scope).headers["authorization"]
        assert await hello(Request(scope)) == f"hello {name}"
    assert asked == ["ada", "eve"]


async def test_nobody_is_given_what_was_raised_for_somebody_else() -> None:
    cache = a_cache()

    @cache.cached()
    async def hello(request: Request) -> str:
        await asyncio.sleep(0.01)
        raise LookupError(request.headers["authorization"])

    asked = [hello(Request(scope)) for scope in (ADA, EVE, ADA, EVE)]
    raised = await asyncio.gather(*asked, return_exceptions=True)
    assert [error.args[0] for error in raised if isinstance(error, LookupError)] == ["ada", "eve", "ada", "eve"]


def test_a_cached_function_leaves_the_session_as_read_as_it_was() -> None:
    """What varies by the visitor must go on to say so."""
    cache = a_cache()
    app = FastAPI()

    @app.get("/{reads}")
    async def show(reads: bool, request: Request) -> bool:
        @cache.cached(key="reads")
        async def value(request: Request, reads: bool) -> bool:
            return True

        if reads:
            request.session.get("name")
        await value(request, reads)
        return bool(request.session.accessed)  # type: ignore[attr-defined]

    app.add_middleware(SessionMiddleware, shared=cache._shared)
    with TestClient(app, base_url="https://testserver") as client:
        assert client.get("/true").headers.get("vary") == "Cookie"
