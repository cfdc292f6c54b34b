"""The life of a sandbox: what starts it, what it survives, what it leaves behind."""

import asyncio
import contextlib
import json
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from serverless_session import LambdaHandler, ServerlessSessionError, SharedState
from serverless_session.aws import sandbox
from serverless_session.snapshot import forget_everything
from serverless_session.stores import MemoryStore
from tests.aws.events import Context, event_v2, golden
from tests.aws.handlers import Handlers, cookie_of
from tests.servers import Server
from tests.sessions.apps import SECRET, app_over, counted
from tests.wire import TripCounter


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


def app_that_lives(lifespan: Callable[[Any], Any], *routes: Route) -> Starlette:
    return Starlette(routes=[Route("/", ok), *routes], lifespan=asynccontextmanager(lifespan))


@pytest.fixture
def on_lambda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as prewarming looks. What else follows Lambda's runtime is tested under it."""
    monkeypatch.setattr(sandbox.Sandbox, "follow_the_platform", lambda self: None)
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1")


# --- prewarm ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("on_lambda")
def test_prewarmed_a_handler_has_started_its_app_before_the_first_event(handlers: Handlers) -> None:
    happened: list[str] = []

    async def lifespan(app: Any) -> AsyncIterator[None]:
        happened.append("start")
        yield

    handler = handlers(app_that_lives(lifespan), prewarm=True)
    assert happened == ["start"]
    assert handler(event_v2(), Context())["body"] == "ok"
    assert happened == ["start"]


@pytest.mark.usefixtures("on_lambda")
def test_prewarmed_a_handler_has_a_connection_before_the_first_event(handlers: Handlers, valkey: Server) -> None:
    with TripCounter.to(valkey.port) as wire:
        shared = SharedState(wire.url, secret_key=SECRET)
        handler = handlers(app_over(shared), prewarm=True)
        assert wire.connections == 1
        wire.reset()
        handler(event_v2("POST", "/update", body={"n": 0}), Context())
        assert (wire.connections, wire.trips) == (0, 1)


@pytest.mark.usefixtures("on_lambda")
def test_prewarmed_over_a_dead_store_a_handler_serves_what_needs_none(handlers: Handlers) -> None:
    shared = SharedState("redis://127.0.0.1:1", secret_key=SECRET)
    handler = handlers(app_over(shared, exempt=["/plain"]), prewarm=True)
    assert handler(event_v2(path="/plain"), Context())["body"] == "plain"


@pytest.mark.usefixtures("on_lambda")
def test_a_start_that_takes_longer_than_there_is_goes_on_at_the_first_event(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    async def lifespan(app: Any) -> AsyncIterator[None]:
        happened.append("begun")
        await asyncio.sleep(0.3)
        happened.append("started")
        yield

    monkeypatch.setattr(sandbox, "PREWARM_SECONDS", 0.05)
    handler = handlers(app_that_lives(lifespan), prewarm=True)
    assert happened == ["begun"]
    assert handler(event_v2(), Context(0.1))["statusCode"] == 503, "there is no time for it here either"
    assert handler(event_v2(), Context())["body"] == "ok"
    assert happened == ["begun", "started"]


@pytest.mark.usefixtures("on_lambda")
def test_prewarmed_an_app_that_cannot_start_is_seen_when_the_handler_is_made(handlers: Handlers) -> None:
    """Lambda reports it as an error of the start, with its text."""
    with pytest.raises(ServerlessSessionError, match=r"weak-secret(.|\n)*write:"):
        handlers(app_over(SharedState("redis://localhost", secret_key="short")), prewarm=True)


def test_a_start_that_fails_after_its_event_has_been_answered_is_seen_by_the_next(handlers: Handlers) -> None:
    """Between the two the loop runs for a snapshot."""

    async def lifespan(app: Any) -> AsyncIterator[None]:
        await asyncio.sleep(0.2)
        raise RuntimeError("no database")
        yield

    handler = handlers(app_that_lives(lifespan))
    assert handler(event_v2(), Context(0.1))["statusCode"] == 503
    time.sleep(0.2)
    handler._sandbox.forget()
    with pytest.raises(ServerlessSessionError, match="no database"):
        handler(event_v2(), Context())


def test_a_start_that_failed_and_does_not_end_takes_no_message_from_the_next(handlers: Handlers) -> None:
    starts: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await PlainTextResponse("ok")(scope, receive, send)
            return
        starts.append((await receive())["type"])
        if len(starts) > 1:
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        await send({"type": "lifespan.startup.failed"})
        while starts[-1] != "lifespan.shutdown":
            with contextlib.suppress(asyncio.CancelledError):
                starts.append((await receive())["type"])

    handler = handlers(app)
    assert handler(event_v2(), Context(0.2))["statusCode"] == 503, "it is waited for until the time is up"
    assert handler(event_v2(), Context())["body"] == "ok"
    assert starts == ["lifespan.startup"] * 2


def test_elsewhere_nothing_is_prewarmed(handlers: Handlers, valkey: Server) -> None:
    """The module is imported by a server, too, which runs the lifespan itself."""
    with TripCounter.to(valkey.port) as wire:
        handlers(app_over(SharedState(wire.url, secret_key=SECRET)), prewarm=True)
        assert wire.connections == 0


@pytest.mark.usefixtures("on_lambda")
async def test_in_a_loop_nothing_is_prewarmed() -> None:
    """As behind the Web Adapter, in a server that imports its app on its loop."""
    happened: list[str] = []

    async def lifespan(app: Any) -> AsyncIterator[None]:
        happened.append("start")
        yield

    LambdaHandler(app_that_lives(lifespan), prewarm=True)
    assert happened == []


# --- what users do ----------------------------------------------------------------------------------------------------


def test_asyncio_run_beside_a_handler_disturbs_nothing(handlers: Handlers) -> None:
    shared, _ = counted()
    asyncio.run(asyncio.sleep(0))
    handler = handlers(app_over(shared))
    asyncio.run(asyncio.sleep(0))
    cookie = cookie_of(handler(event_v2("POST", "/update", body={"n": 1}), Context()))
    asyncio.run(asyncio.sleep(0))
    assert json.loads(handler(event_v2(path="/view", cookies=(cookie,)), Context())["body"]) == {"n": 1}


def test_asyncio_run_in_an_endpoint_is_an_error_with_its_name_and_the_next_event_is_served(
    handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    async def on_the_loop(request: Request) -> Response:
        work = asyncio.sleep(0)
        try:
            asyncio.run(work)
        finally:
            work.close()
        return PlainTextResponse("never")

    def in_a_thread(request: Request) -> Response:
        asyncio.run(asyncio.sleep(0))
        return PlainTextResponse("ran")

    handler = handlers(Starlette(routes=[Route("/on", on_the_loop), Route("/in", in_a_thread)]))
    assert handler(event_v2(path="/on"), Context())["statusCode"] == 500
    assert "asyncio.run() cannot be called from a running event loop" in caplog.text
    assert handler(event_v2(path="/in"), Context())["body"] == "ran"


def test_a_task_group_of_the_lifespan_works_in_every_event(handlers: Handlers) -> None:
    """THREATS 49."""
    done: list[int] = []

    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        async with anyio.create_task_group() as group:
            yield {"group": group}
            group.cancel_scope.cancel()

    async def add(request: Request) -> Response:
        async def work(number: int) -> None:
            done.append(number)

        request.state.group.start_soon(work, len(done))
        await asyncio.sleep(0)
        return PlainTextResponse("ok")

    handler = handlers(app_that_lives(lifespan, Route("/add", add)))
    for _ in range(5):
        handler(event_v2(path="/add"), Context())
    assert done == [0, 1, 2, 3, 4]


def test_a_thousand_sync_events_start_one_thread(handlers: Handlers) -> None:
    """THREATS 49."""

    def where(request: Request) -> Response:
        return PlainTextResponse(str(threading.get_ident()))

    handler = handlers(Starlette(routes=[Route("/", where)]))
    assert len({handler(event_v2(), Context())["body"] for _ in range(10)}) == 1
    before = threading.active_count()
    assert len({handler(event_v2(), Context())["body"] for _ in range(1000)}) == 1
    assert threading.active_count() == before


# --- other events -----------------------------------------------------------------------------------------------------


def test_other_events_go_to_the_first_function_that_takes_them(handlers: Handlers) -> None:
    shared, _ = counted()
    handler = handlers(app_over(shared))

    def is_sqs(event: Any) -> bool:
        return "Records" in event and event["Records"][0]["eventSource"] == "aws:sqs"

    @handler.event(is_sqs)
    async def take(event: Any, context: Any) -> Any:
        return {"batchItemFailures": [], "left": context.get_remaining_time_in_millis()}

    @handler.event(lambda event: event.get("source") == "aws.events")
    def tick(event: Any, context: Any) -> str:
        return threading.current_thread().name

    @handler.event(lambda event: "connectionId" in event.get("requestContext", {}))
    async def socket(event: Any, context: Any) -> Any:
        return {"statusCode": 200, "body": event["requestContext"]["routeKey"]}

    assert handler(golden("sqs"), Context(3.0)) == {"batchItemFailures": [], "left": 3000}
    assert handler(golden("schedule"), Context()) != threading.current_thread().name
    assert handler(golden("websocket"), Context()) == {"statusCode": 200, "body": "$connect"}
    assert handler(event_v2(path="/plain"), Context())["body"] == "plain", "and requests to the app"


def test_a_function_that_hides_that_it_is_asynchronous_is_awaited(handlers: Handlers) -> None:
    handler = handlers(Starlette())

    async def take(event: Any, context: Any) -> str:
        await asyncio.sleep(0)
        return "taken"

    def decorated(event: Any, context: Any) -> Any:
        return take(event, context)

    class Taker:
        async def __call__(self, event: Any, context: Any) -> str:
            return await take(event, context)

    handler.event(lambda event: event["Records"] == "decorated")(decorated)
    handler.event(lambda event: event["Records"] == "an object")(Taker())
    for kind in ("decorated", "an object"):
        assert handler({"Records": kind}, Context()) == "taken"


def test_an_event_that_nobody_takes_is_an_error_that_names_who_is_there(handlers: Handlers) -> None:
    handler = handlers(Starlette())

    @handler.event(lambda event: False)
    async def nightly(event: Any, context: Any) -> None: ...

    with pytest.raises(ServerlessSessionError, match=r"unknown-event(.|\n)*load balancers, nightly") as raised:
        handler(golden("sqs"), Context())
    assert "Test message" not in str(raised.value)


def test_a_condition_that_stumbles_over_an_event_does_not_match(handlers: Handlers) -> None:
    handler = handlers(Starlette())

    @handler.event(lambda event: event["source"] == "aws.events")
    async def tick(event: Any, context: Any) -> str:
        return "tick"

    @handler.event(lambda event: event["Records"][0]["eventSource"] == "aws:sqs")
    async def take(event: Any, context: Any) -> str:
        return "taken"

    assert handler(golden("sqs"), Context()) == "taken"
    assert handler(golden("schedule"), Context()) == "tick"
    with pytest.raises(ServerlessSessionError, match=r"unknown-event(.|\n)*a str in place of an object"):
        handler("ping", Context())


def test_a_condition_that_is_none_is_refused_where_it_is_given(handlers: Handlers) -> None:
    handler = handlers(Starlette())

    async def asynchronous(event: Any, context: Any) -> None: ...

    def synchronous(event: Any, context: Any) -> None: ...

    for matches in ("aws:sqs", asynchronous, synchronous):
        with pytest.raises(TypeError, match="takes a condition"):
            handler.event(matches)  # type: ignore[arg-type]


def test_with_closes_a_handler() -> None:
    happened: list[str] = []

    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        happened.append("stopped")

    with LambdaHandler(app_that_lives(lifespan)) as handler:
        assert handler(event_v2(), None)["body"] == "ok"
    assert happened == ["stopped"]


@pytest.mark.parametrize("context", [Mock(), SimpleNamespace(get_remaining_time_in_millis=lambda: None), {}, object()])
def test_a_context_that_does_not_know_the_time_sets_no_end(handlers: Handlers, context: Any) -> None:
    assert handlers(Starlette(routes=[Route("/", ok)]))(event_v2(), context)["body"] == "ok"


def test_what_a_function_raises_is_lambdas(handlers: Handlers) -> None:
    handler = handlers(Starlette())

    @handler.event(lambda event: "Records" in event)
    async def fail(event: Any, context: Any) -> None:
        raise KeyError("the app's")

    with pytest.raises(KeyError, match="the app's"):
        handler(golden("sqs"), Context())


# --- snapshots and forks ----------------------------------------------------------------------------------------------


def test_nothing_of_a_store_goes_into_a_snapshot(handlers: Handlers, valkey: Server) -> None:
    """THREATS 30."""
    with TripCounter.to(valkey.port) as wire:
        memory = MemoryStore()
        handler = handlers(app_over(SharedState(wire.url, secret_key=SECRET)))
        beside = handlers(app_over(SharedState(memory, secret_key=SECRET)))
        cookie = cookie_of(handler(event_v2("POST", "/update", body={"n": 0}), Context()))
        beside(event_v2("POST", "/update", body={"n": 0}), Context())
        assert len(memory._entries) == 1
        handler._sandbox.forget()
        assert memory._entries == {}
        assert wire.connections == 1
        assert json.loads(handler(event_v2(path="/view", cookies=(cookie,)), Context())["body"]) == {"n": 0}
        assert wire.connections == 2


async def test_who_registered_is_asked_to_forget_and_is_not_kept_alive() -> None:
    from serverless_session.snapshot import remember_to_forget

    asked: list[str] = []

    class Holder:
        async def forget(self) -> None:
            asked.append("forgot")

    holder = Holder()
    remember_to_forget(holder)
    await forget_everything()
    del holder
    await forget_everything()
    assert asked == ["forgot"]


def test_copies_of_a_process_share_no_id_no_version_and_no_nonce() -> None:
    """THREATS 30: as of a snapshot, of which many sandboxes are made."""
    program = """
        import os
        from serverless_session import SharedState
        from serverless_session.codec.sealing import Sealer
        from serverless_session.sessions.cookie import IdMaker
        from serverless_session.stores import new_version
        shared = SharedState("memory://", secret_key="k3Vt9xQzL0pWm7RbYc2NfHs8DgJ5aEu1")
        ids = IdMaker(shared.key_ring, shared.namespace)
        sealer = Sealer(shared.key_ring, namespace=shared.namespace, purpose="session")
        def made():
            return [ids.new().text, new_version().hex(), sealer.seal(b"x", key="k", ends_at=1.0).hex()]
        made()
        for _ in range(8):
            if os.fork() == 0:
                os.write(1, (" ".join(made()) + "\\n").encode())
                os._exit(0)
        while True:
            try: os.wait()
            except ChildProcessError: break
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    lines = ended.stdout.split()
    assert len(lines) == 24
    assert len(set(lines)) == 24


def test_an_event_after_the_end_is_an_error_with_a_name(handlers: Handlers) -> None:
    handler = handlers(app_that_lives(lifespan_of_nothing))
    handler(event_v2(), Context())
    handler.close()
    handler.close()
    with pytest.raises(ServerlessSessionError, match="handler-closed"):
        handler(event_v2(), Context())


async def lifespan_of_nothing(app: Any) -> AsyncIterator[None]:
    yield


def test_two_who_close_at_once_end_it_once(handlers: Handlers) -> None:
    """SIGTERM and the exit that it brings, say."""
    ends: list[str] = []

    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        await asyncio.sleep(0.1)
        ends.append("ended")

    handler = handlers(app_that_lives(lifespan))
    handler(event_v2(), Context())
    with ThreadPoolExecutor() as threads:
        for closed in [threads.submit(handler.close) for _ in range(3)]:
            closed.result()
    assert ends == ["ended"]
