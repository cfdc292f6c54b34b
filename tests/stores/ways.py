"""The stores over a network, each in the ways it can be used; and what a process holds open.

`memcached inline` blocks the loop: `Way.store` sets `may_block` in the running context.
"""

import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from serverless_session.deadline import may_block
from serverless_session.stores import MemcachedStore, RedisStore
from tests import servers
from tests.servers import LOOPBACK, Server

WAYS = ["valkey", "memcached", "memcached inline"]
IN_THEIR_OWN_TIME = ["valkey", "memcached"]
"""Those that do not block the loop."""

NetworkedStore = RedisStore | MemcachedStore


@dataclass(frozen=True, slots=True)
class Way:
    """A kind of server, a store for it, and how it is used."""

    name: str

    @property
    def inline(self) -> bool:
        return self.name.endswith(" inline")

    @property
    def scheme(self) -> str:
        return "redis" if self.name == "valkey" else "memcached"

    def server(self, request: pytest.FixtureRequest) -> Server:
        """The one that tests share."""
        server: Server = request.getfixturevalue(self.name.partition(" ")[0])
        return server

    def own_server(self) -> contextlib.AbstractContextManager[Server]:
        return servers.valkey() if self.name == "valkey" else servers.memcached()

    def store(self, port: int, most: int = 8) -> NetworkedStore:
        """A store at this port, in the running context."""
        may_block.set(self.inline)
        kind: Callable[..., NetworkedStore] = RedisStore if self.name == "valkey" else MemcachedStore
        return kind(f"{self.scheme}://{LOOPBACK}:{port}", max_connections=most)


def open_sockets() -> int:
    count = 0
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{entry}").startswith("socket:")
    return count


def threads() -> int:
    """The kernel's, which count those that Python knows nothing of, too."""
    return len(os.listdir("/proc/self/task"))


def store_threads() -> int:
    return sum(thread.name.startswith("memcached") for thread in threading.enumerate())


def comes_back_to(before: tuple[int, int], *, collected: bool = False) -> bool:
    """Do sockets and threads come back to what they were (`held_open`)? A thread takes a moment to end."""
    give_up_at = time.monotonic() + 2.0
    while True:
        if collected:
            gc.collect()
        sockets, running = held_open()
        if sockets <= before[0] and running <= before[1]:
            return True
        if time.monotonic() > give_up_at:
            print("before", before, "now", (sockets, running), [thread.name for thread in threading.enumerate()])
            return False
        time.sleep(0.005)


def held_open() -> tuple[int, int]:
    """Sockets and threads of this process."""
    return open_sockets(), threads()
