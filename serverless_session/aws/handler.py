"""`LambdaHandler`: an ASGI app as a Lambda function behind API Gateway, a function URL or a load balancer.

Mangum's adapters, put right in `http_events`, turn an event into an ASGI scope and the answer into Lambda's form. The
cycle in between is ours, so that one loop and the app's lifespan live as long as the sandbox, every store call knows
how much time is left, and an app that takes too long is stopped while an answer can still leave.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from serverless_session.aws.sandbox import Sandbox, Time, TimedOut
from serverless_session.deadline import Duration, seconds, set_invocation_end
from serverless_session.errors import ConfigurationError, ServerlessSessionError, missing_extra
from serverless_session.events import tell
from serverless_session.invocation import MARGIN, left_by, margin_of

try:
    from mangum.types import LambdaConfig

    from serverless_session.aws.http_events import ADAPTERS, STAGE, TEXT_TYPES, smallest_size
except ModuleNotFoundError as error:
    if error.name != "mangum":
        raise
    raise missing_extra("LambdaHandler", package="mangum", extra="lambda") from None

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Scope

    from serverless_session.aws.http_events import Headers, HttpApiEvent, LoadBalancerEvent, RestApiEvent

    Adapter = HttpApiEvent | RestApiEvent | LoadBalancerEvent

EventFunction = Callable[[Any, Any], object]
_F = TypeVar("_F", bound=EventFunction)

_HTTP_KINDS: Final = "API Gateway HTTP and REST APIs, function URLs, load balancers"


class LambdaHandler:
    """Serves `app` as a Lambda function: `handler = LambdaHandler(app)`, and `module.handler` is what Lambda calls.

    The app's lifespan runs once a sandbox, at the first event; with `prewarm=True` when the handler is made, in the
    time that Lambda gives to start up (8 s of it at most, else the first event goes on waiting), and stores are
    connected then, too. `base_path`: what the app is mounted under, where a custom domain maps it below one; "/": the
    stage, where API Gateway puts one in front, else nothing; "": the path is left as it was sent.

    An invocation has an end. `time_out_margin` (0.5 s, or a tenth of the time there is, where that is less) before it
    the app is cancelled: what was to end of a session is ended, and a 503 leaves. No store call outlives the
    invocation. An exception of the app becomes a 500, as a server would make of it. Raises `ServerlessSessionError` for
    an event that is neither an HTTP request nor one that `event` has a function for, and where the app's lifespan
    fails; `ConfigurationError` for a setting that cannot be. Calls from several threads are served one after the other.
    """

    def __init__(
        self, app: ASGIApp, *, prewarm: bool = False, base_path: str = STAGE, time_out_margin: Duration = MARGIN
    ) -> None:
        self._app = app
        self._margin = _checked_margin(time_out_margin)
        self._config = LambdaConfig(
            api_gateway_base_path=_checked_base_path(base_path), text_mime_types=TEXT_TYPES, exclude_headers=[]
        )
        self._functions: list[tuple[Callable[[Mapping[str, Any]], bool], EventFunction]] = []
        self._sandbox = Sandbox(app)
        self._sandbox.follow_the_platform()
        if prewarm:
            try:
                self._sandbox.prewarm()
            except BaseException:
                self._sandbox.close()
                raise

    def __call__(self, event: Any, context: Any) -> Any:
        """The answer to one event, in the form that its sender takes."""
        invocation = _Invocation(context, self._margin)
        adapter = self._adapter_for(event, context)
        if adapter is None:
            return self._run_function(event, context, invocation)
        try:
            exchange = _Exchange(adapter.scope, adapter.body)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ServerlessSessionError(
                "bad-event",
                f"an HTTP event lacks what belongs to it ({type(error).__name__})",
                looked_at="the event, as " + type(adapter).__name__,
                mend="the event as API Gateway or the load balancer sends it, whole",
            ) from None

        async def serve() -> None:
            invocation.begin()
            exchange.scope["state"] = self._sandbox.state.copy()
            await exchange.run(self._app)

        try:
            self._sandbox.run(serve, invocation.time)
        except TimedOut as timed_out:
            tell("lambda.timed_out" if timed_out.is_over else "lambda.kept_running")
        answer = adapter(exchange.answer(timed_out=invocation.is_up()))
        size, limit = smallest_size(answer), adapter.largest_answer_bytes
        if size > limit:
            tell("lambda.answer_too_large", {"size_bytes": size, "limit_bytes": limit})
            return adapter(exchange.failure())
        return answer

    def event(self, matches: Callable[[Mapping[str, Any]], bool]) -> Callable[[_F], _F]:
        """Registers a function for events that are no HTTP requests: `@handler.event(lambda e: "Records" in e)`.

        It is called as `function(event, context)`, awaited if it is asynchronous and run in a thread if it is not, and
        what it returns is the answer. The first one that matches is taken. Its exceptions go to Lambda, which may send
        the event again; one that takes too long is cancelled as the app is, and ends with `ServerlessSessionError`.
        """

        def register(function: _F) -> _F:
            self._functions.append((matches, function))
            return function

        return register

    def close(self) -> None:
        """End the app's lifespan and the loop, as the end of the process does; for tests."""
        self._sandbox.close()

    def _adapter_for(self, event: Any, context: Any) -> Adapter | None:
        if isinstance(event, dict):
            for kind in ADAPTERS:
                if kind.infer(event, context, self._config):
                    return kind(event, context, self._config)
        return None

    def _run_function(self, event: Any, context: Any, invocation: _Invocation) -> object:
        function = next((function for matches, function in self._functions if matches(event)), None)
        if function is None:
            known = [getattr(function, "__name__", "a function") for _, function in self._functions]
            raise ServerlessSessionError(
                "unknown-event",
                f"this handler knows no such event: it knows {', '.join([_HTTP_KINDS, *known])}",
                looked_at="event['version'], event['requestContext'], and the functions of handler.event(...)",
                mend="@handler.event(lambda event: ...) above a function of yours that takes it",
            )

        async def call() -> object:
            invocation.begin()
            if inspect.iscoroutinefunction(function):  # that of asyncio is on its way out, from Python 3.14 on
                return await function(event, context)
            import anyio.to_thread

            done = await anyio.to_thread.run_sync(function, event, context)
            # A decorator, or an object that is called, may hide that it is asynchronous.
            return await done if inspect.isawaitable(done) else done

        try:
            return self._sandbox.run(call, invocation.time)
        except TimedOut:
            raise ServerlessSessionError(
                "event-timed-out",
                "a function for an event took all the time there was",
                mend="a longer timeout for the Lambda function, or less to do at once",
            ) from None


class _Invocation:
    """The time of one invocation, and the margin of it that is kept for its end. Without a context there is no end.

    First the app is cancelled. Then store calls may take half of the margin, for what is ended at that; a quarter is
    left for the answer.
    """

    def __init__(self, context: Any, margin: float) -> None:
        left = left_by(context)
        self.time: Time | None = None
        if left is not None:
            ends_at, margin = monotonic() + left, margin_of(left, margin)
            self.time = Time(cancel_at=ends_at - margin, leave_at=ends_at - margin / 4)
            self._store_calls_end_at = ends_at - margin / 2

    def begin(self) -> None:
        """From here on in this context, no store call takes longer than there is time."""
        if self.time is not None:
            set_invocation_end(self._store_calls_end_at - monotonic())

    def is_up(self) -> bool:
        return self.time is not None and self.time.cancel_at <= monotonic()


class _Exchange:
    """One request and its answer, complete before anything is handed back: nothing runs after the answer."""

    def __init__(self, scope: Scope, body: bytes) -> None:
        self.scope = scope
        self._status = 0
        self._headers: list[Any] = []
        self._request: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self._chunks: list[bytes] = []
        self._complete = asyncio.Event()

    async def run(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self._receive, self._send)
            if not self._complete.is_set():
                raise RuntimeError("the app returned before its answer was complete")
        except Exception:  # noqa: BLE001 - it is told, and becomes a 500
            tell("lambda.app_raised", exc_info=True)

    def answer(self, *, timed_out: bool) -> Any:
        """What the app has answered; else a 503 or a 500, with the cookies of what was saved."""
        if self._complete.is_set():
            body = b"" if self.scope["method"] == "HEAD" else b"".join(self._chunks)
            return {"status": self._status, "headers": self._headers, "body": body}
        if timed_out:
            kind, again = (b"content-type", b"application/problem+json"), (b"retry-after", b"1")
            headers = [kind, again, (b"cache-control", b"no-store"), *self._cookies()]
            return {"status": 503, "headers": headers, "body": json.dumps(_TIMED_OUT).encode()}
        return self.failure()

    def failure(self) -> Any:
        """A 500, with the cookies of what was saved."""
        headers = [(b"content-type", b"text/plain; charset=utf-8"), *self._cookies()]
        return {"status": 500, "headers": headers, "body": b"Internal Server Error"}

    def _cookies(self) -> Headers:
        return [(name, value) for name, value in self._headers if name.lower() == b"set-cookie"]

    async def _receive(self) -> Message:
        if self._request is not None:
            request, self._request = self._request, None
            return request
        await self._complete.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" if not self._status:
                headers = list(message.get("headers", ()))
                self._headers = [(name, value) for name, value in headers if _is_header(name, value)]
                if len(self._headers) < len(headers):
                    raise RuntimeError("an answer has a header that cannot be one")
                self._status = _checked_status(message["status"])
            case "http.response.body" if self._status and not self._complete.is_set():
                self._chunks.append(b"" + message.get("body", b""))  # a copy of what may change, an error for a text
                if not message.get("more_body", False):
                    self._complete.set()
            case other:
                raise RuntimeError(f"an ASGI message that is not expected here: {other}")


def _checked_status(status: int) -> int:
    """What is none would be a 502 of whoever stands in front of us, with nothing in our log."""
    if not 200 <= status <= 599:
        raise RuntimeError("an answer has a status from 200 to 599")
    return status


def _is_header(name: bytes, value: bytes) -> bool:
    """A line break would be a header of whoever wrote the value."""
    return bool(_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value))


_HEADER_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
"""RFC 9110, sections 5.1 and 5.5."""

_TIMED_OUT: Final = {
    "title": "Service Unavailable",
    "status": 503,
    "detail": "The request took longer than it may. Try again.",
}


def _checked_margin(margin: Duration) -> float:
    span = seconds(margin)
    if not 0 < span < float("inf"):
        raise ConfigurationError(
            "bad-margin",
            "an answer needs time to leave before the invocation ends",
            looked_at="time_out_margin=",
            mend="seconds above 0, as in 0.5",
        )
    return span


def _checked_base_path(base_path: str) -> str:
    if not isinstance(base_path, str) or (base_path and not base_path.startswith("/")):
        raise ConfigurationError(
            "bad-base-path",
            "a base path begins with a slash",
            looked_at="base_path=",
            mend='"/shop"; "/" where the domain maps to the stage alone; "" to leave paths as they are',
        )
    return base_path
