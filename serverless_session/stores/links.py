"""Connections to one server: a bounded pool of them for each event loop. What they speak is not known here.

A connection that broke, ran out of time or was cancelled is never used again, and is closed with a reset: what the
kernel has not delivered yet must not arrive after the call was given up. One that rested for `REST_SECONDS` of wall
time is reopened rather than trusted: balancers drop idle flows without a word, and a frozen sandbox does not hear what
happened meanwhile. After one broke or ran out of time the idle ones are let go too: most often the whole server, or the
way to it, went away.

Connections belong to the running loop. Those of an ended loop are closed with it, those of the process that forked us
are left alone. Callers wait for a free connection inside their own deadline.
"""

from __future__ import annotations

import asyncio
import os
import select
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

from serverless_session.snapshot import remember_to_forget
from serverless_session.stores.settling import LinkBroken

CONNECT_SECONDS: Final = 0.3
REST_SECONDS: Final = 30.0

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""For `SO_LINGER`."""


class Link(Protocol):
    """One connection. `life`: tells this connection from any other, for what a server says to one connection only."""

    life: object

    async def is_quiet(self) -> bool:
        """Is it open, and has the server said nothing since its last answer?"""
        ...

    async def drop(self) -> None:
        """Close it at once, whatever it is doing. Never raises."""
        ...


LinkT = TypeVar("LinkT", bound=Link)


def has_something_to_read(descriptor: int) -> bool:
    """Is there something to read from a socket, or has it ended? Asks the system, for the loop may not know yet."""
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def not_connected(error: BaseException) -> LinkBroken:
    """No connection came about: the kind of the cause (`gaierror`, `SSLCertVerificationError`) says where to look."""
    cause = error.__cause__ or error.__context__ or error
    return LinkBroken(f"could not be connected ({type(cause).__name__})")


class Links(Generic[LinkT]):
    """At most `most` connections to one server, on one event loop.

    `new` makes one, which connects when it is first used. `close` ends what else was made for that loop: once it is
    closed, and the last call that began before is answered.
    """

    def __init__(self, new: Callable[[], LinkT], most: int, close: Callable[[], None] = lambda: None) -> None:
        self._new = new
        self._close = close
        self._idle: list[tuple[LinkT, float]] = []
        self._slots = asyncio.Semaphore(most)
        self._open = True
        self._calls = 0
        self._until_end: AsyncGenerator[None, None] | None = None

    async def carry(
        self, talk: Callable[[LinkT, float], Awaitable[None]], ends: float, *, again: bool = False, life: object = None
    ) -> None:
        """`talk(link, ends)` over a free connection before `ends` (the loop's clock); `again`: over a new one.

        The first copy gets half of the time that is left once a connection is free, so that a second can settle it.
        `life`: the connection to take if it is free. Raises `LinkBroken` if `talk` does, or did not end in time.
        """
        if self._until_end is None:
            self._until_end = self._until_the_loop_ends()
            await anext(self._until_end)
        self._calls += 1
        try:
            is_free = not self._slots.locked()
            if is_free and not again:
                ends = _half_way_to(ends)
            async with asyncio.timeout_at(ends) as limit, self._slots:
                if not is_free and not again:
                    ends = _half_way_to(ends)
                    limit.reschedule(ends)
                if again and self._idle:  # it takes the place of one, or there would be one more each time
                    await self._idle.pop(0)[0].drop()
                link = self._new() if again else await self._rested_or_new(life)
                try:
                    await talk(link, ends)
                except BaseException as error:
                    await link.drop()
                    if isinstance(error, LinkBroken):
                        await self.rest()
                    raise
            if self._open:
                self._idle.append((link, time.time()))
            else:  # closed while this was on its way
                await link.drop()
        except TimeoutError:
            await self.rest()
            raise LinkBroken("did not answer", timed_out=True) from None
        finally:
            self._calls -= 1
            self._close_if_done()

    async def _rested_or_new(self, life: object) -> LinkT:
        if life is not None:
            self._idle.sort(key=lambda idle: idle[0].life is life)  # stable, so the others keep their order
        while self._idle:
            link, since = self._idle.pop()
            if 0 <= time.time() - since < REST_SECONDS and await link.is_quiet():
                return link
            await link.drop()
        return self._new()

    async def rest(self) -> None:
        """Close every connection that is not in use."""
        while self._idle:
            await self._idle.pop()[0].drop()

    async def aclose(self) -> None:
        """Close every connection, those in use when they have been answered."""
        self._open = False
        await self.rest()
        if self._until_end is not None:
            await self._until_end.aclose()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if not self._open and not self._calls:
            self._close()

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        """Suspended while the loop runs: asyncio closes asynchronous generators before it closes a loop.

        So nobody has to close a store for each `asyncio.run`. After the loop is closed nothing could be awaited there.
        """
        try:
            yield
        finally:
            if self._open:  # the loop itself ends: who still waits for an answer will never go on
                self._open = False
                await self.rest()
                self._close()


def _half_way_to(ends: float) -> float:
    now = asyncio.get_running_loop().time()
    return now + (ends - now) / 2


class LinksByLoop(Generic[LinkT]):
    """One `Links` for each running loop; those of ended loops, and of the process that forked us, are let go."""

    def __init__(self, make: Callable[[], Links[LinkT]]) -> None:
        self._make = make
        self._pid = os.getpid()
        self._by_loop: dict[asyncio.AbstractEventLoop, Links[LinkT]] = {}
        self._inherited: list[object] = []
        remember_to_forget(self)

    def here(self) -> Links[LinkT]:
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
            links = self._by_loop[loop] = self._make()
        return links

    async def forget(self) -> None:
        """Close the running loop's connections; they open anew."""
        links = self._by_loop.get(asyncio.get_running_loop())
        if links is not None:
            await links.rest()

    async def aclose(self) -> None:
        """Close the running loop's links."""
        links = self._by_loop.pop(asyncio.get_running_loop(), None)
        if links is not None:
            await links.aclose()
