"""`LambdaHandler`: an ASGI app as a Lambda function behind API Gateway, a function URL or a load balancer.

Mangum's adapters, put right in `http_events`, turn an event into an ASGI scope and the answer into Lambda's form. The
cycle in between is ours, so that one loop and the app's lifespan live as long as the sandbox, every store call knows
how much time is left, and an app that takes too long is stopped while an answer can still leave.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from serverless_session.aws.sandbox import Sandbox, StillRunning
from serverless_session.deadline import Duration, seconds, set_invocation_end
from serverless_session.errors import ConfigurationError, ServerlessSessionError, missing_extra
from serverless_session.events import tell

try:
    from mangum.types import LambdaConfig

    from serverless_session.aws.http_events import ADAPTERS, STAGE, TEXT_TYPES
except ModuleNotFoundError as error:
    if error.name != "mangum":
        raise
    raise missing_extra("LambdaHandler", package="mangum", extra="lambda") from None

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Scope

    from serverless_session.aws.http_events import HttpApiEvent, LoadBalancerEvent, RestApiEvent

    Adapter = HttpApiEvent | RestApiEvent | LoadBalancerEvent

LARGEST_SHARE: Final = 0.1
"""Of the time of an invocation: the margin takes no more."""

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
    fails; `ConfigurationError` for a setting that cannot be.
    """

    def __init__(
        self, app: ASGIApp, *, prewarm: bool = False, base_path: str = STAGE, time_out_margin: Duration = 0.5
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
        remaining = getattr(context, "get_remaining_time_in_millis", None)
        time = _Time(self._margin, None if remaining is None else lambda: remaining() / 1000)
        adapter = self._adapter_for(event, context)
        if adapter is None:
            return self._run_function(event, context, time)
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
            exchange.scope["state"] = self._sandbox.state.copy()
            await exchange.run(self._app, time.begin())

        try:
            self._sandbox.run(serve, limit=time.hard_end())
        except StillRunning:
            tell("lambda.kept_running")
        exchange.make_complete()
        return adapter({"status": exchange.status, "headers": exchange.headers, "body": exchange.body})

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

    def _run_function(self, event: Any, context: Any, time: _Time) -> object:
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
            async with asyncio.timeout(time.begin()):
                if asyncio.iscoroutinefunction(function):
                    return await function(event, context)
                import anyio.to_thread

                return await anyio.to_thread.run_sync(function, event, context)

        try:
            return self._sandbox.run(call, limit=time.hard_end())
        except (StillRunning, TimeoutError):
            if time.is_up():
                raise ServerlessSessionError(
                    "event-timed-out",
                    "a function for an event took all the time there was",
                    mend="a longer timeout for the Lambda function, or less to do at once",
                ) from None
            raise


class _Time:
    """The time of one invocation, and what of it is kept for its end. Without a context there is no end."""

    def __init__(self, margin: float, remaining: Callable[[], float] | None) -> None:
        self._remaining = remaining
        self._margin = min(margin, remaining() * LARGEST_SHARE) if remaining is not None else 0.0

    def begin(self) -> float | None:
        """Seconds that the app may take. From here on in this context, no store call takes longer than there is.

        Store calls may use half of the margin: what is ended when the app is cancelled needs them.
        """
        if self._remaining is None:
            return None
        left = self._remaining()
        set_invocation_end(left - self._margin / 2)
        return max(left - self._margin, 0.0)

    def hard_end(self) -> float | None:
        """Seconds until an answer must leave, whatever still runs."""
        return None if self._remaining is None else self._remaining() - self._margin / 4

    def is_up(self) -> bool:
        return self._remaining is not None and self._remaining() <= self._margin


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
        self._timed_out = True

    async def run(self, app: ASGIApp, limit: float | None) -> None:
        """Let the app answer, for `limit` seconds at most."""
        time = asyncio.timeout(limit)
        try:
            async with time:
                await app(self.scope, self._receive, self._send)
        except Exception:  # noqa: BLE001 - it is told, and becomes a 500
            if not time.expired():
                tell("lambda.app_raised", exc_info=True)
        self._timed_out = time.expired()
        if self._timed_out:
            tell("lambda.timed_out")

    def make_complete(self) -> None:
        """What the app has not answered becomes a 503 if it was short of time, else a 500; cookies are kept."""
        if self._complete.is_set():
            self.body = b"" if self.scope["method"] == "HEAD" else b"".join(self._chunks)
            return
        cookies = [(name, value) for name, value in self.headers if name.lower() == b"set-cookie"]  # what was saved
        if self._timed_out:
            self.status, self.body, kind = 503, json.dumps(_TIMED_OUT).encode(), b"application/problem+json"
            cookies += [(b"retry-after", b"1"), (b"cache-control", b"no-store")]
        else:
            self.status, self.body, kind = 500, b"Internal Server Error", b"text/plain; charset=utf-8"
        self.headers = [(b"content-type", kind), *cookies]

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
