"""Many requests of one session at once, over real servers: nobody's change is lost."""

import asyncio

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


@pytest.mark.parametrize("server", ["memory", "valkey", "redis7", "redis62"])
async def test_64_at_once_each_with_a_key_of_its_own(server: str, request: pytest.FixtureRequest) -> None:
    url = "memory://" if server == "memory" else request.getfixturevalue(server).url
    shared = SharedState(url, secret_key=SECRET)
    everybody = asyncio.Barrier(len(KEYS))

    async def put(request: Request) -> Response:
        await everybody.wait()  # all have loaded the session before the first of them saves it
        request.session[request.path_params["key"]] = 1
        return JSONResponse({})

    transport = httpx2.ASGITransport(app_over(shared, Route("/put/{key}", put, methods=["POST"])))
    async with httpx2.AsyncClient(transport=transport, base_url="https://shop.example") as client:
        await client.post("/update", json={"user": "ann"})
        answers = await asyncio.gather(*(client.post(f"/put/{key}") for key in KEYS))
        assert {answer.status_code for answer in answers} == {200}
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


async def test_64_saves_at_once_need_about_one_trip_each(valkey: Server) -> None:
    """Without the queue of savers each would be refused by every one that came before it."""
    everybody, arrived = asyncio.Barrier(len(KEYS)), 0

    async with TripCounter.to(valkey.port) as wire:
        shared = SharedState(wire.url, secret_key=SECRET, timeout=30)  # patience too: a busy machine costs no trips

        async def put(request: Request) -> Response:
            nonlocal arrived
            arrived += 1
            if arrived == len(KEYS):
                wire.reset()
            await everybody.wait()
            request.session[request.path_params["key"]] = 1
            return JSONResponse({})

        transport = httpx2.ASGITransport(app_over(shared, Route("/put/{key}", put, methods=["POST"])))
        async with httpx2.AsyncClient(transport=transport, base_url="https://shop.example") as client:
            await client.post("/update", json={"user": "ann"})
            answers = await asyncio.gather(*(client.post(f"/put/{key}") for key in KEYS))
            trips = wire.trips
            assert {answer.status_code for answer in answers} == {200}
            assert (await client.get("/view")).json() == {"user": "ann"} | dict.fromkeys(KEYS, 1)
        await shared.aclose()
    assert len(KEYS) <= trips <= 80
