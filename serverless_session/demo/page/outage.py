"""The page while the store is down: what can be shown without it, and a 503 for what cannot.

Around the session middleware, which raises where a session could not be loaded or saved (`on_store_failure="raise"`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serverless_session.errors import StoreError, UnreadableValue, ValueTooLarge, WriteUncertain

Page = Callable[[Request, str], Awaitable[Response]]
"""What is shown: it takes the request, and what to say about what was asked for."""

RETRY_AFTER_SECONDS = 1


class BackSoon:
    """Middleware. `page` makes the answer; it must not ask for the session."""

    def __init__(self, app: ASGIApp, *, page: Page) -> None:
        self._app = app
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except (StoreError, UnreadableValue) as error:
            if started or isinstance(error, ValueTooLarge):  # the last is no outage
                raise
            answer = await self._page(Request(scope), _words(scope["method"], error))
            answer.status_code = 503
            answer.headers["retry-after"] = str(RETRY_AFTER_SECONDS)
            answer.headers["cache-control"] = "no-store"
            await answer(scope, receive, send)


def _words(method: str, error: Exception) -> str:
    if method in ("GET", "HEAD"):
        return "The store does not answer, so nobody can say what is in your cart. The goods are all here."
    if isinstance(error, WriteUncertain):
        return "The store went away in the middle of it: it may or may not have been done. Look when it is back."
    return "The store does not answer, so this was not done. Try again when it is back."
