"""`LambdaHandler`: an ASGI app as a Lambda function behind API Gateway (HTTP API, payload 2.0) or a function URL.

Mangum's adapter turns the event into an ASGI scope and the answer into Lambda's form; the cycle in between is ours, so
that one loop and the app's lifespan live as long as the sandbox and every store call knows how much time is left.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from serverless_session.aws.sandbox import Sandbox
from serverless_session.deadline import set_invocation_end
from serverless_session.errors import ServerlessSessionError, missing_extra
from serverless_session.events import tell

try:
    from mangum.adapter import DEFAULT_TEXT_MIME_TYPES
    from mangum.handlers.api_gateway import HTTPGateway
    from mangum.types import LambdaConfig
except ModuleNotFoundError as error:
    if error.name != "mangum":
        raise
    raise missing_extra("LambdaHandler", package="mangum", extra="lambda") from None

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Scope

TIME_OUT_MARGIN: Final = 0.5
"""Seconds before the end of an invocation at which its last store call ends, so that an answer can still leave; a tenth
of what remains, where that is less."""

_CONFIG: Final = LambdaConfig(
    api_gateway_base_path="/",
    text_mime_types=[*DEFAULT_TEXT_MIME_TYPES, "application/problem+json"],
    exclude_headers=[],
)


class LambdaHandler:
    """Serves `app` as a Lambda function: `handler = LambdaHandler(app)`, and `module.handler` is what Lambda calls.

    The app's lifespan runs once a sandbox, at the first event. No store call outlives the invocation; each ends a
    margin before it, so that a 503 still leaves. An exception of
    the app becomes a 500, as a server would make of it. Raises `ServerlessSessionError` for an event that is no HTTP
    request, and where the app's lifespan fails.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._sandbox = Sandbox(app)

    def __call__(self, event: Any, context: Any) -> Any:
        """The answer to one event, in the form API Gateway takes."""
        if not _is_http(event):
            raise ServerlessSessionError(
                "unknown-event",
                "this handler does not know that kind of event",
                looked_at='event["version"], event["requestContext"]["http"]',
                mend="an API Gateway HTTP API with payload format 2.0, or a function URL, in front of the function",
            )
        adapter = HTTPGateway(event, context, _CONFIG)
        exchange = _Exchange(adapter.scope, adapter.body)

        async def serve() -> None:
            remaining = getattr(context, "get_remaining_time_in_millis", None)
            if remaining is not None:
                left = remaining() / 1000
                set_invocation_end(left - min(TIME_OUT_MARGIN, left / 10))
            exchange.scope["state"] = self._sandbox.state.copy()
            await exchange.run(self._app)

        self._sandbox.run(serve)
        return adapter({"status": exchange.status, "headers": exchange.headers, "body": exchange.body})

    def close(self) -> None:
        """End the app's lifespan and the loop, as the end of the process does; for tests."""
        self._sandbox.close()


def _is_http(event: Any) -> bool:
    return (
        isinstance(event, dict)
        and event.get("version") == "2.0"
        and isinstance(event.get("requestContext"), dict)
        and "http" in event["requestContext"]
    )


class _Exchange:
    """One request and its answer, complete before anything is handed back: nothing runs after the answer."""

    def __init__(self, scope: Scope, body: bytes) -> None:
        self.scope = scope
        self.status = 0
        self.headers: list[Any] = []
        self.body = b""
        self._request: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self._chunks: list[bytes] = []
        self._complete = asyncio.Event()

    async def run(self, app: ASGIApp) -> None:
        """Let the app answer; what it cannot answer becomes a 500."""
        try:
            await app(self.scope, self._receive, self._send)
        except Exception:  # noqa: BLE001 - it is told, and becomes a 500
            tell("lambda.app_raised", exc_info=True)
        self.body = b"".join(self._chunks)
        if not self._complete.is_set():
            self.status, self.body = 500, b"Internal Server Error"
            cookies = [(name, value) for name, value in self.headers if name.lower() == b"set-cookie"]  # what was saved
            self.headers = [(b"content-type", b"text/plain; charset=utf-8"), *cookies]

    async def _receive(self) -> Message:
        if self._request is not None:
            request, self._request = self._request, None
            return request
        await self._complete.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" if not self.status:
                self.status, self.headers = message["status"], list(message.get("headers", ()))
            case "http.response.body" if self.status and not self._complete.is_set():
                self._chunks.append(message.get("body", b""))
                if not message.get("more_body", False):
                    self._complete.set()
            case other:
                raise RuntimeError(f"an ASGI message that is not expected here: {other}")
