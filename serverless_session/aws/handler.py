"""`LambdaHandler`: an ASGI app as a Lambda function behind API Gateway, a function URL or a load balancer.

Mangum's adapters, put right in `http_events`, turn an event into an ASGI scope and the answer into Lambda's form. The
cycle in between is ours, so that one loop and the app's lifespan live as long as the sandbox, every store call knows
how much time is left, and an app that takes too long is stopped while an answer can still leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from serverless_session.aws.sandbox import Sandbox, Time, TimedOut
from serverless_session.deadline import Duration, InvocationEnd, seconds, set_invocation_end
from serverless_session.errors import ConfigurationError, ServerlessSessionError, missing_extra
from serverless_session.events import tell
from serverless_session.invocation import MARGIN, left_by, margin_of
from serverless_session.notes import RequestNotes, notes_of

try:
    from mangum.types import LambdaConfig

    from serverless_session.aws.http_events import ADAPTERS, STAGE_ALONE, TEXT_TYPES, mount, smallest_size
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
    connected then, too; outside of Lambda `prewarm` does nothing. `base_path`: what is taken off the front of a path,
    beside an HTTP API's stage, where a custom domain maps the app below it; "": the path is left as it was sent.
    `root_path`: where browsers see the app, as of any ASGI server: it is in links, and in `request.url.path`, too.

    An invocation has an end. `time_out_margin` (0.5 s, or a tenth of the time there is, where that is less) before it
    the app is cancelled: what was to end of a session is ended, and a 503 leaves. No store call outlives the
    invocation. An exception of the app becomes a 500, as a server would make of it. Raises `ServerlessSessionError` for
    an event that is neither an HTTP request nor one that `event` has a function for, and where the app's lifespan
    fails; `ConfigurationError` for a setting that cannot be. Calls from several threads are served one after the other.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        prewarm: bool = False,
        base_path: str = STAGE_ALONE,
        root_path: str = "",
        time_out_margin: Duration = MARGIN,
    ) -> None:
        if not callable(app):
            raise ConfigurationError(
                "bad-app",
                f"an app is an ASGI app, not of type {type(app).__name__}",
                looked_at="app",
                mend="LambdaHandler(app), with the Starlette or FastAPI object",
            )
        self._app = app
        self._margin = _checked_margin(time_out_margin)
        self._config = LambdaConfig(
            api_gateway_base_path=_checked_path(base_path, "base_path="), text_mime_types=TEXT_TYPES, exclude_headers=[]
        )
        self._root_path = _checked_path(root_path, "root_path=").rstrip("/")
        self._functions: list[tuple[Callable[[Mapping[str, Any]], bool], EventFunction]] = []
        self._sandbox = Sandbox(app)
        self._sandbox.follow_the_platform()
        if prewarm and self._sandbox.may_prewarm():
            try:
                self._sandbox.prewarm()
            except BaseException:
                self._sandbox.close()
                raise

    def __call__(self, event: Any, context: Any) -> Any:
        """The answer to one event, in the form that its sender takes."""
        left = left_by(context)
        invocation = None if left is None else _Invocation(left, self._margin)
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
        if self._root_path:
            mount(exchange.scope, self._root_path)

        async def serve() -> None:
            if invocation is not None:
                invocation.begin(exchange.notes)
            exchange.scope["state"] = self._sandbox.state.copy()
            await exchange.run(self._app)

        timed_out = False
        try:
            self._sandbox.run(serve, invocation)
        except TimedOut as stopped:
            timed_out = True
            tell("lambda.timed_out" if stopped.is_over else "lambda.kept_running")
        timed_out |= invocation is not None and invocation.cancel_at <= monotonic()
        answer = adapter(exchange.answer(timed_out=timed_out))
        size, limit = smallest_size(answer), adapter.largest_answer_bytes
        if size > limit:
            tell("lambda.answer_too_large", {"size_bytes": size, "limit_bytes": limit})
            return adapter(exchange.failure())
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def event(self, matches: Callable[[Mapping[str, Any]], bool]) -> Callable[[_F], _F]:
        """Registers a function for events that are no HTTP requests: `@handler.event(lambda e: "Records" in e)`.

        It is called as `function(event, context)`, awaited if it is asynchronous and run in a thread if it is not, and
        what it returns is the answer. The first one that matches is taken; a condition that stumbles over what an event
        does not have (`KeyError`, `TypeError`, ...) does not match. The function's exceptions go to Lambda, which may
        send the event again; one that takes too long is cancelled as the app is, and ends with
        `ServerlessSessionError`. Raises `TypeError` for what is no condition.
        """
        if not callable(matches) or inspect.iscoroutinefunction(matches) or not _takes_one(matches):
            raise TypeError("event() takes a condition: @handler.event(lambda event: 'Records' in event)")

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

    def _run_function(self, event: Any, context: Any, invocation: _Invocation | None) -> object:
        function = next((function for matches, function in self._functions if _does_match(matches, event)), None)
        if function is None:
            known = [getattr(function, "__name__", "a function") for _, function in self._functions]
            raise ServerlessSessionError(
                "unknown-event",
                f"this handler knows no such event: it knows {', '.join([_HTTP_KINDS, *known])}",
                looked_at=f"the event, with {_names_in(event)}; the conditions of handler.event(...)",
                mend="@handler.event(lambda event: ...) above a function of yours that takes it",
            )

        async def call() -> object:
            if invocation is not None:
                invocation.begin()
            if inspect.iscoroutinefunction(function):  # that of asyncio is on its way out, from Python 3.14 on
                return await function(event, context)
            import anyio.to_thread

            done = await anyio.to_thread.run_sync(function, event, context)
            # A decorator, or an object that is called, may hide that it is asynchronous.
            return await done if inspect.isawaitable(done) else done

        try:
            return self._sandbox.run(call, invocation)
        except TimedOut:
            raise ServerlessSessionError(
                "event-timed-out",
                "a function for an event took all the time there was",
                mend="a longer timeout for the Lambda function, or less to do at once",
            ) from None


def _takes_one(matches: Callable[..., object]) -> bool:
    """Not a function for events, to which `event` was put as a decorator without its condition."""
    try:
        inspect.signature(matches).bind(None)
    except TypeError:
        return False
    except ValueError:  # it has no signature, being made in C
        return True
    return True


def _does_match(matches: Callable[[Mapping[str, Any]], bool], event: Any) -> bool:
    try:
        return matches(event)
    except (AttributeError, KeyError, IndexError, TypeError):
        return False


def _names_in(event: object) -> str:
    """What the event has at its top, which tells its sender; no values."""
    if not isinstance(event, dict):
        return f"a {type(event).__name__} in place of an object"
    return ", ".join(sorted(map(str, event))[:12]) or "nothing in it"


class _Invocation(Time):
    """The time of one invocation, and the margin of it that is kept for its end.

    Just before the margin the store calls of the app end, then the app is cancelled. In the first half of it, store
    calls end what was to end; the last quarter is the answer's.
    """

    def __init__(self, left: float, margin: float) -> None:
        ends_at, margin = monotonic() + left, margin_of(left, margin)
        super().__init__(cancel_at=ends_at - margin, leave_at=ends_at - margin / 4)
        self._calls_end_at = ends_at - margin * 1.1
        self._last_calls_end_at = ends_at - margin / 2
        self._end: InvocationEnd | None = None
        self._notes: RequestNotes | None = None

    def begin(self, notes: RequestNotes | None = None) -> None:
        """From here on in this context, no store call takes longer than there is time."""
        self._notes = notes
        self._end = set_invocation_end(self._calls_end_at - monotonic())

    def is_up(self) -> None:
        if self._end is not None:
            self._end.at = self._last_calls_end_at

    async def last(self) -> None:
        set_invocation_end(self._last_calls_end_at - monotonic())
        for wish in () if self._notes is None else self._notes.last_wishes:
            try:
                await wish()
            except Exception:  # noqa: BLE001 - the others may still be carried out
                tell("lambda.app_raised", exc_info=True)


class _Exchange:
    """One request and its answer, complete before anything is handed back: nothing runs after the answer."""

    def __init__(self, scope: Scope, body: bytes) -> None:
        self.scope = scope
        self.notes = notes_of(scope)
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
            return {"status": self._status, "headers": [*self._headers, *self._owed()], "body": body}
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
        return [*((name, value) for name, value in self._headers if name.lower() == b"set-cookie"), *self._owed()]

    def _owed(self) -> Headers:
        """Cookies of what was saved, which no answer of the app has had: it came from around the session, or not."""
        return [(b"set-cookie", value) for owed in self.notes.owed_cookies for value in owed()]

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
    with contextlib.suppress(TypeError):
        if 0 < seconds(margin) < float("inf"):
            return seconds(margin)
    raise ConfigurationError(
        "bad-margin",
        "an answer needs time to leave before the invocation ends",
        looked_at="time_out_margin=",
        mend="seconds above 0, as in 0.5",
    )


def _checked_path(path: str, looked_at: str) -> str:
    if not isinstance(path, str) or (path and not path.startswith("/")):
        raise ConfigurationError(
            "bad-path",
            "the start of a path begins with a slash",
            looked_at=looked_at,
            mend=f'{looked_at}"/shop", or nothing',
        )
    return path
