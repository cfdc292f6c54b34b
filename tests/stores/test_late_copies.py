"""No outcome is ever contradicted by what the store holds a second later, however late a copy of a write arrives.

A wire in front of a real server delays each copy of a write by spans of its own, and hands it on even if the client has
gone away meanwhile. Many writes, each with other spans, are on their way at once; what they answered is compared with
what stands there when every copy has landed. The same comparison finds contradictions where the rules are broken.
"""

import asyncio
import contextlib
import itertools
import random
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import pytest

from serverless_session.deadline import may_block, within
from serverless_session.errors import StoreUnavailable, WriteUncertain
from serverless_session.stores import (
    ABSENT,
    Conflict,
    Delete,
    Deleted,
    Failed,
    Found,
    MemcachedStore,
    Missing,
    Outcome,
    Read,
    RedisStore,
    Store,
    Write,
    Written,
    memcached,
    new_version,
    redis,
)
from serverless_session.stores.settling import Attempt, Call, LinkBroken
from serverless_session.testing.operations import new_key, one, present, write
from tests.servers import LOOPBACK, Server

SPREADS = (0.4, 0.8, 1.6, 3.2)
"""Seconds in which the calls of a round begin: all in one moment would keep a machine so busy that none is in time."""

NETWORKED = ["valkey", "memcached", "memcached inline"]
EVERYTHING: set[object] = {Written, Deleted, Conflict, WriteUncertain, "a rival won"}
"""What must have come about before anything is shown."""
Kind = type[RedisStore] | type[MemcachedStore]

WRITES = re.compile(rb"EVAL|^(?:add|cas|set|delete) ")
KEY = re.compile(rb"conformance:[0-9a-f]{24}")


# --- a wire that delays -----------------------------------------------------------------------------------------------


class LateWire:
    """A proxy to `port`, in a thread of its own: the copies of a write are as late as `spans` says for its key."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.spans: dict[bytes, Iterator[float]] = {}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(LOOPBACK, self._server.port)
        answers = asyncio.ensure_future(self._hand_back(there, writer))
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                while piece := await reader.read(65_536):
                    key = KEY.search(piece)
                    if key is not None and WRITES.search(piece):
                        await asyncio.sleep(next(self.spans.get(key[0], iter(())), 0.0))
                    back.write(piece)
        finally:
            answers.cancel()
            for end in (back, writer):
                end.close()
            for end in (back, writer):
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await end.wait_closed()

    async def _hand_back(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await there.read(65_536):
                writer.write(piece)

    async def _listen(self) -> None:
        listener = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.url = f"{self._server.url.partition(':')[0]}://{LOOPBACK}:{listener.sockets[0].getsockname()[1]}"
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._listening.set()
        async with listener:
            await self._stop.wait()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    def __enter__(self) -> Self:
        self._listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)
        self._thread.start()
        assert self._listening.wait(5.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


# --- the comparison ---------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Case:
    """A write whose copies are late, and perhaps one of somebody else that expects the same and is not."""

    operation: Write | Delete
    deadline: float
    spans: tuple[float, float]
    starts_after: float = 0.0
    rival: Write | None = None
    rival_after: float = 0.0
    outcome: Outcome | None = None
    rival_won: bool = False
    stands: Outcome | None = None

    def contradiction(self) -> str | None:
        """Why what stands there now cannot be, after this outcome."""
        mine = self.stands is not None and isinstance(self.operation, Write) and _meets(self.stands, self.operation)
        theirs = self.rival is not None and _meets(self.stands, self.rival)
        if self.rival_won and not theirs:
            return "what somebody else wrote was lost"
        match self.operation, self.outcome:
            case Write(), Written():
                return None if mine else "it was written, and does not stand"
            case Delete(), Deleted() | Missing():
                return None if self.stands == Missing() or self.rival_won else "it was deleted, and stands"
            case _, Failed(error=WriteUncertain()):
                return None
            case Write(), Conflict() | Failed(error=StoreUnavailable()):
                return "it was not done, and landed" if mine else None
            case Delete(), Conflict() | Failed(error=StoreUnavailable()):
                return "it was not done, and is gone" if self.stands == Missing() else None
        return f"no outcome of its kind: {type(self.outcome).__name__}"


def _meets(stands: Outcome | None, operation: Write) -> bool:
    return isinstance(stands, Found) and stands.version == operation.version


async def cases(direct: Store, deadlines: Iterable[float], spread: float, seed: int) -> list[Case]:
    """Creations, writes over a version and deletes: right, refused, and with a rival."""
    dice = random.Random(seed)
    made = []
    for deadline, late, second in itertools.product(deadlines, range(0, 501, 50), (0.0, 0.1, 0.3)):
        key, version = await present(direct)
        doomed, doomed_version = await present(direct)
        taken, _ = await present(direct)
        raced, raced_version = await present(direct)
        free = new_key()
        spans = (late / 1000, second)
        for operation, rival in (
            (write(new_key(), expect=ABSENT), None),
            (write(key, expect=version), None),
            (Delete(doomed, expect=doomed_version), None),
            (write(taken, expect=(ABSENT, new_version())[late % 100 == 0]), None),
            (write(free, expect=ABSENT), write(free, b"theirs", expect=ABSENT)),
            (write(raced, expect=raced_version), write(raced, b"theirs", expect=raced_version)),
        ):
            case = Case(operation=operation, deadline=deadline, spans=spans, rival=rival)
            case.starts_after = dice.random() * spread
            case.rival_after = case.starts_after + dice.random() * deadline
            made.append(case)
    return made


async def contradictions(wire: LateWire, direct: Store, made: Sequence[Case], perform: "Perform") -> list[str]:
    """Carry all out at once, wait until every copy has landed, and compare."""
    for case in made:
        wire.spans[case.operation.key.encode()] = iter(case.spans)

    async def rival(case: Case) -> None:
        if case.rival is not None:
            await asyncio.sleep(case.rival_after)
            with within(5.0):
                case.rival_won = await one(direct, case.rival) == Written()

    async def carried(case: Case) -> None:
        await asyncio.sleep(case.starts_after)
        case.outcome = await perform(case)

    await asyncio.gather(*(carried(case) for case in made), *(rival(case) for case in made))
    await asyncio.sleep(1.0)
    with within(10.0):
        for case, stands in zip(made, await direct.perform(*(Read(case.operation.key) for case in made)), strict=True):
            case.stands = stands
    return [
        f"{type(case.operation).__name__} {case.spans} in {case.deadline}: {wrong}"
        for case in made
        if (wrong := case.contradiction()) is not None
    ]


Perform = Callable[[Case], Awaitable[Outcome]]


@contextlib.asynccontextmanager
async def performing(store: Store, *, inline: bool, most: int) -> AsyncIterator[Perform]:
    """Calls side by side; those that block the loop each on a loop of their own."""

    async def perform(case: Case) -> Outcome:
        with within(case.deadline):
            return await one(store, case.operation)

    async def blocking(case: Case) -> Outcome:
        may_block.set(True)
        return await perform(case)

    if inline:
        with ThreadPoolExecutor(most) as threads:
            yield lambda case: asyncio.get_running_loop().run_in_executor(threads, asyncio.run, blocking(case))
    else:
        yield perform
        await store.aclose()


async def run(
    request: pytest.FixtureRequest,
    networked: str,
    deadlines: Iterable[float],
    *,
    spread: float = SPREADS[0],
    connections: int = 1000,
    held: float = 0,
) -> tuple[list[Case], list[str]]:
    """All cases at once over so many connections; where they are `held`, for so many seconds by the first cases."""
    server: Server = request.getfixturevalue(networked.partition(" ")[0])
    kind: Kind = RedisStore if networked == "valkey" else MemcachedStore
    seed = random.randrange(1 << 32)
    print("seed", seed)
    direct = kind(server.url)
    with LateWire(server) as wire:
        made = await cases(direct, deadlines, spread, seed)
        for case in made[:connections] if held else ():
            case.starts_after, case.spans, case.deadline = 0.0, (held, 0.0), 4 * held
        store = kind(wire.url, max_connections=connections)
        async with performing(store, inline="inline" in networked, most=len(made)) as perform:
            found = await contradictions(wire, direct, made, perform)
    await direct.aclose()
    return made, found


@pytest.mark.parametrize("networked", NETWORKED)
async def test_no_outcome_is_contradicted_by_what_stands_a_second_later(
    networked: str, request: pytest.FixtureRequest
) -> None:
    """On a busy machine a whole kind of outcome can miss its deadlines, so rounds are made until all have been seen."""
    seen: set[object] = set()
    for spread in SPREADS:
        made, found = await run(request, networked, (1.0, 0.4), spread=spread)
        assert found == []
        seen |= {type(case.outcome.error if isinstance(case.outcome, Failed) else case.outcome) for case in made}
        seen |= {"a rival won" for case in made if case.rival_won}
        if seen >= EVERYTHING:
            break
    assert seen >= EVERYTHING, f"never seen: {EVERYTHING - seen}"


@pytest.mark.parametrize("networked", NETWORKED[:2])
async def test_what_never_had_a_connection_never_lands(networked: str, request: pytest.FixtureRequest) -> None:
    made, found = await run(request, networked, (0.4,), connections=2, held=0.6)
    assert found == []
    failed = [case.outcome.error for case in made if isinstance(case.outcome, Failed)]
    assert any(isinstance(error, StoreUnavailable) for error in failed)


# --- broken rules -----------------------------------------------------------------------------------------------------

Carry = Callable[[Attempt, float, bool], Awaitable[None]]


async def settled_by_a_read(call: Call, carry: Carry, *, allowed: float) -> None:
    """Where the answer was lost, look what stands there: the first copy may still land after that."""
    ends = asyncio.get_running_loop().time() + allowed
    first = call.attempt()
    try:
        await carry(first, ends, False)
    except LinkBroken as broken:
        first.give_up()
        written = dict(call.waiting)
        call.waiting.update({place: Read(operation.key) for place, operation in written.items()})
        look = call.attempt()
        with contextlib.suppress(LinkBroken):
            await carry(look, ends, True)
        look.give_up()
        call.broke(broken, allowed, last=True)
        for place, operation in written.items():
            stands = call.outcomes[place]
            if isinstance(operation, Write) and isinstance(stands, Found | Missing):
                done = _meets(stands, operation)
                call.outcomes[place] = Written() if done else Failed(StoreUnavailable("it was not done"))
            elif isinstance(stands, Found):
                call.outcomes[place] = Failed(StoreUnavailable("it was not done"))


def no_answer_is_not_done(self: Attempt) -> None:
    """What was sent and not answered is no longer in doubt."""
    self._is_open = False


async def is_contradicted(request: pytest.FixtureRequest, networked: str) -> bool:
    """Does a broken store say "not done" of what stands? It takes a copy that lands in time, so rounds are made."""
    for spread in SPREADS:
        _, found = await run(request, networked, (0.4,), spread=spread)
        if any("not done" in line for line in found):
            return True
    return False


@pytest.mark.parametrize("networked", ["valkey", "memcached"])
async def test_settling_by_a_read_is_contradicted(
    networked: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """THREATS 3"""
    monkeypatch.setattr(redis, "settle", settled_by_a_read)
    monkeypatch.setattr(memcached, "settle", settled_by_a_read)
    assert await is_contradicted(request, networked)


@pytest.mark.parametrize("networked", ["valkey", "memcached"])
async def test_taking_no_answer_for_not_done_is_contradicted(
    networked: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Attempt, "give_up", no_answer_is_not_done)
    assert await is_contradicted(request, networked)
