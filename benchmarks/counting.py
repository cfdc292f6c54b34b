"""Trips, bytes and commands of a contender's calls, counted on the wire and outside of the timed rounds.

Trips and bytes are those of `tests.wire`, a proxy between the contender and the server. Commands are what the server's
own MONITOR shows, without those that a script runs inside the server.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from benchmarks.measuring import Run
from tests.wire import TripCounter

CALLS: Final = 10
_END: Final = b"benchmarks-end-of-count"


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Of one call, on average."""

    trips: float
    commands: str
    sent_bytes: float
    received_bytes: float


def count(run: Run, wire: TripCounter, server_port: int, calls: int = CALLS) -> Count:
    """`run` reaches the server through `wire`; it is called once before, so that its connection is open."""
    run(1)
    with monitor(server_port) as seen:
        wire.reset()
        run(calls)
        trips, sent, received = wire.trips, wire.sent_bytes, wire.received_bytes
    return Count(
        trips=round(trips / calls, 2),
        commands=named(seen, calls),
        sent_bytes=round(sent / calls),
        received_bytes=round(received / calls),
    )


@contextmanager
def monitor(port: int) -> Iterator[list[str]]:
    """The names of the commands that clients send meanwhile, filled in when it ends."""
    seen: list[str] = []
    with socket.create_connection(("127.0.0.1", port), timeout=10) as watcher:
        watcher.sendall(b"MONITOR\r\n")
        lines = watcher.makefile("rb")
        lines.readline()
        yield seen
        with socket.create_connection(("127.0.0.1", port), timeout=10) as last:
            last.sendall(b"ECHO " + _END + b"\r\n")
            last.recv(64)
        for line in lines:
            if _END in line:
                return
            # +1700000000.000000 [0 127.0.0.1:50000] "GET" "key"; a script's own say `lua` in place of the address
            where, _, command = line.partition(b"] ")
            name = command.split(b'"')[1].decode().upper()
            if not where.endswith(b"lua") and name != "FLUSHALL":  # which is ours, between two cold starts
                seen.append(name)


def named(seen: list[str], calls: int) -> str:
    """How often each, a call; as in "GET, 2 SET"."""
    counted = ((name, times / calls) for name, times in sorted(Counter(seen).items()))
    return ", ".join(name if times == 1 else f"{times:g} {name}" for name, times in counted)
