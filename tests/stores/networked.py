"""What tests of every networked store share: the stores to test, calls that must end in their time, and errors."""

import contextlib
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from serverless_session.deadline import may_block, within
from serverless_session.errors import ServerlessSessionError
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Delete,
    Failed,
    MemcachedStore,
    Operation,
    Outcome,
    Read,
    RedisStore,
    Store,
    new_version,
)
from serverless_session.testing.operations import new_key, write
from tests import servers
from tests.servers import Server
from tests.stores.faults import Behaviour, FaultyWire, Link

LIMIT = 0.5
SLACK = 0.25
"""What a busy machine may add to a deadline."""


@dataclass(frozen=True, slots=True)
class Networked:
    """A kind of store. `inline`: it blocks the loop of whoever makes it."""

    name: str
    scheme: str
    inline: bool = False

    @property
    def is_memcached(self) -> bool:
        return self.scheme == "memcached"

    def store(self, url: str) -> Store:
        """A store at `url`, whatever scheme that names; from here on, calls of this task block where this kind does."""
        may_block.set(self.inline)
        address = url.partition("://")[2]
        return MemcachedStore(f"memcached://{address}") if self.is_memcached else RedisStore(f"redis://{address}")

    def start(self, *options: str, port: int | None = None) -> AbstractContextManager[Server]:
        """A server of its own."""
        return servers.memcached(*options, port=port) if self.is_memcached else servers.valkey(*options, port=port)

    @contextlib.asynccontextmanager
    async def to(self, server: Server) -> AsyncIterator[Store]:
        """A store that nothing disturbs."""
        store = self.store(server.url)
        try:
            yield store
        finally:
            await store.aclose()

    @contextlib.asynccontextmanager
    async def behind(
        self, server: Server, *behaviours: Behaviour, then: Behaviour = Link.honest
    ) -> AsyncIterator[tuple[Store, FaultyWire]]:
        """A store behind a faulty wire."""
        async with (
            FaultyWire(server.port, *behaviours, then=then, scheme=self.scheme) as wire,
            self.to_wire(wire) as it,
        ):
            yield it, wire

    @contextlib.asynccontextmanager
    async def to_wire(self, wire: FaultyWire) -> AsyncIterator[Store]:
        store = self.store(wire.url)
        try:
            yield store
        finally:
            await store.aclose()


VALKEY = Networked("valkey", "redis")
MEMCACHED = Networked("memcached", "memcached")
MEMCACHED_INLINE = Networked("memcached inline", "memcached", inline=True)

NETWORKED = (VALKEY, MEMCACHED, MEMCACHED_INLINE)


async def timed(store: Store, *operations: Operation, limit: float = LIMIT) -> Sequence[Outcome]:
    """The outcomes of a call, which must end in its time."""
    begun = time.monotonic()
    with within(limit):
        outcomes = await store.perform(*operations)
    took = time.monotonic() - begun
    assert took < max(limit, 0) + SLACK, f"{took:.2f} s"
    return outcomes


def error_of(outcome: Outcome) -> ServerlessSessionError:
    assert isinstance(outcome, Failed), outcome
    return outcome.error


def kinds(outcomes: Sequence[Outcome]) -> list[type]:
    return [type(error_of(outcome)) for outcome in outcomes]


def every_kind(key: str = "") -> list[Operation]:
    """An operation of every kind, on five keys."""
    key = key or new_key()
    return [
        Read(key + "r"),
        write(key + "w", expect=ABSENT),
        Delete(key + "d", expect=new_version()),
        write(key + "W", expect=ANYTHING),
        Delete(key + "D", expect=ANYTHING),
    ]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
