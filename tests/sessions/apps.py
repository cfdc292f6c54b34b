"""Small apps and a browser's view of them, for the tests of the session middleware."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from serverless_session import Session, SessionMiddleware, SharedState, load_session
from serverless_session.stores import MemoryStore, Operation, Outcome, Store
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


Action = Callable[[Session], object]


def doing(path: str, action: Action) -> Route:
    """A route that does something to the session, awaits it where it can be, and shows what is in the session then."""

    async def endpoint(request: Request) -> Response:
        session = await load_session(request)
        done = action(session)
        if inspect.isawaitable(done):
            await done
        return JSONResponse(session)

    return Route(path, endpoint, methods=["GET", "POST"])


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


# --- requests at the same time ----------------------------------------------------------------------------------------


def tabs(app: Any, *, raise_app_exceptions: bool = True) -> httpx2.AsyncClient:
    """A browser whose requests can be on their way at the same time."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=raise_app_exceptions)
    return httpx2.AsyncClient(transport=transport, base_url="https://shop.example")


class Meeting:
    """Requests of which each has loaded the session before the first of them does something to it; one an action."""

    def __init__(self, *actions: Action) -> None:
        self._actions = actions
        self._everybody = asyncio.Barrier(len(actions))
        self.route = Route("/meet/{place:int}", self._meet, methods=["POST"])

    async def _meet(self, request: Request) -> Response:
        session = await load_session(request)
        await self._everybody.wait()
        done = self._actions[request.path_params["place"]](session)
        if inspect.isawaitable(done):
            await done
        return JSONResponse({})

    async def of(self, *clients: httpx2.AsyncClient) -> list[httpx2.Response]:
        """The answers, in the order of the actions; the clients take turns in sending."""
        places = range(len(self._actions))
        return await asyncio.gather(*(clients[n % len(clients)].post(f"/meet/{n}") for n in places))


class Meanwhile(Store):
    """A store around another; once, right after it has carried out an operation that `meets`, something else happens.

    What happens must come by another `SharedState`: the savers of one wait for each other.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.limits = store.limits
        self.meets: Callable[[Operation], bool] = lambda operation: False
        self.happens: Callable[[], Awaitable[object]]

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        outcomes = await self._store.perform(*operations)
        if self.meets(operations[0]):
            self.meets = lambda operation: False
            await self.happens()
        return outcomes
