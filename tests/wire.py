"""Trips, counted where they happen: a proxy on loopback between a client and a server.

A *trip* is one wait for the network: a burst of bytes from the client, then an answer. A new one begins with the first
byte that a client sends after it was handed an answer; the first byte on a connection begins the first.

TCP may split a burst, and a client may send it in several pieces, so that the server answers the first piece before the
proxy has seen the last. Whether the client waited is then a question of who saw what first. The proxy decides it by
holding an answer back until the client has been silent for a moment (`quiet`, 1 ms): what the client sent by then, it
sent without that answer, so it belongs to the same burst. A client that does wait is therefore never counted too low;
one that pauses inside a burst for longer than `quiet` is counted too high. The price is up to `quiet` more a trip.
A burst larger than a socket's buffer is sent as the proxy reads it, so the machine must give the client its turn again
and again: there the silence must be longer (on a machine with too little to go round, 1 ms counted 6 of 25 too high).

    with TripCounter.to(server.port) as wire:       # in a thread and a loop of its own
        client = connect(wire.url)
        ...
        assert wire.trips == 1

`async with` runs it inside the loop of the test instead. Connections are counted beside trips: opening one costs a
client one more wait, which no byte shows.
"""

import asyncio
import select
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from tests.proxy import LOOPBACK, Proxy

BUFFER_BYTES = 65_536
QUIET_OF_A_LARGE_BURST = 0.05


@dataclass(slots=True)
class Traffic:
    """What went over the wire; the bytes are those of the client (`sent`) and of the server (`received`)."""

    trips: int = 0
    connections: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


class TripCounter:
    """A proxy to a port on this machine that counts trips, connections and bytes."""

    def __init__(self, port: int, *, scheme: str = "redis", quiet: float = 0.001) -> None:
        self._proxy = Proxy(port, self._link)
        self._scheme = scheme
        self._quiet = quiet
        self._total = Traffic()
        self.reset()

    @classmethod
    def to(cls, port: int, *, scheme: str = "redis", quiet: float = 0.001) -> Self:
        """Make a proxy to `port`. Its URL has this `scheme`; `quiet` is the silence in seconds that ends a burst."""
        return cls(port, scheme=scheme, quiet=quiet)

    @property
    def port(self) -> int:
        return self._proxy.port

    @property
    def url(self) -> str:
        return f"{self._scheme}://{LOOPBACK}:{self.port}"

    @property
    def trips(self) -> int:
        """Trips since the start or the last `reset()`, those of all connections added up."""
        return self._total.trips - self._before.trips

    @property
    def connections(self) -> int:
        return self._total.connections - self._before.connections

    @property
    def sent_bytes(self) -> int:
        return self._total.sent_bytes - self._before.sent_bytes

    @property
    def received_bytes(self) -> int:
        return self._total.received_bytes - self._before.received_bytes

    def reset(self) -> None:
        """Count from here on; connections that are open stay so. What is on its way counts where it began."""
        # The loop's thread alone writes the totals, so that any other may read and reset without a lock.
        self._before = replace(self._total)

    def cut(self) -> None:
        """Drop all connections, as a balancer does; new ones are let in. Where `with` runs the proxy."""
        self._proxy.cut()

    async def __aenter__(self) -> Self:
        await self._proxy.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._proxy.__aexit__(kind, error, trace)

    def __enter__(self) -> Self:
        self._proxy.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._proxy.__exit__(kind, error, trace)

    def _link(self) -> "_Link":
        self._total.connections += 1
        return _Link(self._total, self._quiet)


class _Link:
    """One connection's share of the traffic. Answers are held back while the client may still be speaking."""

    def __init__(self, total: Traffic, quiet: float) -> None:
        self._total = total
        self._quiet = quiet
        self._loop = asyncio.get_running_loop()
        self._answered = True
        self._burst_bytes = 0
        self._heard_at = 0.0
        self._held = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._client: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None

    def server_joined(self, server: asyncio.Transport) -> None:
        self._server = server

    def client_joined(self, client: asyncio.Transport) -> None:
        self._client = client
        self._unread = select.poll()
        self._unread.register(client.get_extra_info("socket").fileno(), select.POLLIN)
        self._forward()

    def client_spoke(self, data: bytes) -> None:
        if self._answered:
            self._answered = False
            self._burst_bytes = 0
            self._total.trips += 1
        self._burst_bytes += len(data)
        self._total.sent_bytes += len(data)
        self._heard_at = self._loop.time()
        if self._server is not None:
            self._server.write(data)

    def server_spoke(self, data: bytes) -> None:
        self._held += data
        if self._answered:
            self._forward()
        elif self._timer is None:
            self._forward_if_quiet()

    def _forward_if_quiet(self) -> None:
        self._timer = None
        quiet = self._quiet if self._burst_bytes < BUFFER_BYTES else max(self._quiet, QUIET_OF_A_LARGE_BURST)
        # The loop may not have been told yet what has come meanwhile: the socket is asked, too.
        if self._loop.time() - self._heard_at < quiet or self._unread.poll(0):
            self._timer = self._loop.call_later(self._quiet, self._forward_if_quiet)
        else:
            self._forward()

    def _forward(self) -> None:
        if self._client is not None and self._held:
            self._answered = True
            self._total.received_bytes += len(self._held)
            self._client.write(bytes(self._held))
            self._held.clear()

    def client_left(self) -> None:
        self._close()

    def server_left(self) -> None:
        self._close()

    def _close(self) -> None:
        """One side is gone: hand on what there is, and close the other."""
        self._forward()
        self._end_timer()
        for transport in (self._client, self._server):
            if transport is not None:
                transport.close()

    def abort(self) -> None:
        self._end_timer()
        for transport in (self._client, self._server):
            if transport is not None:
                transport.abort()

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
