"""What carries commands to Redis: redis-py's asyncio connections, a bounded pool of them for each event loop.

This module knows nothing of what commands mean. A `Burst` is written in one piece and its answers are read in order;
what was answered before a link broke stays in the burst, so that the store can tell what is settled from what is not.
redis-py's own client, pool and pipeline are left out on purpose: they retry without a deadline, fail at the 101st
concurrent call, and throw away answers already read when the link breaks. Its `Connection` is used as it comes, with
`protocol=2` and `driver_info=None`: the first answer of a new connection takes 1 exchange instead of 5.

A connection that broke, ran out of time or was cancelled is never used again. One that rested for `REST_SECONDS` is
reopened rather than trusted: balancers drop idle flows without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Final

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    RedisError,
    ResponseError,
)

Command = tuple[bytes | str | int, ...]

CONNECT_SECONDS: Final = 0.3
REST_SECONDS: Final = 30.0

_REFUSALS = (AuthenticationError, AuthorizationError, BusyLoadingError)


@dataclass(slots=True, repr=False)
class Burst:
    """Commands that travel together.

    `answers`: what was answered so far, in the order of the commands, a server's refusal as its exception.
    `sent`: whether any of it may have reached the server.
    """

    commands: Sequence[Command]
    answers: list[object] = field(default_factory=list)
    sent: bool = False


class LinkBroken(Exception):
    """The burst was not answered to its end. `timed_out`: time ran out; `refused`: by the server, unexecuted."""

    def __init__(self, what: str, *, timed_out: bool = False, refused: bool = False) -> None:
        super().__init__(what)
        self.timed_out = timed_out
        self.refused = refused


class Links:
    """At most `most` connections to one server, on one event loop. Callers wait for a free one inside their time."""

    def __init__(self, factory: ConnectionPool, most: int) -> None:
        self._factory = factory
        self._idle: list[tuple[AbstractConnection, float]] = []
        self._slots = asyncio.Semaphore(most)
        self._open = True
        self._until_end: AsyncGenerator[None, None] | None = None

    async def carry(self, burst: Burst, ends: float, *, again: bool = False) -> None:
        """Send the burst and read its answers into it before `ends` (monotonic); `again`: on a new connection.

        The first copy gets half of the time that is left once a connection is free, so that a second can settle it.
        """
        if self._until_end is None:
            self._until_end = self._until_the_loop_ends()
            await anext(self._until_end)
        try:
            async with asyncio.timeout_at(ends) as limit, self._slots:
                if not again:
                    now = asyncio.get_running_loop().time()
                    limit.reschedule(now + (ends - now) / 2)
                await self._exchange(burst, self._new() if again else await self._rested_or_new())
        except TimeoutError:
            raise LinkBroken("did not answer", timed_out=True) from None

    async def _exchange(self, burst: Burst, link: AbstractConnection) -> None:
        try:
            await link.connect()
            packed = link.pack_commands(burst.commands)
            burst.sent = True
            await link.send_packed_command(packed, check_health=False)
            for _ in burst.commands:
                try:
                    burst.answers.append(await link.read_response(disable_decoding=True))
                except ResponseError as refusal:
                    burst.answers.append(refusal)
        # AttributeError: redis-py 8.1 on a reset, Python 3.12.1; ValueError: from its parser, at what is no Redis
        except (RedisError, OSError, AttributeError, ValueError, RecursionError) as error:
            await _drop(link)
            await self.rest()
            if isinstance(error, _REFUSALS):
                raise LinkBroken(f"refused the connection ({type(error).__name__})", refused=True) from None
            raise LinkBroken("broke the connection" if burst.sent else "could not be connected") from None
        except BaseException:
            await _drop(link)
            raise
        if self._open:
            self._idle.append((link, time.time()))
        else:  # closed while this burst was on its way
            await _drop(link)

    async def _rested_or_new(self) -> AbstractConnection:
        while self._idle:
            link, since = self._idle.pop()
            if 0 <= time.time() - since < REST_SECONDS and link.is_connected and not await link.can_read():
                return link
            await _drop(link)
        return self._new()

    def _new(self) -> AbstractConnection:
        link = self._factory.make_connection()
        assert isinstance(link, AbstractConnection)
        return link

    async def rest(self) -> None:
        """Close every connection that is not in use."""
        while self._idle:
            await _drop(self._idle.pop()[0])

    async def aclose(self) -> None:
        """Close every connection, those in use when their burst is answered."""
        self._open = False
        await self.rest()
        if self._until_end is not None:
            await self._until_end.aclose()

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        """Suspended while the loop runs: asyncio closes asynchronous generators before it closes a loop.

        So nobody has to close a store for each `asyncio.run`. After the loop is closed nothing could be awaited there.
        """
        try:
            yield
        finally:
            self._open = False
            await self.rest()


async def _drop(link: AbstractConnection) -> None:
    with contextlib.suppress(RedisError, OSError, AttributeError):
        await link.disconnect(nowait=True)


class LinksByLoop:
    """One `Links` for each running loop; those of ended loops, and of the process that forked us, are let go."""

    def __init__(self, factory: ConnectionPool, most: int) -> None:
        self._factory = factory
        self._most = most
        self._pid = os.getpid()
        self._by_loop: dict[asyncio.AbstractEventLoop, Links] = {}
        self._inherited: list[object] = []

    def here(self) -> Links:
        """The links of the running loop."""
        loop = asyncio.get_running_loop()
        if self._pid != os.getpid():
            # Kept, so that the collector never closes them: our parent's loop shares their epoll and would go deaf.
            self._inherited.append(self._by_loop)
            self._pid, self._by_loop = os.getpid(), {}
        links = self._by_loop.get(loop)
        if links is None:
            for ended in [known for known in list(self._by_loop) if known.is_closed()]:
                self._by_loop.pop(ended, None)
            links = self._by_loop[loop] = Links(self._factory, self._most)
        return links

    async def aclose(self) -> None:
        """Close the running loop's links."""
        links = self._by_loop.pop(asyncio.get_running_loop(), None)
        if links is not None:
            await links.aclose()
