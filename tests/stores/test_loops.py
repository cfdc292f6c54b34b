"""A store is made at import and used by whatever loop and process runs then; nothing of it is left behind."""

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serverless_session import LambdaHandler, SessionMiddleware, SharedState
from serverless_session.stores import Found, Missing, Read, Store
from serverless_session.testing.operations import new_key, one, present
from tests.aws.events import Context, event_v2
from tests.stores.networked import Kind, each_kind

SECRET = "k3Vt9xQzL0pWm7RbYc2NfHs8DgJ5aEu1"


def open_sockets() -> int:
    count = 0
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{entry}").startswith("socket:")
    return count


def threads() -> int:
    """Those of the process, not only those that Python knows."""
    return len(os.listdir("/proc/self/task"))


@pytest.fixture
def _nothing_is_left() -> Iterator[None]:
    """As many sockets and threads as before. Threads that were told to end may take a moment for it."""
    before = open_sockets(), threads()
    yield
    gc.collect()
    give_up_at = time.monotonic() + 2.0
    while (open_sockets(), threads()) != before:
        assert time.monotonic() < give_up_at, f"{(open_sockets(), threads())} sockets and threads; before {before}"
        time.sleep(0.01)


async def some_calls(store: Store) -> None:
    key, version = await present(store)
    outcomes = await asyncio.gather(*(one(store, Read(key)) for _ in range(4)))
    assert outcomes == [Found(b"old", version)] * 4


def in_a_loop(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
    loop.run_until_complete(work)


@pytest.mark.usefixtures("_nothing_is_left")
@each_kind
def test_one_store_serves_loops_one_after_the_other(kind: Kind, request: pytest.FixtureRequest) -> None:
    store = kind.store(kind.server(request).port)
    before = open_sockets()
    for _ in range(5):
        asyncio.run(some_calls(store))  # does not close the store
        assert open_sockets() == before


@pytest.mark.usefixtures("_nothing_is_left")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@each_kind
def test_a_loop_closed_by_hand_is_let_go(kind: Kind, request: pytest.FixtureRequest) -> None:
    """`loop.close()` without what `asyncio.run` does before it: the collector closes the connections."""
    store = kind.store(kind.server(request).port)
    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(some_calls(store))
        loop.close()
        del loop
    asyncio.run(some_calls(store))
    del store


@pytest.mark.usefixtures("_nothing_is_left")
@each_kind
def test_two_loops_take_turns(kind: Kind, request: pytest.FixtureRequest) -> None:
    store = kind.store(kind.server(request).port)
    loops = [asyncio.new_event_loop() for _ in range(2)]
    key, version = loops[0].run_until_complete(present(store))
    for _ in range(5):
        for loop in loops:
            assert loop.run_until_complete(one(store, Read(key))) == Found(b"old", version)
    for loop in loops:
        loop.run_until_complete(store.aclose())
        loop.close()


@pytest.mark.usefixtures("_nothing_is_left")
@each_kind
def test_two_threads_with_a_loop_each(kind: Kind, request: pytest.FixtureRequest) -> None:
    port = kind.server(request).port
    store = kind.store(port)
    failures: list[BaseException] = []

    async def many(store: Store) -> None:
        kind.store(port)  # so that this thread's context waits as the kind says
        for _ in range(30):
            await some_calls(store)

    def run() -> None:
        try:
            asyncio.run(many(store))
        except BaseException as error:  # noqa: BLE001  shown by the test
            failures.append(error)

    running = [threading.Thread(target=run) for _ in range(2)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(30.0)
    assert failures == []


@pytest.mark.usefixtures("_nothing_is_left")
@each_kind
async def test_closing_gives_everything_back(kind: Kind, request: pytest.FixtureRequest) -> None:
    before = open_sockets()
    store = kind.store(kind.server(request).port)
    for _ in range(2):
        await asyncio.gather(*(one(store, Read("a")) for _ in range(8)))
        assert open_sockets() > before
        await store.aclose()
        await asyncio.sleep(0)
        assert open_sockets() == before


@pytest.mark.usefixtures("_nothing_is_left")
@each_kind
async def test_closing_while_calls_are_on_their_way(kind: Kind, request: pytest.FixtureRequest) -> None:
    store = kind.store(kind.server(request).port)
    name = new_key()
    calls = [asyncio.ensure_future(one(store, Read(name))) for _ in range(4)]
    await asyncio.sleep(0)
    await store.aclose()
    assert await asyncio.gather(*calls) == [Missing()] * 4
    await store.aclose()
    await asyncio.sleep(0)


@pytest.mark.usefixtures("_nothing_is_left")
@each_kind
async def test_closing_while_calls_wait_for_a_connection(kind: Kind, request: pytest.FixtureRequest) -> None:
    store = kind.store(kind.server(request).port, max_connections=1)
    name = new_key()
    calls = [asyncio.ensure_future(one(store, Read(name))) for _ in range(4)]
    await asyncio.sleep(0)
    await store.aclose()
    assert await asyncio.gather(*calls) == [Missing()] * 4
    await asyncio.sleep(0)


async def visit(request: Request) -> JSONResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse(request.session)


def app_over(url: str) -> tuple[Starlette, SharedState]:
    shared = SharedState(url, secret_key=SECRET)
    app = Starlette(routes=[Route("/", visit)])
    app.add_middleware(SessionMiddleware, shared=shared)
    return app, shared


@pytest.mark.usefixtures("_nothing_is_left")
@each_kind
def test_a_test_client_without_with_has_a_loop_for_each_request(kind: Kind, request: pytest.FixtureRequest) -> None:
    if kind.inline:
        pytest.skip("a test client never says that its loop may block")
    app, _ = app_over(kind.server(request).url)
    client = TestClient(app, base_url="https://shop.example")
    assert [client.get("/").json() for _ in range(4)] == [{"visits": visits} for visits in (1, 2, 3, 4)]
    client.close()


@each_kind
def test_our_lambda_handler_keeps_one_connection(kind: Kind, request: pytest.FixtureRequest) -> None:
    before = open_sockets()
    app, _ = app_over(kind.server(request).url)
    handler = LambdaHandler(app)
    cookie = handler(event_v2(), Context())["cookies"][0].partition(";")[0]
    sockets, running = open_sockets(), threads()
    for visits in range(2, 40):
        answer = handler(event_v2(cookies=(cookie,)), Context())
        assert answer["body"] == f'{{"visits":{visits}}}'
        cookie = answer["cookies"][0].partition(";")[0] if "cookies" in answer else cookie
    assert (open_sockets(), threads()) == (sockets, running)
    handler.close()
    assert open_sockets() == before


PROGRAM = """\
import asyncio, gc, os, sys
from serverless_session.deadline import may_block
from serverless_session.stores import *

url, name, inline = sys.argv[1:]
may_block.set(inline == "True")
store = open_store(url)  # before any loop

async def once(name):
    version = new_version()
    outcome = await store.write(name, name.encode(), ttl=60, version=version, expect=ANYTHING)
    assert outcome == Written(), outcome
    assert await store.read(name) == Found(name.encode(), version)

def sockets():
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:
            pass
    return {link for link in found if link.startswith("socket:")}

asyncio.run(once(name + "a"))
loop = asyncio.new_event_loop()
loop.run_until_complete(once(name + "b"))
inherited = sockets()
child = os.fork()
if child == 0:
    loop2 = asyncio.new_event_loop()
    loop2.run_until_complete(asyncio.wait_for(once(name + "c"), 20))
    assert sockets() - inherited, "the child has a connection of its own"
    loop2.run_until_complete(store.aclose())
    loop2.close()
    gc.collect()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
loop.run_until_complete(once(name + "d"))
loop.run_until_complete(store.aclose())
loop.close()
print("done")
"""


@each_kind
def test_a_program_with_loops_and_a_fork_runs_without_a_warning(kind: Kind, request: pytest.FixtureRequest) -> None:
    url = kind.server(request).url
    options = ["-W", "error", "-W", "ignore:This process:DeprecationWarning", "-X", "dev"]
    done = subprocess.run(
        [sys.executable, *options, "-c", PROGRAM, url, new_key(), str(kind.inline)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
