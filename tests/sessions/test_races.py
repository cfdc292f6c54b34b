"""Many requests of one session at once, over real servers: nobody's change is lost."""

import asyncio

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serverless_session import SharedState
from tests.sessions.apps import SECRET, app_over

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
