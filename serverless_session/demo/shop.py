"""The shop: an ordinary Starlette app. Only `pause` and the lifespan are there for the demo.

Every route answers with the session as it stands then, so that the demo sees what the app saw.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from serverless_session import SessionMiddleware, SharedState, load_session

SESSION_SECONDS: Final = 120
"""Short, because a demo on a real server should leave nothing for long, whatever happens to it."""

Pause = Callable[[], Awaitable[None]]


def shop(shared: SharedState, pause: Pause) -> Starlette:
    """The app. `pause` is awaited where the shop takes its time: after the session was loaded, before it is saved."""

    async def log_in(request: Request) -> JSONResponse:
        session = await load_session(request)
        form = parse_qs((await request.body()).decode())
        session.regenerate()
        session["user"] = form["email"][0]
        return JSONResponse(session)

    async def show_cart(request: Request) -> JSONResponse:
        return JSONResponse(request.session)

    async def add_to_cart(request: Request) -> JSONResponse:
        item = (await request.json())["item"]
        await pause()
        request.session.setdefault("cart", []).append(item)
        return JSONResponse(request.session)

    async def ask_for_delivery_date(request: Request) -> JSONResponse:
        await pause()
        request.session["delivery"] = "on Friday"
        return JSONResponse(request.session)

    async def log_out(request: Request) -> JSONResponse:
        session = await load_session(request)
        session.logout()
        return JSONResponse(session)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await shared.aclose()

    app = Starlette(
        routes=[
            Route("/login", log_in, methods=["POST"]),
            Route("/cart", show_cart),
            Route("/cart", add_to_cart, methods=["POST"]),
            Route("/delivery", ask_for_delivery_date, methods=["POST"]),
            Route("/logout", log_out, methods=["POST"]),
        ],
        lifespan=lifespan,
    )
    app.add_middleware(SessionMiddleware, shared=shared, max_age=SESSION_SECONDS)
    return app
