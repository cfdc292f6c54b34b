"""Every fault on each networked store: what a call of each kind answers, which the tests assert.

`python -m tests.stores.fault_table` carries them out with the default deadline and prints what happened, and how long
each call took.

A *scene* is a store in front of a server that works. Each operation is prepared in it, and its key read over the
connection that the operation will use, before the fault strikes: so every operation is a single trip on each store, and
what is known of it afterwards does not depend on the store.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from unittest import mock

from serverless_session.deadline import within
from serverless_session.errors import StoreTimeout, StoreUnavailable, WriteUncertain
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Failed,
    Found,
    Missing,
    Operation,
    Outcome,
    Read,
    Store,
    Version,
    Written,
    links,
    new_version,
)
from serverless_session.testing.operations import new_key, one, present, write
from tests.servers import Server
from tests.stores.faults import (
    Behaviour,
    FaultyWire,
    Link,
    after,
    answer_lost,
    answer_never_comes,
    half_an_answer,
    hangs_up,
    resets,
    says,
    silent,
    trickles,
)
from tests.stores.networked import NETWORKED, Networked, closed_port

KINDS = ("read", "create", "write over a version", "write over anything", "delete a version", "delete anything")

VALUE = b"old" * 50
"""Long enough that a byte each 20 ms takes more than the default deadline."""

WORDS: dict[type, str] = {
    Found: "found",
    Missing: "missing",
    Written: "written",
    Deleted: "deleted",
    Conflict: "conflict",
    StoreTimeout: "timeout",
    StoreUnavailable: "unavailable",
    WriteUncertain: "uncertain",
}


@dataclass(slots=True)
class Scene:
    """`store` is struck by `strike`, and `heal` undoes it. `direct` is never struck; None where there is no server."""

    store: Store
    direct: Store | None
    strike: Callable[[], Awaitable[None]]
    heal: Callable[[], Awaitable[None]] | None
    wire: FaultyWire | None = None


Fault = Callable[[Networked, Server], AbstractAsyncContextManager[Scene]]


async def nothing() -> None:
    pass


# --- on the wire ------------------------------------------------------------------------------------------------------


def once(behaviour: Behaviour) -> Fault:
    """The connection that is open goes wrong; new ones are honest."""
    return _on_the_wire(behaviour, Link.honest)


def always(behaviour: Behaviour) -> Fault:
    """The connection that is open goes wrong, and so does every new one."""
    return _on_the_wire(behaviour, behaviour)


def _on_the_wire(first: Behaviour, then: Behaviour) -> Fault:
    @contextlib.asynccontextmanager
    async def fault(networked: Networked, server: Server) -> AsyncIterator[Scene]:
        async with (
            networked.behind(server, after(1, first), then=then) as (store, wire),
            networked.to(server) as direct,
        ):

            async def heal() -> None:
                wire.heal()

            yield Scene(store, direct, nothing, heal, wire)

    return fault


@contextlib.asynccontextmanager
async def frozen_for_minutes(networked: Networked, server: Server) -> AsyncIterator[Scene]:
    """A sandbox that slept: its open connection is dead, and only the wall clock tells."""
    async with once(silent)(networked, server) as scene:
        with ExitStack() as stack:

            async def thaw() -> None:
                later = SimpleNamespace(time=lambda: time.time() + 300.0)
                stack.enter_context(mock.patch.object(links, "time", later))

            scene.strike = thaw
            yield scene


@contextlib.asynccontextmanager
async def closed_while_idle(networked: Networked, server: Server) -> AsyncIterator[Scene]:
    async with _between_requests(networked, server, reset=False) as scene:
        yield scene


@contextlib.asynccontextmanager
async def reset_while_idle(networked: Networked, server: Server) -> AsyncIterator[Scene]:
    async with _between_requests(networked, server, reset=True) as scene:
        yield scene


@contextlib.asynccontextmanager
async def _between_requests(networked: Networked, server: Server, *, reset: bool) -> AsyncIterator[Scene]:
    async def ends(link: Link) -> None:
        link.answer(await link.ask(await link.request()))
        await asyncio.sleep(0.01)  # so that the answer is read before the end comes
        if reset:
            link.reset()

    async with networked.behind(server, ends) as (store, wire), networked.to(server) as direct:
        yield Scene(store, direct, lambda: asyncio.sleep(0.03), None, wire)


# --- no way there -----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def refused(networked: Networked, server: Server) -> AsyncIterator[Scene]:
    store = networked.store(f"x://127.0.0.1:{closed_port()}")
    yield Scene(store, None, nothing, None)
    await store.aclose()


@contextlib.asynccontextmanager
async def never_accepted(networked: Networked, server: Server) -> AsyncIterator[Scene]:
    """A listener whose backlog is full: what else knocks, hears nothing."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            knocking = stack.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(listener.getsockname())
        store = networked.store(f"x://127.0.0.1:{listener.getsockname()[1]}")
        yield Scene(store, None, nothing, None)
        await store.aclose()


@contextlib.asynccontextmanager
async def unknown_host(networked: Networked, server: Server) -> AsyncIterator[Scene]:
    def nobody_knows(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with mock.patch.object(socket, "getaddrinfo", nobody_knows):
        store = networked.store(f"x://nowhere-{new_key()[-8:]}.example")
        yield Scene(store, None, nothing, None)
        await store.aclose()


@contextlib.asynccontextmanager
async def dns_hangs(networked: Networked, server: Server) -> AsyncIterator[Scene]:
    answers = threading.Event()

    def asks(*_: object, **__: object) -> None:
        answers.wait(5.0)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with mock.patch.object(socket, "getaddrinfo", asks):
        store = networked.store(f"x://slow-{new_key()[-8:]}.example")
        yield Scene(store, None, nothing, None)
        answers.set()
        await store.aclose()


# --- the server -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def killed(networked: Networked, server: Server, *, after: float | None = None) -> AsyncIterator[Scene]:
    """`after`: seconds, in which it is stopped."""
    with ExitStack() as stack:
        doomed = stack.enter_context(networked.start())
        async with networked.to(doomed) as store:

            async def kill() -> None:
                if after is None:
                    doomed.kill()
                else:
                    doomed.pause()
                    killer = threading.Timer(after, doomed.kill)
                    killer.start()
                    stack.callback(killer.join)

            async def restart() -> None:
                stack.enter_context(networked.start(port=doomed.port))

            yield Scene(store, None, kill, restart)


@contextlib.asynccontextmanager
async def killed_while_it_is_asked(networked: Networked, server: Server) -> AsyncIterator[Scene]:
    """It dies with the request unread: the kernel resets the connection."""
    async with killed(networked, server, after=0.05) as scene:
        yield scene


@contextlib.asynccontextmanager
async def killed_and_restarted(networked: Networked, server: Server) -> AsyncIterator[Scene]:
    """Back on the same port before the next call, with nothing in its memory."""
    async with killed(networked, server) as scene:
        kill, restart = scene.strike, scene.heal
        assert restart is not None

        async def both() -> None:
            await kill()
            await restart()

        scene.strike, scene.heal = both, None
        yield scene


@contextlib.asynccontextmanager
async def paused(networked: Networked, server: Server) -> AsyncIterator[Scene]:
    with networked.start() as own:
        async with networked.to(own) as store:

            async def pause() -> None:
                own.pause()

            async def resume() -> None:
                own.resume()

            yield Scene(store, None, pause, resume)


@contextlib.asynccontextmanager
async def full(networked: Networked, server: Server) -> AsyncIterator[Scene]:
    """No room, and nothing may be evicted: `noeviction`, `memcached -M`."""
    options = ["-M", "-m", "3"] if networked.is_memcached else ["--maxmemory-policy", "noeviction"]
    with networked.start(*options) as own:

        async def fill() -> None:
            if networked.is_memcached:
                await asyncio.to_thread(fill_up, own.port)
            else:
                await tell(own.port, b"CONFIG SET maxmemory 1\r\n")

        async with networked.to(own) as store, networked.to(own) as direct:
            yield Scene(store, direct, fill, None)


def fill_up(port: int) -> None:
    """Fill a memcached that must not evict, with items of every size down to the smallest."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10.0) as connection,
        connection.makefile("rb") as answers,
    ):
        for size in (400_000, 40_000, 4_000, 400, 100, 60, 30, 10, 0):
            number = 0
            while True:
                count = max(1, min(500, 400_000 // (size + 1)))
                connection.sendall(
                    b"".join(
                        b"set f%d.%d 0 0 %d\r\n%b\r\n" % (size, number + at, size, bytes(size)) for at in range(count)
                    )
                )
                number += count
                if any(answers.readline() != b"STORED\r\n" for _ in [connection] * count):
                    break
            # the rest of that burst's answers
            connection.sendall(b"mn\r\n")
            while answers.readline() != b"MN\r\n":
                pass


async def tell(port: int, *commands: bytes) -> list[bytes]:
    """The first line a server answers to each command, over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = []
    for command in commands:
        writer.write(command)
        lines.append(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return lines


@contextlib.asynccontextmanager
async def made_a_replica(networked: Networked, server: Server) -> AsyncIterator[Scene]:
    with networked.start("--replica-serve-stale-data", "yes") as own:

        async def demote() -> None:
            await tell(own.port, b"REPLICAOF 127.0.0.1 %d\r\n" % closed_port())

        async def promote() -> None:
            await tell(own.port, b"REPLICAOF NO ONE\r\n")

        async with networked.to(own) as store:
            yield Scene(store, None, demote, promote)


# --- the table --------------------------------------------------------------------------------------------------------

HTTP = says(b"HTTP/1.1 400 Bad Request\r\n\r\n")

UNAVAILABLE = ("unavailable",) * 6
NOT_KNOWN = ("unavailable", *["uncertain"] * 5)
TOO_LATE = ("timeout", *["uncertain"] * 5)
ALL_DONE = ("found", "written", "written", "written", "deleted", "deleted")
SENT_AGAIN = ("found", "written", "written", "uncertain", "deleted", "uncertain")
DONE_AND_SENT_AGAIN = ("found", "written", "written", "uncertain", "missing", "uncertain")


@dataclass(frozen=True, slots=True)
class Row:
    """`outcomes`: in the order of `KINDS`; `on_memcached`: where they differ there. `only`: the scheme that has it.

    `limit`: what the tests give a call, in seconds. `tested`: the kinds they try, fewer where it takes its time.
    """

    name: str
    fault: Fault
    outcomes: tuple[str, ...]
    on_memcached: tuple[str, ...] | None = None
    limit: float = 1.0
    only: str | None = None
    tested: tuple[str, ...] = KINDS

    @property
    def may_run_side_by_side(self) -> bool:
        """Not where a fault is patched in for all at once, nor where a server starts: the loop stands still then."""
        return self.fault not in (
            unknown_host,
            dns_hangs,
            frozen_for_minutes,
            killed,
            killed_while_it_is_asked,
            killed_and_restarted,
            paused,
            full,
            made_a_replica,
        )

    def expected(self, networked: Networked) -> dict[str, str]:
        outcomes = self.on_memcached if networked.is_memcached and self.on_memcached else self.outcomes
        return {kind: word for kind, word in zip(KINDS, outcomes, strict=True) if kind in self.tested}


ROWS = (
    Row("nothing goes wrong", once(Link.honest), ALL_DONE),
    Row("port refused", refused, UNAVAILABLE),
    Row("host unknown", unknown_host, UNAVAILABLE),
    Row("DNS hangs", dns_hangs, UNAVAILABLE, tested=("create",)),
    Row("connection never accepted", never_accepted, UNAVAILABLE, tested=("create",)),
    Row("silent", always(silent), TOO_LATE, limit=0.3),
    Row("idle flow dropped without a word", once(silent), SENT_AGAIN, limit=0.6),
    Row("idle connection closed", closed_while_idle, ALL_DONE),
    Row("idle connection reset", reset_while_idle, ALL_DONE),
    Row("frozen for minutes, flow dropped", frozen_for_minutes, ALL_DONE),
    Row(
        "a byte each 20 ms",
        always(trickles),
        ("timeout", *ALL_DONE[1:]),
        limit=0.8,
        tested=("read", "create", "delete anything"),
    ),
    Row("reset, once", once(resets), SENT_AGAIN),
    Row("reset, always", always(resets), NOT_KNOWN),
    Row("hang-up before it was done, once", once(hangs_up), SENT_AGAIN),
    Row("hang-up before it was done, always", always(hangs_up), NOT_KNOWN),
    Row("hang-up after it was done, once", once(answer_lost), DONE_AND_SENT_AGAIN),
    Row("hang-up after it was done, always", always(answer_lost), NOT_KNOWN),
    Row("done, and the answer never comes, once", once(answer_never_comes), DONE_AND_SENT_AGAIN, limit=0.6),
    Row("done, and the answer never comes, always", always(answer_never_comes), TOO_LATE, limit=0.3),
    Row("half an answer, once", once(half_an_answer), DONE_AND_SENT_AGAIN),
    Row("half an answer, always", always(half_an_answer), NOT_KNOWN),
    Row("junk, once", once(HTTP), SENT_AGAIN),
    Row("junk, always", always(HTTP), NOT_KNOWN),
    Row("killed", killed, UNAVAILABLE),
    Row("killed while it is asked", killed_while_it_is_asked, NOT_KNOWN),
    Row(
        "killed and restarted on its port",
        killed_and_restarted,
        ("missing", "written", "conflict", "written", "missing", "missing"),
    ),
    Row("SIGSTOP", paused, TOO_LATE, limit=0.3),
    Row(
        "full, nothing may be evicted",
        full,
        ("found", "unavailable", "unavailable", "unavailable", "deleted", "deleted"),
        on_memcached=("found", "unavailable", "unavailable", "uncertain", "unavailable", "deleted"),
    ),
    Row("made a replica", made_a_replica, ("found", *["unavailable"] * 5), only="redis"),
)


@dataclass(slots=True)
class Suffered:
    """What became of one call. `connections`: on the wire, the one it began with among them."""

    operation: Operation
    outcome: Outcome
    took: float
    connections: int | None
    error: Exception | None

    @property
    def word(self) -> str:
        return WORDS[type(self.error or self.outcome)]


async def prepared(kind: str, scene: Scene) -> Operation:
    """An operation of that kind, on a key that has been read over the connection it will use."""
    key, version = new_key(), new_version()
    if scene.direct is None and scene.heal is None and scene.wire is None:
        pass
    elif kind != "create":
        key, version = await present(scene.direct or scene.store, VALUE)
    if scene.direct is not None or scene.heal is not None:
        found = await one(scene.store, Read(key))
        if isinstance(found, Found):
            version = found.version  # Memcached's carries a number, good on this connection
    return _operation(kind, key, version)


def _operation(kind: str, key: str, version: Version) -> Operation:
    match kind:
        case "read":
            return Read(key)
        case "create":
            return write(key, expect=ABSENT)
        case "write over a version":
            return write(key, expect=version)
        case "write over anything":
            return write(key, expect=ANYTHING)
        case "delete a version":
            return Delete(key, expect=version)
    return Delete(key, expect=ANYTHING)


async def suffer(scene: Scene, kind: str, limit: float | None) -> Suffered:
    """Prepare, strike, and call."""
    operation = await prepared(kind, scene)
    await scene.strike()
    with within(limit) if limit is not None else contextlib.nullcontext():
        begun = time.monotonic()
        outcome = await one(scene.store, operation)
        took = time.monotonic() - begun
    error = outcome.error if isinstance(outcome, Failed) else None
    return Suffered(operation, outcome, took, scene.wire.connections if scene.wire else None, error)


async def line(row: Row, networked: Networked, server: Server) -> str:
    cells = []
    for kind in KINDS:
        async with row.fault(networked, server) as scene:
            suffered = await suffer(scene, kind, None)
        anew = " (new connection)" if suffered.connections is not None and suffered.connections > 1 else ""
        cells.append(f"{suffered.word} {suffered.took:.3f} s{anew}")
    return f"| {networked.name} | {row.name} | " + " | ".join(cells) + " |"


async def table(chosen: Sequence[Row] = ROWS) -> None:
    print("| store | fault | " + " | ".join(KINDS) + " |")
    print("|---|---|" + "---|" * len(KINDS), flush=True)
    for row in chosen:
        for networked in NETWORKED:
            if row.only in (None, networked.scheme):
                with networked.start() as server:
                    # a task of its own, because whether a store may block is a context variable
                    print(await asyncio.create_task(line(row, networked, server)), flush=True)


if __name__ == "__main__":
    asyncio.run(table())
