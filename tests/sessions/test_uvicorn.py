"""Behind a real server, in a process of its own."""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests import servers
from tests.sessions.apps import SECRET

APP = textwrap.dedent(
    """
    from starlette.applications import Starlette
    from serverless_session import SessionMiddleware
    from tests.sessions.apps import ROUTES

    app = Starlette(routes=ROUTES)
    app.add_middleware(SessionMiddleware)
    """
)


@contextmanager
def uvicorn(folder: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    (folder / "shop.py").write_text(APP)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SERVERLESS_SESSION_")}
    environment |= variables | {"PYTHONPATH": os.pathsep.join((str(folder), str(Path.cwd())))}
    command = [sys.executable, "-m", "uvicorn", "shop:app", "--port", "0"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            yield server
        finally:
            server.terminate()


def url_of(server: subprocess.Popen[str]) -> str:
    assert server.stderr is not None
    for line in server.stderr:
        if "running on http://" in line:
            return "http://" + line.partition("http://")[2].split()[0]
    raise AssertionError("it did not start")


def test_a_wrong_setting_is_printed_and_the_server_does_not_start(tmp_path: Path) -> None:
    with uvicorn(
        tmp_path, SERVERLESS_SESSION_STORE="redis://localhost", SERVERLESS_SESSION_SECRET_KEY="short"
    ) as server:
        _, printed = server.communicate(timeout=20)
    assert server.returncode == 3
    for line in (
        "[weak-secret]",
        "looked at: SERVERLESS_SESSION_SECRET_KEY",
        "write:     SERVERLESS_SESSION_SECRET_KEY=",
    ):
        assert line in printed
    assert "short" not in printed


def test_two_servers_share_sessions_and_a_dead_store_is_503_until_it_is_back(tmp_path: Path) -> None:
    with servers.valkey() as valkey:
        share_and_pause(tmp_path, valkey)


def share_and_pause(tmp_path: Path, valkey: servers.Server) -> None:
    shared = {"SERVERLESS_SESSION_STORE": valkey.url, "SERVERLESS_SESSION_SECRET_KEY": SECRET}
    with uvicorn(tmp_path, **shared) as one, uvicorn(tmp_path, **shared) as two:
        urls = [url_of(one), url_of(two)]
        cookie = httpx2.post(f"{urls[0]}/update", json={"user": "ann", "cart": []}).cookies["session"]
        for item, url in (("apple", urls[1]), ("bread", urls[0])):
            httpx2.post(f"{url}/append", json=item, headers={"cookie": f"session={cookie}"})
        headers = {"cookie": f"session={cookie}"}
        assert httpx2.get(f"{urls[1]}/view", headers=headers).json()["cart"] == ["apple", "bread"]
        valkey.pause()
        try:
            begun = time.monotonic()
            assert httpx2.get(f"{urls[0]}/view", headers=headers).status_code == 503
            assert time.monotonic() - begun < 2
        finally:
            valkey.resume()
        assert httpx2.get(f"{urls[0]}/view", headers=headers).json()["user"] == "ann"
