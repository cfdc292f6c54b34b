"""The shop that the judges' sandboxes run: sessions over the store that the environment names, and ways to go wrong."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serverless_session import LambdaHandler, SessionMiddleware, SharedState, load_session
from serverless_session.deadline import time_left

shared = SharedState()
shared.check()  # what cannot work is told while Lambda loads the module, not to the first visitor


def _one_more(count: Any) -> int:
    return (count or 0) + 1


async def view(request: Request) -> Response:
    return JSONResponse(request.session)


async def log_in(request: Request) -> Response:
    session = await load_session(request)
    session.login(await request.json())
    session["user"] = await request.json()
    return JSONResponse(session)


async def log_out(request: Request) -> Response:
    request.session.clear()
    return JSONResponse(request.session)


async def count(request: Request) -> Response:
    session = await load_session(request)
    await session.change("count", _one_more)
    return JSONResponse(session)


async def add(request: Request) -> Response:
    request.session.setdefault("items", []).append(await request.json())
    return JSONResponse(request.session)


async def slow(request: Request) -> Response:
    """Counts, and waits as long as the query says."""
    session = await load_session(request)
    await session.change("count", _one_more)
    await asyncio.sleep(float(request.query_params["seconds"]))
    return JSONResponse(session)


def in_a_thread(request: Request) -> Response:
    session = request.session
    session["in a thread"] = _one_more(session.get("in a thread"))
    # The kernel's numbers: Python's own are given again, to the next thread after one has ended.
    session["threads"] = sorted({*session.get("threads", ()), threading.get_native_id()})
    return JSONResponse(request.session)


async def use_up(request: Request) -> Response:
    """Counts, and holds the loop until it is killed."""
    session = await load_session(request)
    await session.change("count", _one_more)
    print("using up the time", flush=True)
    time.sleep(600)  # noqa: ASYNC251 - what cannot be cancelled
    raise AssertionError


async def crash(request: Request) -> Response:
    session = await load_session(request)
    await session.change("count", _one_more)
    os._exit(3)


async def fail(request: Request) -> Response:
    session = await load_session(request)
    await session.change("count", _one_more)
    raise RuntimeError("the shop's own fault")


async def left(request: Request) -> Response:
    """Seconds that a store call may take now, where nothing but the end of the invocation limits it."""
    return JSONResponse(time_left(600.0))


async def process(request: Request) -> Response:
    return JSONResponse(os.getpid())


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    print("the shop opens", flush=True)
    yield
    print("the shop closes", flush=True)


app = Starlette(
    routes=[
        Route("/view", view),
        Route("/process", process),
        Route("/left", left),
        *(
            Route(path, endpoint, methods=["POST"])
            for path, endpoint in {
                "/login": log_in,
                "/logout": log_out,
                "/count": count,
                "/add": add,
                "/slow": slow,
                "/thread": in_a_thread,
                "/use-up": use_up,
                "/crash": crash,
                "/fail": fail,
            }.items()
        ),
    ],
    lifespan=lifespan,
)
app.add_middleware(SessionMiddleware, shared=shared)
handler = LambdaHandler(app)
