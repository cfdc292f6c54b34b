"""An app behind the Lambda handler: events in, answers out, and what lives between two of them."""

import asyncio
import base64
import contextlib
import json
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from serverless_session import ServerlessSessionError, SharedState
from serverless_session.deadline import time_left
from serverless_session.stores import MemoryStore, Operation, Outcome
from tests.aws.events import Context, event_v2
from tests.aws.handlers import Handlers, cookie_of
from tests.aws.sandboxes import LIMIT
from tests.servers import Server
from tests.sessions.apps import SECRET, app_over, counted
from tests.wire import TripCounter


def test_a_session_from_event_to_event(handlers: Handlers) -> None:
    shared, store = counted()
    handler = handlers(app_over(shared))
    answer = handler(event_v2("POST", "/update", body={"user": "ann"}), Context())
    assert answer["statusCode"] == 200
    assert json.loads(answer["body"]) == {"user": "ann"}
    assert answer["isBase64Encoded"] is False
    assert "; secure" in answer["cookies"][0]
    cookie = cookie_of(answer)
    store.reset()
    answer = handler(event_v2("GET", "/view", cookies=("theme=dark", cookie)), Context())
    assert json.loads(answer["body"]) == {"user": "ann"}
    assert "cookies" not in answer
    assert store.calls == 1
    answer = handler(event_v2("POST", "/clear", cookies=(cookie,)), Context())
    assert answer["cookies"][0].startswith("session=null;")
    answer = handler(event_v2("GET", "/view", cookies=(cookie,)), Context())
    assert json.loads(answer["body"]) == {}


def test_two_cookies_leave_as_two(handlers: Handlers) -> None:
    async def two(request: Request) -> Response:
        request.session["a"] = 1
        response = JSONResponse({})
        response.set_cookie("theme", "dark")
        return response

    shared, _ = counted()
    answer = handlers(app_over(shared, Route("/two", two)))(event_v2(path="/two"), Context())
    assert sorted(cookie.partition("=")[0] for cookie in answer["cookies"]) == ["session", "theme"]


def test_a_base64_body_and_a_query(handlers: Handlers) -> None:
    async def echo(request: Request) -> Response:
        return JSONResponse({"body": await request.json(), "query": list(request.query_params.multi_items())})

    handler = handlers(Starlette(routes=[Route("/echo", echo, methods=["POST"])]))
    answer = handler(event_v2("POST", "/echo", query="a=1&a=%C3%A9", body={"é": 1}, binary=True), Context())
    assert json.loads(answer["body"]) == {"body": {"é": 1}, "query": [["a", "1"], ["a", "é"]]}


def test_trips_on_the_wire_and_one_connection_for_many_events(handlers: Handlers, valkey: Server) -> None:
    with TripCounter.to(valkey.port) as wire:
        handler = handlers(app_over(SharedState(wire.url, secret_key=SECRET)))
        cookie = cookie_of(handler(event_v2("POST", "/update", body={"n": 0}), Context()))
        for number in range(1, 20):
            handler(event_v2("POST", "/update", body={"n": number}, cookies=(cookie,)), Context())
        assert wire.trips == 1 + 19 * 2
        assert wire.connections == 1


def test_the_lifespan_starts_once_and_its_state_is_seen(handlers: Handlers) -> None:
    starts: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        starts.append("start")
        yield {"pool": "warm"}
        starts.append("stop")

    async def pool(request: Request) -> Response:
        return PlainTextResponse(request.state.pool)

    handler = handlers(Starlette(routes=[Route("/", pool)], lifespan=lifespan))
    assert [handler(event_v2(), Context())["body"] for _ in range(3)] == ["warm"] * 3
    assert starts == ["start"]
    handler.close()
    assert starts == ["start", "stop"]


def test_a_lifespan_that_fails_is_seen_and_tried_again(handlers: Handlers) -> None:
    fails = [True, False]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if fails.pop(0):
            raise RuntimeError("no database")
        yield

    handler = handlers(Starlette(routes=[Route("/", lambda request: PlainTextResponse("ok"))], lifespan=lifespan))
    with pytest.raises(ServerlessSessionError, match="no database"):
        handler(event_v2(), Context())
    assert handler(event_v2(), Context())["body"] == "ok"


def test_a_wrong_setting_is_seen_in_the_log_of_the_first_event(handlers: Handlers) -> None:
    handler = handlers(app_over(SharedState("redis://localhost", secret_key="short")))
    with pytest.raises(ServerlessSessionError, match=r"weak-secret(.|\n)*write:"):
        handler(event_v2(), Context())


def test_an_app_without_lifespan(handlers: Handlers) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    assert handlers(app)(event_v2(), Context())["statusCode"] == 204


def test_context_variables_of_one_event_are_not_seen_by_the_next(handlers: Handlers) -> None:
    user: ContextVar[str | None] = ContextVar("user", default=None)

    async def whoami(request: Request) -> Response:
        before = user.get()
        user.set("ann")
        return JSONResponse(before)

    handler = handlers(Starlette(routes=[Route("/", whoami)]))
    assert [handler(event_v2(), Context())["body"] for _ in range(3)] == ["null"] * 3


def test_a_task_started_by_the_app_sees_the_contexts_of_its_event(handlers: Handlers) -> None:
    user: ContextVar[str | None] = ContextVar("user", default=None)

    async def whoami(request: Request) -> Response:
        user.set("ann")
        await asyncio.sleep(0)

        async def ask() -> str | None:
            return user.get()

        async with asyncio.timeout(5):
            return JSONResponse([user.get(), await asyncio.create_task(ask())])

    handler = handlers(Starlette(routes=[Route("/", whoami)]))
    assert handler(event_v2(), Context())["body"] == '["ann","ann"]'


def test_a_timeout_inside_the_app_is_the_apps(handlers: Handlers) -> None:
    async def slow(request: Request) -> Response:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(5)
        except TimeoutError:
            return PlainTextResponse("timed out")
        raise AssertionError

    handler = handlers(Starlette(routes=[Route("/", slow)]))
    assert [handler(event_v2(), Context())["body"] for _ in range(2)] == ["timed out"] * 2


@pytest.mark.parametrize("when", ["at once", "as its last act", "in a scope that it leaves open", "all"])
def test_an_app_that_cancels_itself_does_not_end_the_sandbox(handlers: Handlers, when: str) -> None:
    kept: list[Any] = []

    async def cancel(request: Request) -> Response:
        task = asyncio.current_task()
        assert task is not None
        if when == "in a scope that it leaves open":

            async def half() -> AsyncIterator[None]:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    yield

            kept.append(half())
            await anext(kept[-1])
        elif when == "all":
            for other in asyncio.all_tasks():
                other.cancel()
        else:
            task.cancel()
        if when in ("at once", "all"):
            await asyncio.sleep(0)
        return PlainTextResponse("cancelled")

    def fine(request: Request) -> Response:
        return PlainTextResponse("fine")

    handler = handlers(Starlette(routes=[Route("/cancel", cancel), Route("/fine", fine)]))
    for _ in range(2):
        with contextlib.suppress(ServerlessSessionError, RuntimeError):
            handler(event_v2(path="/cancel"), Context())
        assert handler(event_v2(path="/fine"), Context())["body"] == "fine"


def test_where_a_loop_runs_the_handler_refuses_and_does_not_run_the_event_later(handlers: Handlers) -> None:
    served: list[str] = []

    async def note(request: Request) -> Response:
        served.append(request.url.path)
        return PlainTextResponse("")

    handler = handlers(Starlette(routes=[Route("/{path}", note)]))

    async def wrong() -> None:
        handler(event_v2(path="/refused"), Context())

    with pytest.raises(ServerlessSessionError, match=r"asyncio\.to_thread"):
        asyncio.run(wrong())
    handler(event_v2(path="/second"), Context())
    assert served == ["/second"]


@pytest.mark.parametrize("by_way_of_another", [False, True])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_handler_that_is_called_by_its_own_endpoint_refuses(
    handlers: Handlers, kind: str, by_way_of_another: bool
) -> None:
    """Each would wait for the other, without a context for ever."""

    def call(request: Request) -> Response:
        return PlainTextResponse(handler(event_v2(path="/fine"), None)["body"])

    async def call_in_thread(request: Request) -> Response:
        return await asyncio.to_thread(call, request)

    def there(request: Request) -> Response:
        return PlainTextResponse(other(event_v2(path="/call"), None)["body"])

    def fine(request: Request) -> Response:
        return PlainTextResponse("fine")

    async def named(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServerlessSessionError)
        return PlainTextResponse(error.code)

    calling = Route("/call", call if kind == "sync" else call_in_thread)
    routes, exceptions = [Route("/there", there), Route("/fine", fine)], {ServerlessSessionError: named}
    handler = handlers(
        Starlette(routes=routes if by_way_of_another else [calling, *routes], exception_handlers=exceptions)
    )
    other = handlers(Starlette(routes=[calling], exception_handlers=exceptions))
    for _ in range(2):
        path = "/there" if by_way_of_another else "/call"
        assert handler(event_v2(path=path), Context(LIMIT))["body"] == "handler-in-itself"
    assert other(event_v2(path="/call"), Context(LIMIT))["body"] == "fine", "from another's endpoint it may be"


def test_a_stream_that_raises_is_500_with_the_cookie_of_what_was_saved(handlers: Handlers) -> None:
    """THREATS 19: else the new id is saved, the old one dead, and the visitor has neither."""

    async def log_in(request: Request) -> Response:
        request.scope["session"].regenerate()
        request.session["user"] = "ann"

        async def body() -> AsyncIterator[str]:
            yield "one"
            raise RuntimeError

        return StreamingResponse(body())

    shared, _ = counted()
    handler = handlers(app_over(shared, Route("/login", log_in)))
    answer = handler(event_v2(path="/login"), Context())
    assert answer["statusCode"] == 500
    seen = handler(event_v2(path="/view", cookies=(cookie_of(answer),)), Context())
    assert json.loads(seen["body"]) == {"user": "ann"}


def test_sync_endpoints_share_one_thread_over_many_events(handlers: Handlers) -> None:
    def where(request: Request) -> Response:
        return PlainTextResponse(str(threading.get_ident()))

    handler = handlers(Starlette(routes=[Route("/", where)]))
    assert len({handler(event_v2(), Context())["body"] for _ in range(100)}) == 1


def test_no_store_call_outlives_the_invocation(handlers: Handlers) -> None:
    lefts: list[float] = []

    class Watching(MemoryStore):
        async def perform(self, *operations: Operation) -> Sequence[Outcome]:
            lefts.append(time_left())
            return await super().perform(*operations)

    shared = SharedState(Watching(), secret_key=SECRET, timeout=2.0)
    handler = handlers(app_over(shared))
    for remaining in (30.0, 0.5):
        handler(event_v2("POST", "/update", body={"a": 1}), Context(remaining))
    assert 1.5 < lefts[0] <= 2.0
    assert 0.2 < lefts[1] <= 0.5


def test_a_silent_store_is_503_before_lambda_ends_us(handlers: Handlers, silent_port: int) -> None:
    shared = SharedState(f"redis://127.0.0.1:{silent_port}", secret_key=SECRET, timeout=5.0)
    handler = handlers(app_over(shared))
    begun = time.monotonic()
    assert handler(event_v2("POST", "/update", body={"a": 1}), Context(2.0))["statusCode"] == 503
    assert 1.5 < time.monotonic() - begun < 2.0


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that accepts and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        yield port


def test_what_the_app_raises_is_500(handlers: Handlers, caplog: pytest.LogCaptureFixture) -> None:
    async def raw(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("the app's fault")

    assert handlers(raw)(event_v2(), Context())["statusCode"] == 500
    assert "the app's fault" in caplog.text


def test_background_tasks_and_streams_are_finished_before_the_answer(handlers: Handlers) -> None:
    done: list[str] = []

    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            for part in ("one", "two"):
                yield part

        return StreamingResponse(body(), background=BackgroundTask(done.append, "background"))

    answer = handlers(Starlette(routes=[Route("/", endpoint)]))(event_v2(), Context())
    assert done == ["background"]
    body = base64.b64decode(answer["body"]) if answer["isBase64Encoded"] else answer["body"].encode()
    assert body == b"onetwo"


@pytest.mark.parametrize("event", [{}, {"Records": []}, {"version": "1.0", "requestContext": {}}, "ping", None])
def test_an_event_of_another_kind_is_named(handlers: Handlers, event: Any) -> None:
    with pytest.raises(ServerlessSessionError, match="unknown-event"):
        handlers(Starlette())(event, Context())


def test_calls_from_several_threads_are_served_one_after_the_other(handlers: Handlers) -> None:
    shared, _ = counted()
    handler = handlers(app_over(shared))
    cookie = cookie_of(handler(event_v2("POST", "/update", body={"user": "ann"}), Context()))
    answers: list[str] = []

    def call() -> None:
        answers.extend(handler(event_v2("GET", "/view", cookies=(cookie,)), Context())["body"] for _ in range(20))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ['{"user":"ann"}'] * 80


ENDS = {
    "worker threads": ("return PlainTextResponse('ok')", "yield; print('stopped')", "call()", "ok stopped", 0),
    "a lifespan that hangs": ("return PlainTextResponse('ok')", "yield; await asyncio.sleep(60)", "call()", "ok", 0),
    "a generator that hangs when it is closed": (
        "calls.append(hanging()); await anext(calls[-1]); return PlainTextResponse('ok')",
        "yield",
        "call()",
        "ok",
        0,
    ),
    "a lifespan that exits": ("return PlainTextResponse('ok')", "yield; sys.exit(3)", "call()", "ok", 0),
    "a handler that is dropped": (
        "return PlainTextResponse('ok')",
        "yield; print('stopped')",
        "call(); del handler; gc.collect()",
        "ok stopped",
        0,
    ),
    "an endpoint that exits": ("sys.exit(3)", "yield", "call()", "", 3),
    "a fork after the first event": (
        "return PlainTextResponse('ok')",
        "yield",
        "call(); pid = os.fork(); call(); os.waitpid(pid, 0) if pid else None",
        "ok ok ok",
        0,
    ),
    "an event that hangs in a daemon thread": (
        "await asyncio.sleep(0 if not calls else 60); calls.append(1); return PlainTextResponse('ok')",
        "yield",
        "call(); threading.Thread(target=call, daemon=True).start(); time.sleep(0.2)",
        "ok",
        0,
    ),
}


@pytest.mark.parametrize(("endpoint", "lifespan", "run", "printed", "code"), ENDS.values(), ids=ENDS)
def test_the_process_ends(endpoint: str, lifespan: str, run: str, printed: str, code: int) -> None:
    """anyio's threads are no daemons: without `_close_at_exit` the interpreter would wait for them for ever."""
    program = f"""
        import asyncio, gc, os, sys, threading, time
        from contextlib import asynccontextmanager
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route
        from serverless_session import LambdaHandler
        from tests.aws.events import Context, event_v2

        calls = []

        async def hanging():
            try:
                yield
            finally:
                await asyncio.sleep(60)

        async def endpoint(request):
            await run_in_threadpool(os.getpid)
            {endpoint}

        @asynccontextmanager
        async def lifespan(app):
            {lifespan}

        handler = LambdaHandler(Starlette(routes=[Route("/", endpoint)], lifespan=lifespan))

        def call():
            os.write(1, handler(event_v2(), Context())["body"].encode() + b"\\n")  # whole, beside that of a fork

        {run}
    """
    command = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    ended = subprocess.run([*command, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=LIMIT)
    assert (ended.stdout.split(), ended.returncode) == (printed.split(), code)
    if code == 0 and "daemon" not in run:  # a thread whose event is cancelled at the end says so
        assert ended.stderr == ""
