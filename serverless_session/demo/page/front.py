"""In front of the copies: one address, static files, and what is done to the demo rather than to the shop."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from fastapi import FastAPI, Form, Request
from fastapi.responses import Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from serverless_session.demo.page.guard import Guard
from serverless_session.demo.page.shop import LIST, Backstage, back
from serverless_session.demo.page.stampede import result, stampede
from serverless_session.errors import StoreError
from serverless_session.shared import SharedState

LINES: Final = "application/x-ndjson"


class Idlest:
    """Hands each request to the copy that has the least to do, as Lambda does; among equals to the next in turn."""

    def __init__(self, copies: Sequence[ASGIApp]) -> None:
        self._copies = deque((app, [0]) for app in copies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app, running = chosen = min(self._copies, key=lambda copy: copy[1][0])
        self._copies.remove(chosen)
        self._copies.append(chosen)
        running[0] += 1
        try:
            await app(scope, receive, send)
        finally:
            running[0] -= 1


def front(
    copies: Sequence[ASGIApp], backstage: Backstage, shared: SharedState, *, hosts: frozenset[str] | None
) -> ASGIApp:
    """All of the page. `shared`: of one of the copies. `hosts`: as of the `Guard`."""
    app = FastAPI(openapi_url=None)
    named = list(zip(backstage.copies, copies, strict=True))

    @app.post("/stampede")
    async def run_stampede(request: Request, at: Annotated[Literal["gone", "old"], Form()] = "gone") -> Response:
        with contextlib.suppress(StoreError):  # where it is down, nothing is kept that could be forgotten
            await shared.invalidate_tags(LIST, stale=at == "old")
        if LINES not in request.headers.get("accept", ""):
            backstage.last_stampede = await result(named, backstage.book)
            return back("stampede")
        return StreamingResponse(lines(), media_type=LINES, headers={"cache-control": "no-store"})

    async def lines() -> AsyncIterator[str]:
        async with contextlib.aclosing(stampede(named, backstage.book)) as happenings:
            async for happening in happenings:
                if happening["what"] == "over":
                    backstage.last_stampede = happening
                yield json.dumps(happening) + "\n"

    @app.post("/store")
    async def stop_or_start(do: Annotated[Literal["stop", "start"], Form()]) -> Response:
        local = backstage.local
        if local is None:
            return Response("The demo has started no store that it could stop.", 404)
        if do == "stop":
            await local.stop()
            return back("stopped")
        try:
            await local.start()
        except StoreError as error:
            logging.getLogger(__name__).error("%s", error)
            return back("not-started")
        return back("kept" if local.keeps else "lost")

    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    app.mount("/", Idlest(copies))
    return Guard(app, hosts=hosts)
