"""Small apps and a browser's view of them, for the tests of the session middleware."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from serverless_session import SessionMiddleware, SharedState
from serverless_session.stores import MemoryStore
from serverless_session.testing import CountingStore

SECRET = "k3Vt9xQzL0pWm7RbYc2NfHs8DgJ5aEu1"


async def view(request: Request) -> Response:
    return JSONResponse(request.session)


async def update(request: Request) -> Response:
    request.session.update(await request.json())
    return JSONResponse(request.session)


async def clear(request: Request) -> Response:
    request.session.clear()
    return JSONResponse(request.session)


async def regenerate(request: Request) -> Response:
    request.scope["session"].regenerate()
    return JSONResponse(request.session)


async def append(request: Request) -> Response:
    request.session["cart"].append(await request.json())
    return JSONResponse(request.session)


async def plain(request: Request) -> Response:
    return PlainTextResponse("plain")


ROUTES = [
    Route("/view", view),
    Route("/update", update, methods=["POST"]),
    Route("/clear", clear, methods=["POST"]),
    Route("/regenerate", regenerate, methods=["POST"]),
    Route("/append", append, methods=["POST"]),
    Route("/plain", plain),
]


def app_over(shared: SharedState, *routes: Route, **options: Any) -> Starlette:
    """An app with the usual routes, and more, behind our middleware."""
    app = Starlette(routes=[*routes, *ROUTES])
    app.add_middleware(SessionMiddleware, shared=shared, **options)
    return app


def counted() -> tuple[SharedState, CountingStore]:
    """A SharedState over a memory store of its own, and the count of what is asked of it."""
    store = CountingStore(MemoryStore())
    return SharedState(store, secret_key=SECRET), store


@contextmanager
def browser(app: Any, *, base_url: str = "https://testserver") -> Iterator[TestClient]:
    with TestClient(app, base_url=base_url) as client:
        yield client
