"""One store object, many loops: in turn, side by side, ended properly or not, and after a fork.

Each test runs on every store over a network, in every way that it can be used, and counts what the process holds open,
sockets and threads, before and after.
"""

import asyncio
import gc
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serverless_session import LambdaHandler, SessionMiddleware, SharedState
from serverless_session.deadline import may_block, within
from serverless_session.stores import ABSENT, Conflict, Found, Missing, Read, Written
from serverless_session.testing.operations import new_key, one, present, write
from tests.aws.events import Context, event_v2
from tests.servers import Server
from tests.stores.ways import IN_THEIR_OWN_TIME, WAYS, NetworkedStore, Way, comes_back_to, held_open, store_threads
from tests.wire import TripCounter

SECRET = "k3Vt9xQzL0pWm7RbYc2NfHs8DgJ5aEu1"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return Way(request.param)


@pytest.fixture
def server(way: Way, request: pytest.FixtureRequest) -> Server:
    return way.server(request)


@pytest.fixture
def store(way: Way, server: Server) -> Iterator[NetworkedStore]:
    """Made before any loop, as at import."""
    yield way.store(server.port, most=4)
    may_block.set(False)


@pytest.fixture
def before() -> tuple[int, int]:
    gc.collect()
    return held_open()


async def some_calls(store: NetworkedStore) -> None:
    key, version = await present(store)
    outcomes = await asyncio.gather(*(one(store, Read(key)) for _ in range(8)))
    assert outcomes == [Found(b"old", version)] * 8
    found = outcomes[0]
    assert isinstance(found, Found)
    assert await one(store, write(key, expect=found.version)) == Written()


async def read_and_close(store: NetworkedStore) -> None:
    await one(store, Read("a"))
    await store.aclose()


# --- in turn ----------------------------------------------------------------------------------------------------------


def test_loops_one_after_the_other_leave_nothing_open(before: tuple[int, int], store: NetworkedStore) -> None:
    """Nobody closes the store: `asyncio.run` ends what was made for its loop."""
    for _ in range(5):
        asyncio.run(some_calls(store))
        assert comes_back_to(before)


@pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")
def test_loops_of_uvloop_leave_nothing_open(before: tuple[int, int], store: NetworkedStore) -> None:
    import uvloop

    async def with_cancellations() -> None:
        await some_calls(store)
        calls = [asyncio.ensure_future(one(store, Read("a"))) for _ in range(20)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        await asyncio.wait(calls)
        assert {call.result() == Missing() for call in calls if not call.cancelled()} <= {True}

    for _ in range(3):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(with_cancellations())
    asyncio.run(some_calls(store))
    assert comes_back_to(before)


def test_a_loop_that_ends_in_the_midst_of_calls_leaves_nothing_open(
    before: tuple[int, int], way: Way, store: NetworkedStore
) -> None:
    tasks = set[asyncio.Task[None]]()

    async def ends_early() -> None:
        for _ in range(30):
            tasks.add(asyncio.ensure_future(some_calls(store)))
        await asyncio.sleep(0.003)

    for _ in range(5):
        asyncio.run(ends_early())
    assert way.inline or any(task.cancelled() for task in tasks)
    assert all(task.cancelled() or task.exception() is None for task in tasks)
    assert comes_back_to(before)
    asyncio.run(some_calls(store))
    assert comes_back_to(before)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_closed_by_hand_is_let_go(before: tuple[int, int], store: NetworkedStore) -> None:
    """`loop.close()` without what `asyncio.run` does before it: the collector closes the connections."""

    def calls() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(some_calls(store))
        loop.close()

    for _ in range(5):
        calls()
    asyncio.run(read_and_close(store))
    assert comes_back_to(before, collected=True)


def test_two_loops_take_turns(before: tuple[int, int], store: NetworkedStore) -> None:
    loops = [asyncio.new_event_loop() for _ in range(2)]
    key, version = loops[0].run_until_complete(present(store))
    for _ in range(5):
        for loop in loops:
            assert loop.run_until_complete(one(store, Read(key))) == Found(b"old", version)
    sockets, running = held_open()
    assert sockets - before[0] <= 2 + 2 * 3  # two connections; each loop has a socket pair and a selector
    assert running - before[1] <= 2 * 4
    for loop in loops:
        loop.run_until_complete(store.aclose())
        loop.close()
    assert comes_back_to(before)


async def test_closing_gives_everything_back(way: Way, server: Server) -> None:
    before = held_open()
    store = way.store(server.port)
    for _ in range(2):
        await asyncio.gather(*(one(store, Read("a")) for _ in range(8)))
        assert held_open() > before
        await store.aclose()
        await asyncio.sleep(0.01)
        assert comes_back_to(before)
    await store.aclose()


# --- side by side -----------------------------------------------------------------------------------------------------


def test_two_threads_with_a_loop_each_share_a_store(before: tuple[int, int], way: Way, store: NetworkedStore) -> None:
    """None gets another's connection, and a key is won once."""
    at_once = threading.Barrier(2)
    keys = [new_key() for _ in range(100)]

    async def claims() -> list[bool]:
        may_block.set(way.inline)
        at_once.wait()
        with within(20.0):
            won = []
            for key in keys:
                mine = write(key, os.urandom(8), expect=ABSENT)
                outcome, _ = await asyncio.gather(one(store, mine), some_calls(store))
                stands = await one(store, Read(key))
                assert isinstance(stands, Found)
                won.append(stands == Found(mine.value, mine.version))
                assert outcome == (Written() if won[-1] else Conflict(stands))
            return won

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(asyncio.run, [claims(), claims()])
    assert [a + b for a, b in zip(first, second, strict=True)] == [1] * len(keys)
    assert comes_back_to(before)


def test_many_short_loops_in_many_threads(before: tuple[int, int], way: Way, store: NetworkedStore) -> None:
    async def calls() -> None:
        may_block.set(way.inline)
        with within(20.0):
            await some_calls(store)

    def loops() -> None:
        for _ in range(10):
            asyncio.run(calls())

    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(loops) for _ in range(6)]:
            done.result()
    assert comes_back_to(before)


# --- where apps are run -----------------------------------------------------------------------------------------------


async def visit(request: Request) -> JSONResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse(request.session["visits"])


def app(way: Way, server: Server) -> Starlette:
    shared = SharedState(f"{way.scheme}://127.0.0.1:{server.port}", secret_key=SECRET)
    made = Starlette(routes=[Route("/", visit)])
    made.add_middleware(SessionMiddleware, shared=shared)
    return made


def test_a_test_client_without_with_has_a_loop_for_each_request(
    before: tuple[int, int], way: Way, server: Server
) -> None:
    may_block.set(way.inline)
    client = TestClient(app(way, server), base_url="https://shop.example")
    assert [client.get("/").json() for _ in range(5)] == [1, 2, 3, 4, 5]
    may_block.set(False)
    assert comes_back_to(before, collected=True)


def test_our_lambda_handler_keeps_one_connection_and_no_thread(way: Way, server: Server) -> None:
    with TripCounter.to(server.port) as wire:
        before = held_open()
        shared = SharedState(f"{way.scheme}://127.0.0.1:{wire.port}", secret_key=SECRET)
        made = Starlette(routes=[Route("/", visit)])
        made.add_middleware(SessionMiddleware, shared=shared)
        handler = LambdaHandler(made)
        cookies: tuple[str, ...] = ()
        for visits in range(1, 6):
            answer = handler(event_v2("GET", "/", cookies=cookies), Context())
            assert answer["body"] == str(visits)
            cookies = tuple(cookie.partition(";")[0] for cookie in answer.get("cookies", [])) or cookies
        assert wire.connections == 1
        assert store_threads() == 0
        handler.close()
        gc.collect()
    assert comes_back_to((before[0], before[1]))


# --- programs ---------------------------------------------------------------------------------------------------------

PROGRAM = """\
import asyncio, gc, os, sys, warnings
from serverless_session.deadline import may_block
from serverless_session.stores import *

url, name, way, loops = sys.argv[1:]
store = open_store(url)  # before any loop
may_block.set(way.endswith("inline"))
if loops == "uvloop":
    from uvloop import new_event_loop
else:
    from asyncio import new_event_loop

def run(main):
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main)

async def calls(name, rounds=1):
    for number in range(rounds):
        key, version = f"{name}.{number}", new_version()
        outcome = await store.write(key, key.encode(), ttl=60, version=version, expect=ANYTHING)
        assert outcome == Written(), outcome
        found = await asyncio.gather(*(store.read(key) for _ in range(10)))
        assert found == [Found(key.encode(), version)] * 10

def sockets():
    links = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            links.add(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:
            pass
    return {link for link in links if link.startswith("socket:")}

run(calls(name + "a"))
loop = new_event_loop()
loop.run_until_complete(calls(name + "b"))
before = sockets()
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: a fork beside threads
    child = os.fork()
if child == 0:
    own = new_event_loop()
    loops = len(sockets() - before)
    own.run_until_complete(calls(name + "c", 30))
    assert len(sockets() - before) > loops, "it opened connections of its own"
    own.run_until_complete(store.aclose())
    run(calls(name + "d"))
    gc.collect()
    os._exit(0)
loop.run_until_complete(calls(name + "e", 30))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert sockets() <= before
loop.run_until_complete(calls(name + "f"))
assert sockets() <= before, "the child took nothing from its parent"
loop.run_until_complete(store.aclose())
loop.run_until_complete(asyncio.sleep(0.01))
loop.close()
gc.collect()
print("done", len(sockets()))
"""


@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
def test_a_program_with_loops_and_a_fork_runs_without_a_warning(way: Way, server: Server, loops: str) -> None:
    """Parent and child go on at the same time, each over connections of its own."""
    if loops == "uvloop" and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    run_program(PROGRAM, server.url, new_key(), way.name, loops)


ENDS_WITHOUT_CLOSING = """\
import asyncio, sys
from serverless_session.deadline import may_block, within
from serverless_session.stores import *

url, name, way = sys.argv[1:]
may_block.set(way.endswith("inline"))
store = open_store(url)

async def calls():
    with within(20.0):
        for _ in range(30):
            task = asyncio.ensure_future(store.read(name))
        await task
        for _ in range(30):
            asyncio.ensure_future(store.write(name, b"", ttl=60, version=new_version(), expect=ABSENT))
        await asyncio.sleep(0)

asyncio.run(calls())
print("done 0")
"""


def test_a_program_that_ends_in_the_midst_of_calls_runs_without_a_warning(way: Way, server: Server) -> None:
    run_program(ENDS_WITHOUT_CLOSING, server.url, new_key(), way.name)


@pytest.mark.parametrize("way", IN_THEIR_OWN_TIME, indirect=True)
def test_a_program_that_ends_in_the_midst_of_calls_to_a_silent_server_ends_at_once(way: Way) -> None:
    """No thread waits to the end of its deadline."""
    with way.own_server() as server:
        server.pause()
        begun = time.monotonic()
        run_program(SILENT, server.url, new_key(), way.name)
        assert time.monotonic() - begun < 10.0


SILENT = ENDS_WITHOUT_CLOSING.replace("        await task\n", "        await asyncio.sleep(0.05)\n")


def run_program(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    # `-X dev` tells of every 0.1 s that the loop was not given its turn: that is the machine's business.
    said = [line for line in done.stderr.splitlines() if not (line.startswith("Executing <") and "took" in line)]
    assert (done.returncode, done.stdout, said) == (0, "done 0\n", [])
