"""A wire that fails as it is told: connections, one after the other, each behave in a way of their own.

    async with FaultyWire(valkey.port, answer_lost) as wire:    # the first loses its answer, all others are honest
        store = RedisStore(wire.url)
        ...
        assert wire.connections == 2

A behaviour is an async function of a `Link`; when it returns, the client's connection is closed. The wire has a thread
and a loop of its own, so that a store which blocks the test's loop can be tested too. Small requests and answers only.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

LOOPBACK = "127.0.0.1"

T = TypeVar("T")


class Link:
    """A client's connection, seen from the wire."""

    def __init__(self, port: int, scheme: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._port = port
        self._one_answer = _ONE_ANSWER[scheme]
        self._reader, self._writer = reader, writer

    async def request(self) -> bytes:
        """What the client sends next, a burst."""
        return await self._reader.read(65_536)

    async def ask(self, request: bytes, *, answers: int = 1) -> bytes:
        """Let the server carry the request out, over a connection that nobody disturbs; its answer."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self._port)
        try:
            writer.write(request)
            answer = b"".join([await self._one_answer(reader) for _ in range(answers)])
        finally:
            writer.close()
            await writer.wait_closed()
        return answer

    def answer(self, answer: bytes) -> None:
        self._writer.write(answer)

    async def first_of(self, answers: bytes, count: int) -> bytes:
        """The first `count` of several answers."""
        reader = asyncio.StreamReader()
        reader.feed_data(answers)
        return b"".join([await self._one_answer(reader) for _ in range(count)])

    def is_over(self) -> bool:
        """Has the client gone?"""
        return self._writer.is_closing() or self._reader.at_eof() or self._reader.exception() is not None

    def reset(self) -> None:
        """End the connection as a crash does, not as a farewell."""
        self._writer.transport.abort()

    async def honest(self) -> None:
        """Hand everything on, both ways, until one side ends."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self._port)
        there = asyncio.ensure_future(_hand_on(self._reader, writer))
        back = asyncio.ensure_future(_hand_on(reader, self._writer))
        try:
            await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
        finally:
            there.cancel()
            back.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


Behaviour = Callable[[Link], Awaitable[None]]


async def _one_answer_of_redis(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readline()
    if line[:1] == b"$" and line != b"$-1\r\n":
        line += await reader.readexactly(int(line[1:]) + 2)
    return line


async def _one_answer_of_memcached(reader: asyncio.StreamReader) -> bytes:
    answer = line = await reader.readline()
    while line.startswith(b"VALUE "):
        answer += await reader.readexactly(int(line.split()[3]) + 2)
        line = await reader.readline()
        answer += line
    return answer


_ONE_ANSWER = {"redis": _one_answer_of_redis, "memcached": _one_answer_of_memcached}


async def _hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()


class FaultyWire:
    """A proxy to `port`: the first connections behave as given, in order, the others as `then` says.

    `listen`: the port it had before. `scheme`: what is spoken, "redis" or "memcached".
    """

    def __init__(
        self, port: int, *behaviours: Behaviour, then: Behaviour = Link.honest, listen: int = 0, scheme: str = "redis"
    ) -> None:
        self._server_port = port
        self._behaviours = list(behaviours)
        self._then = then
        self._listen = listen
        self._scheme = scheme
        self._tasks = set[asyncio.Task[None]]()
        self.connections = 0

    @property
    def port(self) -> int:
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"{self._scheme}://{LOOPBACK}:{self.port}"

    def heal(self) -> None:
        """From here on, new connections are honest."""
        self._behaviours, self._then = [], Link.honest

    async def __aenter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty wire", daemon=True)
        self._thread.start()
        self._listener = self._run(asyncio.start_server(self._serve, LOOPBACK, self._listen))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._end())
        self._run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    async def _end(self) -> None:
        for _ in range(10):  # so that what was accepted in the last moment is served, and can be ended
            await asyncio.sleep(0)
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        behave = self._behaviours.pop(0) if self._behaviours else self._then
        try:
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await behave(Link(self._server_port, self._scheme, reader, writer))
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


# --- behaviours -------------------------------------------------------------------------------------------------------


async def silent(link: Link) -> None:
    """Accepts, and never answers."""
    await link.request()
    await asyncio.Event().wait()


async def hangs_up(link: Link) -> None:
    """Ends after the request came, without having carried it out."""
    await link.request()


async def resets(link: Link) -> None:
    await link.request()
    link.reset()


async def answer_lost(link: Link) -> None:
    """Carries the request out, and ends before the answer."""
    await link.ask(await link.request())


async def answer_never_comes(link: Link) -> None:
    """Carries the request out, and keeps the answer to itself."""
    await link.ask(await link.request())
    await asyncio.Event().wait()


async def half_an_answer(link: Link) -> None:
    """Carries the request out, and ends in the middle of the answer."""
    answer = await link.ask(await link.request())
    link.answer(answer[: len(answer) // 2])


async def trickles(link: Link) -> None:
    """Answers everything, a byte each 20 ms."""
    while request := await link.request():
        for byte in await link.ask(request):
            if link.is_over():
                return
            link.answer(bytes((byte,)))
            await asyncio.sleep(0.02)


def after(count: int, fault: Behaviour) -> Behaviour:
    """Answers so many requests as it should, one by one, before it goes wrong."""

    async def behave(link: Link) -> None:
        for _ in range(count):
            request = await link.request()
            if not request:
                return
            link.answer(await link.ask(request))
        await fault(link)

    return behave


def answers_only(count: int, *, of: int) -> Behaviour:
    """Carries a burst out, hands on the first answers, and ends."""

    async def behave(link: Link) -> None:
        request = await link.request()
        link.answer(await link.first_of(await link.ask(request, answers=of), count))

    return behave


def says(answer: bytes) -> Behaviour:
    """Answers every request with these bytes."""

    async def behave(link: Link) -> None:
        while await link.request():
            link.answer(answer)

    return behave
