"""A wire that fails: a proxy before a real server, for any protocol in which the client asks and the server answers.

One fault is drawn for each *burst* (what a client sends until it is answered), at random with a seed, or from a script:

    with servers.valkey() as server, Chaos(server, seed=7) as chaos:         # at random, by `ODDS`
        store = open_anew(chaos.url)
    ...
    with Chaos(server, script=[Fault.LATE, Fault.RESET]) as chaos:           # in this order, then honest
        ...

It runs in a thread of its own, so that no client under test can hold it up. A server that is paused or whose state
matters should be the test's own. Names and values never pass through here: a burst is bytes.
"""

import asyncio
import random
import socket
import struct
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from types import MappingProxyType, TracebackType
from typing import Self

from tests.proxy import LOOPBACK, Proxy
from tests.servers import Server


class Fault(Enum):
    """What becomes of a burst."""

    HONEST = "honest"
    REFUSED = "refused"
    """It ends in a reset, unread, and for up to `SHUT` seconds nobody else is let in."""
    RESET = "reset"
    """It ends in a reset, unread."""
    SILENT = "silent"
    """Neither it nor what follows on this connection is ever handed on or answered."""
    LATE = "late"
    """It is handed on up to `LATE` seconds later, whether or not the client still waits."""
    ANSWER_LOST = "answer lost"
    """It is handed on, and the client cut off at once."""
    ANSWER_CUT = "answer cut"
    """The client is cut off in the middle of the answer."""
    TRICKLE = "trickle"
    """The answer comes one byte each 1-5 ms."""
    PAUSED = "paused"
    """The server stops for up to `PAUSE` seconds, for everybody, before it reads it."""


ODDS: Mapping[Fault, float] = MappingProxyType(
    {
        Fault.REFUSED: 0.001,
        Fault.RESET: 0.006,
        Fault.SILENT: 0.003,
        Fault.LATE: 0.02,
        Fault.ANSWER_LOST: 0.01,
        Fault.ANSWER_CUT: 0.006,
        Fault.TRICKLE: 0.003,
        Fault.PAUSED: 0.0003,
    }
)

SHUT, LATE, PAUSE = 0.02, 0.5, 0.3
RECENT = 30_000
"""Bursts that are remembered: those of the last 10 s, at full speed."""
_UNREAD = (Fault.REFUSED, Fault.RESET, Fault.SILENT)


class Chaos:
    """A faulty wire to `server`.

    `odds`: of each fault per burst, the rest is honest; or `script`: the faults of the first bursts, in order. `seed`:
    for faults and their lengths. `injected`: what was done so far.
    """

    def __init__(
        self,
        server: Server,
        *,
        seed: int = 0,
        odds: Mapping[Fault, float] = ODDS,
        script: Sequence[Fault] | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.injected: Counter[Fault] = Counter()
        self._server = server
        self._faults = self._at_random(odds) if script is None else iter(script)
        self._proxy = Proxy(server.port, lambda: _Link(self))
        self._shut: asyncio.TimerHandle | None = None
        self._paused: asyncio.TimerHandle | None = None
        self._handed_on: deque[bytearray] = deque(maxlen=RECENT)

    @property
    def port(self) -> int:
        return self._proxy.port

    @property
    def url(self) -> str:
        return f"{self._server.url.partition('://')[0]}://{LOOPBACK}:{self.port}"

    def copies(self, mark: bytes) -> int:
        """How many of the last bursts that were handed on had these bytes in them: copies of one request, if unique."""
        return sum(mark in burst for burst in self._handed_on.copy())

    def __enter__(self) -> Self:
        self._proxy.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._proxy.__exit__(kind, error, trace)
        self._server.resume()

    # What follows is for links, in the proxy's thread.

    def draw(self) -> Fault:
        fault = next(self._faults, Fault.HONEST)
        self.injected[fault] += 1
        return fault

    def _at_random(self, odds: Mapping[Fault, float]) -> Iterator[Fault]:
        faults, weights = [Fault.HONEST, *odds], [1 - sum(odds.values()), *odds.values()]
        while True:
            yield from self.random.choices(faults, weights, k=1000)

    def shut_for_a_while(self) -> None:
        self._proxy.shut_door()
        if self._shut is not None:
            self._shut.cancel()
        self._shut = asyncio.get_running_loop().call_later(self.random.uniform(0, SHUT), self._proxy.open_door)

    def pause_for_a_while(self) -> None:
        self._server.pause()
        if self._paused is not None:
            self._paused.cancel()
        self._paused = asyncio.get_running_loop().call_later(self.random.uniform(0, PAUSE), self._server.resume)

    def handed_on(self, burst: bytearray) -> None:
        self._handed_on.append(burst)


class _Link:
    """One connection: of the burst that waits for its answer, what is handed on and what is still held."""

    def __init__(self, chaos: Chaos) -> None:
        self._chaos = chaos
        self._loop = asyncio.get_running_loop()
        self._client: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None
        self._fault = Fault.HONEST
        self._burst = bytearray()
        self._answered = True
        self._late: asyncio.TimerHandle | None = None
        self._held = bytearray()
        self._trickling: asyncio.TimerHandle | None = None
        self._drops = bytearray()

    def server_joined(self, server: asyncio.Transport) -> None:
        self._server = server

    def client_joined(self, client: asyncio.Transport) -> None:
        self._client = client

    def client_spoke(self, data: bytes) -> None:
        assert self._client is not None
        if self._answered and self._fault is not Fault.SILENT:
            self._answered, self._fault = False, self._chaos.draw()
            self._burst = bytearray()
            if self._fault is Fault.LATE:
                self._late = self._loop.call_later(self._chaos.random.uniform(0, LATE), self._hand_on)
            elif self._fault is Fault.PAUSED:
                self._chaos.pause_for_a_while()
            elif self._fault is Fault.REFUSED:
                self._chaos.shut_for_a_while()
        if self._fault in _UNREAD:
            if self._fault is not Fault.SILENT:
                reset(self._client)
            return
        self._held += data
        if self._late is None:
            self._hand_on()
        if self._fault is Fault.ANSWER_LOST:
            self._client.close()

    def _hand_on(self) -> None:
        self._late = None
        if self._server is not None:
            if not self._burst:
                self._chaos.handed_on(self._burst)
            self._burst += self._held
            self._server.write(bytes(self._held))
        self._held.clear()
        if self._client is None:
            self._close_server()

    def server_spoke(self, data: bytes) -> None:
        first, self._answered = not self._answered, True
        if self._client is None or self._client.is_closing():
            return
        if self._fault is Fault.ANSWER_CUT and first:
            self._client.write(data[: len(data) // 2])
            self._client.close()
        elif self._fault is Fault.TRICKLE:
            self._drops += data
            if self._trickling is None:
                self._trickle()
        else:
            self._client.write(data)

    def _trickle(self) -> None:
        self._trickling = None
        if self._client is not None and self._drops:
            self._client.write(self._drops[:1])
            del self._drops[:1]
            self._trickling = self._loop.call_later(self._chaos.random.uniform(0.001, 0.005), self._trickle)

    def client_left(self) -> None:
        self._client = None
        if self._trickling is not None:
            self._trickling.cancel()
        if self._late is None:
            self._close_server()

    def server_left(self) -> None:
        self._server = None
        if self._client is not None:
            self._client.close()

    def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()

    def abort(self) -> None:
        for timer in (self._late, self._trickling):
            if timer is not None:
                timer.cancel()
        for transport in (self._client, self._server):
            if transport is not None:
                transport.abort()


def reset(transport: asyncio.Transport) -> None:
    """End a connection as a crash does: RST, and what was not yet sent is not sent."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
