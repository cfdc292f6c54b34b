"""The shop as the Lambda Web Adapter serves it: by an ordinary server in the sandbox, which knows nothing of Lambda."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
import pytest

from tests.aws.sandboxes import LIMIT, over
from tests.servers import LOOPBACK, Server, dies_with_us

LONG = 600.0

SERVERS: dict[str, Callable[[int], list[str]]] = {
    "uvicorn": lambda port: ["-m", "uvicorn", "tests.aws.shop:app", "--port", str(port)],
    "granian": lambda port: ["-m", "granian", "--interface", "asgi", "--port", str(port), "tests.aws.shop:app"],
}


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def serving(name: str, store: Server, **variables: str) -> Iterator[httpx2.Client]:
    """A browser of the shop, as `name` serves it in a process of its own."""
    port = _free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SERVERLESS_SESSION_")}
    environment |= over(store.url) | {"SERVERLESS_SESSION_TIMEOUT": str(LONG)} | variables
    command = [*dies_with_us(), sys.executable, *SERVERS[name](port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        try:
            _wait_until_up(port, server)
            with httpx2.Client(base_url=f"http://{LOOPBACK}:{port}", timeout=LIMIT) as client:
                yield client
        finally:
            server.terminate()


def _wait_until_up(port: int, server: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + LIMIT
    while time.monotonic() < give_up_at and server.poll() is None:
        try:
            socket.create_connection((LOOPBACK, port), timeout=1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    assert server.stderr is not None
    server.kill()
    raise AssertionError(server.stderr.read().decode())


def context(seconds: float) -> dict[str, str]:
    """The header that the adapter adds, with so much time left."""
    deadline = int((time.time() + seconds) * 1000)
    return {"x-amzn-lambda-context": json.dumps({"request_id": "1", "deadline": deadline})}


@pytest.mark.parametrize("name", SERVERS)
def test_a_session_behind_an_ordinary_server_on_lambda(name: str, valkey: Server) -> None:
    with serving(name, valkey, AWS_LAMBDA_FUNCTION_NAME="shop") as client:
        assert client.post("/login", json="ann", headers=context(3)).json() == {"user": "ann"}
        for number in range(1, 4):
            assert client.post("/count", headers=context(3)).json() == {"user": "ann", "count": number}
        assert client.post("/thread", headers=context(3)).json()["in a thread"] == 1
        assert 0 < client.get("/left", headers=context(3)).json() <= 2.7
        assert client.get("/left").json() == LONG
        assert client.post("/logout", headers=context(3)).json() == {}
        assert client.cookies.get("session") is None


@pytest.mark.parametrize("name", SERVERS)
def test_anywhere_else_the_header_is_a_clients(name: str, valkey: Server) -> None:
    with serving(name, valkey) as client:
        assert client.get("/left", headers=context(3)).json() == LONG
