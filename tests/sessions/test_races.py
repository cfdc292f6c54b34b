"""Many requests of one session at once, over real servers: nobody's change is lost, and it costs about a trip each."""

import asyncio
from collections.abc import Callable

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serverless_session import SharedState
from tests.chaos import Chaos, Fault
from tests.servers import Server
from tests.sessions.apps import SECRET, app_over
from tests.wire import TripCounter

KEYS = [f"k{number}" for number in range(64)]

PATIENCE = 30.0
"""Seconds that a store, or a turn in the queue of savers, may take on a busy machine."""


async def save_at_once(url: str, all_have_loaded: Callable[[], None], all_have_saved: Callable[[], None]) -> None:
    """64 requests that have all loaded the session before the first of them saves it, each with a key of its own.

    They load it one after the other: 64 new connections at once do not all come about on a busy machine.
    """
    shared = SharedState(url, secret_key=SECRET, timeout=PATIENCE)
    arrivals: asyncio.Queue[str] = asyncio.Queue()
    go_on = asyncio.Event()

    async def put(request: Request) -> Response:
        arrivals.put_nowait(request.path_params["key"])
        await go_on.wait()
        request.session[request.path_params["key"]] = 1
        return JSONResponse({})

    transport = httpx2.ASGITransport(app_over(shared, Route("/put/{key}", put, methods=["POST"])))
    async with httpx2.AsyncClient(transport=transport, base_url="https://shop.example") as client:
        await client.post("/update", json={"user": "ann"})
        async with asyncio.timeout(2 * PATIENCE), asyncio.TaskGroup() as crowd:
            requests = []
            for key in KEYS:
                requests.append(crowd.create_task(client.post(f"/put/{key}")))
                assert await arrivals.get() == key
            all_have_loaded()
            go_on.set()
        all_have_saved()
        assert {request.result().status_code for request in requests} == {200}
        assert (await client.get("/view")).json() == {"user": "ann"} | dict.fromkeys(KEYS, 1)
    await shared.aclose()


@pytest.mark.parametrize("name", ["valkey", "memcached"])
async def test_a_save_that_is_sent_again_counts_once(name: str, request: pytest.FixtureRequest) -> None:
    """The write was done and its answer lost: sent again it is the same write, no second item in the cart."""
    with Chaos(request.getfixturevalue(name), script=[Fault.HONEST, Fault.HONEST, Fault.ANSWER_LOST]) as wire:
        shared = SharedState(wire.url, secret_key=SECRET)
        transport = httpx2.ASGITransport(app_over(shared))
        async with httpx2.AsyncClient(transport=transport, base_url="https://shop.example") as client:
            await client.post("/update", json={"cart": []})
            assert (await client.post("/append", json="apple")).status_code == 200
            assert wire.injected[Fault.ANSWER_LOST] == 1
            assert (await client.get("/view")).json() == {"cart": ["apple"]}
        await shared.aclose()


@pytest.mark.parametrize("server", ["memory", "valkey", "redis7", "redis62"])
async def test_64_at_once_each_with_a_key_of_its_own(server: str, request: pytest.FixtureRequest) -> None:
    url = "memory://" if server == "memory" else request.getfixturevalue(server).url
    await save_at_once(url, lambda: None, lambda: None)


async def test_64_saves_at_once_need_about_one_trip_each(valkey: Server) -> None:
    """Without the queue of savers each would be refused by every one that came before it."""
    trips: list[int] = []
    async with TripCounter.to(valkey.port) as wire:
        await save_at_once(wire.url, wire.reset, lambda: trips.append(wire.trips))
    assert len(KEYS) <= trips[0] <= 80
