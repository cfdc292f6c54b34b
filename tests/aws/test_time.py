"""The end of an invocation: what an app that takes too long is answered with, and what is kept of what it did."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from serverless_session import SessionMiddleware, SharedState, load_session
from serverless_session.aws.handler import LambdaHandler
from serverless_session.deadline import time_left
from serverless_session.errors import ConfigurationError, ServerlessSessionError
from serverless_session.stores import MemoryStore
from serverless_session.testing import CountingStore, FaultyStore
from tests.aws.events import Context, event_v2
from tests.aws.handlers import Handlers, cookie_of
from tests.aws.sandboxes import LIMIT
from tests.sessions.apps import ROUTES as USUAL
from tests.sessions.apps import SECRET, app_over, counted

SHORT = 0.6
FOR_EVER = 60.0


class RunningOut(Context):
    """A context whose time runs."""

    def __init__(self, remaining: float = SHORT) -> None:
        super().__init__(remaining)
        self._begun = time.monotonic()

    def get_remaining_time_in_millis(self) -> int:
        return int((self.remaining - (time.monotonic() - self._begun)) * 1000)


async def end_and_hang(request: Request) -> Response:
    session = await load_session(request)
    session.logout()
    session["after"] = 1
    await asyncio.sleep(FOR_EVER)
    return PlainTextResponse("never")


async def change_and_hang(request: Request) -> Response:
    request.session["half"] = "done"
    await asyncio.sleep(FOR_EVER)
    return PlainTextResponse("never")


async def stream_and_hang(request: Request) -> Response:
    request.session["seen"] = 1

    async def chunks() -> AsyncIterator[str]:
        yield "a"
        await asyncio.sleep(FOR_EVER)

    (await load_session(request)).regenerate()
    return StreamingResponse(chunks())


async def answer_and_go_on(request: Request) -> Response:
    return PlainTextResponse("done", background=BackgroundTask(asyncio.sleep, FOR_EVER))


released = threading.Event()
"""Lets threads go on that nobody can stop."""


def block(request: Request) -> Response:
    request.session["blocked"] = 1
    released.wait(LIMIT)
    return PlainTextResponse("never")


async def catch_everything(request: Request) -> Response:
    for _ in range(2):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(FOR_EVER)
    await asyncio.sleep(FOR_EVER)
    return PlainTextResponse("never")


ROUTES = [
    Route("/" + endpoint.__name__, endpoint)
    for endpoint in (end_and_hang, change_and_hang, stream_and_hang, answer_and_go_on, block, catch_everything)
]


class VisitedApp:
    """An app with a visitor who has a session in it."""

    def __init__(self, handlers: Handlers) -> None:
        self.shared, self.store = counted()
        self.handler = handlers(app_over(self.shared, *ROUTES))
        self.cookie = cookie_of(self.handler(event_v2("POST", "/update", body={"user": "ann"}), Context()))

    def ask(self, path: str, context: Any = None) -> dict[str, Any]:
        event = event_v2(path=path, cookies=(self.cookie,))
        answer: dict[str, Any] = self.handler(event, context if context is not None else Context())
        return answer

    def view(self) -> str:
        return str(self.ask("/view")["body"])


@pytest.fixture
def visitor(handlers: Handlers) -> VisitedApp:
    return VisitedApp(handlers)


def assert_timed_out(answer: dict[str, Any]) -> None:
    assert answer["statusCode"] == 503
    assert answer["headers"]["retry-after"] == "1"
    assert answer["headers"]["cache-control"] == "no-store"
    assert answer["headers"]["content-type"] == "application/problem+json"


def test_an_app_that_takes_all_the_time_is_503_while_there_is_some(visitor: VisitedApp) -> None:
    """THREATS 40: Lambda would kill the sandbox, and with it every connection."""
    context = RunningOut()
    assert_timed_out(visitor.ask("/change_and_hang", context))
    assert context.get_remaining_time_in_millis() > 0
    assert visitor.view() == '{"user":"ann"}', "nothing is half-written"


def test_what_was_ended_is_ended_though_the_time_is_up(visitor: VisitedApp) -> None:
    """THREATS 40."""
    assert_timed_out(visitor.ask("/end_and_hang", RunningOut()))
    assert visitor.view() == "{}"


def test_a_stream_that_takes_all_the_time_is_503_with_the_cookie_of_what_was_saved(visitor: VisitedApp) -> None:
    """THREATS 19, THREATS 40: without it the visitor would have lost the session under its new id."""
    answer = visitor.ask("/stream_and_hang", RunningOut())
    assert_timed_out(answer)
    visitor.cookie = cookie_of(answer)
    assert visitor.view() == '{"user":"ann","seen":1}'


def test_an_answer_that_is_complete_leaves_though_a_background_task_takes_all_the_time(visitor: VisitedApp) -> None:
    answer = visitor.ask("/answer_and_go_on", RunningOut())
    assert (answer["statusCode"], answer["body"]) == (200, "done")


@pytest.mark.parametrize("path", ["/block", "/catch_everything"])
def test_an_app_that_cannot_be_stopped_is_left_behind(
    visitor: VisitedApp, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    released.clear()
    try:
        assert_timed_out(visitor.ask(path, Context(SHORT)))
        assert ("lambda.kept_running" in caplog.text) is (path == "/catch_everything"), "a thread is not the app"
    finally:
        released.set()
    for _ in range(2):  # the first lets the loop hear of the thread's end
        assert visitor.view() == '{"user":"ann"}'


def test_what_was_left_behind_and_goes_on_in_the_next_event_touches_nobody_else(
    handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    """THREATS 40: it may change the session of its own visitor, and nothing of the next one."""
    who: ContextVar[str | None] = ContextVar("who", default=None)
    seen: list[str | None] = []
    next_event, over = asyncio.Event(), asyncio.Event()

    async def stay(request: Request) -> Response:
        session = await load_session(request)
        who.set("ann")
        while not next_event.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await next_event.wait()
        seen.append(who.get())
        session.logout()
        over.set()
        raise RuntimeError("left behind")

    async def serve(request: Request) -> Response:
        seen.append(who.get())
        next_event.set()
        await over.wait()
        request.session["served"] = True
        return JSONResponse(request.session)

    shared, _ = counted()
    handler = handlers(app_over(shared, Route("/stay", stay), Route("/serve", serve)))
    ann, bob = (
        cookie_of(handler(event_v2("POST", "/update", body={"user": user}), Context())) for user in ("ann", "bob")
    )
    assert_timed_out(handler(event_v2(path="/stay", cookies=(ann,)), Context(SHORT)))
    answer = handler(event_v2(path="/serve", cookies=(bob,)), Context(LIMIT))
    assert (answer["statusCode"], answer["body"]) == (200, '{"user":"bob","served":true}')
    assert "cookies" not in answer
    assert seen == [None, "ann"]
    assert "left behind" in caplog.text
    for cookie, holds in ((ann, "{}"), (bob, '{"user":"bob","served":true}')):
        assert handler(event_v2(path="/view", cookies=(cookie,)), Context())["body"] == holds


def test_many_events_with_some_that_take_too_long_leave_nothing_open(visitor: VisitedApp) -> None:
    """THREATS 49."""
    sandbox = visitor.handler._sandbox

    def serve(times: int) -> tuple[int, int, int]:
        for number in range(times):
            visitor.view()
            if number % 10 == 0:
                assert_timed_out(visitor.ask("/change_and_hang", Context(0.01)))
        assert sandbox._loop is not None
        return len(os.listdir("/proc/self/fd")), threading.active_count(), len(asyncio.all_tasks(sandbox._loop))

    before = serve(50)
    assert serve(500) == before


async def save_login_and(request: Request) -> Response:
    session = await load_session(request)
    session.login("ann")
    await session.save()
    if request.url.path == "/login_and_raise":
        raise RuntimeError("after it was saved")
    await asyncio.sleep(FOR_EVER)
    return PlainTextResponse("never")


@pytest.mark.parametrize(("path", "status"), [("/login_and_raise", 500), ("/login_and_hang", 503)])
def test_a_login_that_was_saved_has_its_cookie_though_the_app_never_answers(
    handlers: Handlers, path: str, status: int
) -> None:
    """THREATS 40: the old id is dead, and the browser would never hear of the new one."""
    shared, _ = counted()
    handler = handlers(app_over(shared, Route(path, save_login_and)))
    before = cookie_of(handler(event_v2("POST", "/update", body={"cart": ["tea"]}), Context()))
    answer = handler(event_v2(path=path, cookies=(before,)), Context(SHORT))
    assert answer["statusCode"] == status
    after = cookie_of(answer)
    assert after != before
    assert handler(event_v2(path="/view", cookies=(after,)), Context())["body"] == '{"cart":["tea"]}'


def test_a_logout_is_carried_out_though_the_app_cannot_be_stopped(handlers: Handlers) -> None:
    """THREATS 40: a cancellation does not reach a thread that a middleware of Starlette's waits for."""
    released = threading.Event()

    def log_out(request: Request) -> Response:
        request.session.clear()
        released.wait(LIMIT)
        return PlainTextResponse("never in time")

    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    shared, _ = counted()
    app = Starlette(
        routes=[Route("/out", log_out), *USUAL],
        middleware=[
            Middleware(SessionMiddleware, shared=shared),
            Middleware(BaseHTTPMiddleware, dispatch=pass_on),
        ],
    )
    handler = handlers(app)
    cookie = cookie_of(handler(event_v2("POST", "/update", body={"user": "ann"}), Context()))
    try:
        assert_timed_out(handler(event_v2(path="/out", cookies=(cookie,)), Context(1.0)))
        assert handler(event_v2(path="/view", cookies=(cookie,)), Context())["body"] == "{}"
    finally:
        released.set()
    assert handler(event_v2(path="/view", cookies=(cookie,)), Context())["body"] == "{}"


def test_a_store_that_is_slow_is_503_by_the_session_before_the_app_is_stopped(handlers: Handlers) -> None:
    store = FaultyStore(MemoryStore())
    handler = handlers(app_over(SharedState(store, secret_key=SECRET, timeout=FOR_EVER)))
    cookie = cookie_of(handler(event_v2("POST", "/update", body={"user": "ann"}), Context()))
    store.delay(FOR_EVER)
    context = RunningOut()
    answer = handler(event_v2(path="/view", cookies=(cookie,)), context)
    assert answer["statusCode"] == 503
    assert "Sessions cannot be kept" in answer["body"]
    assert context.get_remaining_time_in_millis() > 0


def test_the_ending_of_a_session_has_time_of_its_own(handlers: Handlers) -> None:
    left: list[float] = []

    class Asked(CountingStore):
        async def perform(self, *operations: Any) -> Any:
            left.append(time_left(FOR_EVER))
            return await super().perform(*operations)

    shared = SharedState(Asked(MemoryStore()), secret_key=SECRET)
    handler = handlers(app_over(shared, *ROUTES))
    cookie = cookie_of(handler(event_v2("POST", "/update", body={"user": "ann"}), Context()))
    handler(event_v2(path="/end_and_hang", cookies=(cookie,)), RunningOut(2.0))
    assert 0 < left[-1] <= 0.1, "of the margin, a tenth of the time, one half"


def test_without_a_context_there_is_no_end(handlers: Handlers) -> None:
    async def left(request: Request) -> Response:
        return PlainTextResponse(str(time_left(7.0)))

    assert handlers(app_over(counted()[0], Route("/left", left)))(event_v2(path="/left"), None)["body"] == "7.0"


@pytest.mark.parametrize("margin", [0, -1, float("inf"), float("nan")])
def test_a_margin_that_cannot_be_is_refused(margin: float) -> None:
    with pytest.raises(ConfigurationError, match="bad-margin"):
        LambdaHandler(app_over(counted()[0]), time_out_margin=margin)


@pytest.mark.parametrize(("margin", "at_least"), [(0.01, 0.99), (10.0, 0.9)], ids=["narrow", "wider than a tenth"])
def test_the_app_runs_until_the_margin_and_a_tenth_of_the_time_is_the_most(
    handlers: Handlers, margin: float, at_least: float
) -> None:
    stopped: list[float] = []

    async def wait(request: Request) -> Response:
        try:
            await asyncio.sleep(FOR_EVER)
        finally:
            stopped.append(time.monotonic())
        return PlainTextResponse("never")

    handler = handlers(app_over(counted()[0], Route("/wait", wait)), time_out_margin=margin)
    begun = time.monotonic()
    assert_timed_out(handler(event_v2(path="/wait"), Context(1.0)))
    assert stopped[0] - begun >= at_least


def test_an_event_that_waits_for_its_turn_loses_its_time_by_that(handlers: Handlers) -> None:
    """Lambda counts it, too: the app would be cancelled when the invocation is long over."""
    begun, asked = threading.Event(), threading.Event()

    class Asked(Context):
        def get_remaining_time_in_millis(self) -> int:
            asked.set()
            return super().get_remaining_time_in_millis()

    async def hold(request: Request) -> Response:
        begun.set()
        await asyncio.to_thread(asked.wait, LIMIT)
        await asyncio.sleep(SHORT)
        return PlainTextResponse("held")

    async def quick(request: Request) -> Response:
        await asyncio.sleep(SHORT / 2)
        return PlainTextResponse("never")

    handler = handlers(app_over(counted()[0], Route("/hold", hold), Route("/quick", quick)))
    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(handler, event_v2(path="/hold"), None)
        begun.wait(LIMIT)
        assert_timed_out(handler(event_v2(path="/quick"), Asked(SHORT)))
        assert held.result()["body"] == "held"


# --- other events -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_function_for_an_event_that_takes_all_the_time_is_an_error_for_lambda(visitor: VisitedApp, kind: str) -> None:
    """So the event is sent again, if its sender does that."""

    async def wait(event: Any, context: Any) -> None:
        await asyncio.sleep(FOR_EVER)

    def block(event: Any, context: Any) -> None:
        time.sleep(2 * SHORT)

    visitor.handler.event(lambda event: "Records" in event)(wait if kind == "async" else block)
    context = RunningOut()
    with pytest.raises(ServerlessSessionError, match="event-timed-out"):
        visitor.handler({"Records": []}, context)
    assert context.get_remaining_time_in_millis() > 0
    assert visitor.view() == '{"user":"ann"}'
