"""No outcome is ever contradicted by what the store holds one second later, though first copies come late.

THREATS 3: on the wire the first copy of a write waits for up to half a second, whether or not anybody still waits for
its answer. Then the caller is told something, and a second later it must still be true.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from serverless_session.deadline import within
from serverless_session.errors import StoreUnavailable, WriteUncertain
from serverless_session.stores import (
    ABSENT,
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
    Write,
    Written,
    new_version,
)
from serverless_session.stores.settling import Call, LinkBroken
from serverless_session.testing.operations import new_key, one, present, write
from tests.proxy import Proxy
from tests.stores.networked import KINDS, Kind

DELAYS = [step * 0.05 for step in range(13)]  # 0 to 600 ms: the first copy of a call of 1 s has 500


class LateLink:
    """Hands everything on, but for the burst that comes when `wire` is armed: that one is late."""

    def __init__(self, wire: "LateWire") -> None:
        self._wire = wire
        self._client: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None
        self._late = False

    def server_joined(self, server: asyncio.Transport) -> None:
        self._server = server

    def client_joined(self, client: asyncio.Transport) -> None:
        self._client = client

    def client_spoke(self, data: bytes) -> None:
        if self._wire.delay is not None:
            delay, self._wire.delay, self._late = self._wire.delay, None, True
            asyncio.get_running_loop().call_later(delay, self._deliver, data)
        elif self._server is not None:
            self._server.write(data)

    def _deliver(self, data: bytes) -> None:
        self._wire.delivered = True
        if self._server is not None:
            self._server.write(data)

    def server_spoke(self, data: bytes) -> None:
        if self._client is not None and not self._client.is_closing():
            self._client.write(data)

    def client_left(self) -> None:
        if not self._late and self._server is not None:
            self._server.close()

    def server_left(self) -> None:
        if self._client is not None:
            self._client.close()

    def abort(self) -> None:
        for side in (self._client, self._server):
            if side is not None:
                side.abort()


class LateWire(Proxy):
    """`delay`: seconds that the next burst is late, on whatever connection it comes; None: none is."""

    def __init__(self, port: int) -> None:
        super().__init__(port, lambda: LateLink(self))
        self.delay: float | None = None
        self.delivered = False


@dataclass
class Told:
    """What a caller was told, and what stands there a second later."""

    operation: Operation
    delay: float
    outcome: Outcome
    later: Outcome

    def contradiction(self) -> str | None:
        match self.operation, self.outcome:
            case Write(version=version), Written():
                stands = isinstance(self.later, Found) and self.later.version == version
                return None if stands else "Written, and does not stand"
            case Write(version=version), (Conflict() | Failed(error=StoreUnavailable())):
                stands = isinstance(self.later, Found) and self.later.version == version
                return "not written, and stands" if stands else None
            case Delete(), Deleted() | Missing():
                return None if self.later == Missing() else "deleted, and stands"
            case Delete(), (Conflict() | Failed(error=StoreUnavailable())):
                return None if isinstance(self.later, Found) else "not deleted, and gone"
            case _, Failed(error=WriteUncertain()):
                return None
        return f"{self.outcome} cannot be"


Prepare = Callable[[Store], Awaitable[Operation]]


async def create(store: Store) -> Operation:
    return write(new_key(), expect=ABSENT)


async def create_refused(store: Store) -> Operation:
    key, _ = await present(store)
    return write(key, expect=ABSENT)


async def seen(store: Store) -> tuple[str, Version]:
    """Something that this store has read: on Memcached, the write goes with the server's number at once."""
    key, _ = await present(store)
    found = await one(store, Read(key))
    assert isinstance(found, Found)
    return key, found.version


async def replace(store: Store) -> Operation:
    key, version = await seen(store)
    return write(key, expect=version)


async def replace_unseen(store: Store) -> Operation:
    key, version = await present(store)
    return write(key, expect=version)


async def replace_refused(store: Store) -> Operation:
    key, _ = await present(store)
    return write(key, expect=new_version())


async def delete(store: Store) -> Operation:
    key, version = await seen(store)
    return Delete(key, expect=version)


async def delete_refused(store: Store) -> Operation:
    key, _ = await present(store)
    return Delete(key, expect=new_version())


PREPARATIONS: list[Prepare] = [
    create,
    create_refused,
    replace,
    replace_unseen,
    replace_refused,
    delete,
    delete_refused,
]


async def told(kind: Kind, port: int, prepare: Prepare, delay: float, limit: float, few: asyncio.Semaphore) -> Told:
    async with LateWire(port) as wire:
        through, direct = kind.store(wire.port, max_connections=1), kind.store(port, max_connections=1)
        async with few:  # so that nobody waits long for a connection
            with within(10.0):
                operation = await prepare(through)
        wire.delay = delay
        with within(limit):
            outcome = await one(through, operation)
        await asyncio.sleep(1.0)
        assert wire.delivered or isinstance(outcome, Failed), "unless no connection was to be had"
        with within(10.0):
            later = await one(direct, Read(operation.key))
        await through.aclose()
        await direct.aclose()
        return Told(operation, delay, outcome, later)


async def all_told(kind: Kind, port: int, limit: float) -> list[Told]:
    few = asyncio.Semaphore(4)
    return await asyncio.gather(
        *(told(kind, port, prepare, delay, limit, few) for prepare in PREPARATIONS for delay in DELAYS)
    )


def contradictions(tellings: list[Told]) -> list[str]:
    found = []
    for telling in tellings:
        contradiction = telling.contradiction()
        if contradiction:
            found.append(f"{type(telling.operation).__name__}, {telling.delay:.2f} s late: {contradiction}")
    return found


in_threads = pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.inline], ids=str)
"""A loop that blocks could not run the wire beside it; the rules are the same."""


@pytest.mark.parametrize("limit", [1.0, 0.4])
@in_threads
async def test_what_was_told_is_true_a_second_later(kind: Kind, limit: float, request: pytest.FixtureRequest) -> None:
    tellings = await all_told(kind, kind.server(request).port, limit)
    assert contradictions(tellings) == []
    settled = [telling for telling in tellings if isinstance(telling.outcome, Written | Deleted | Missing)]
    late = [telling for telling in settled if telling.delay > limit / 2]
    assert late, "some were settled by a second copy"


@in_threads
async def test_it_catches_a_store_that_takes_no_answer_for_not_done(
    kind: Kind, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_done(self: Call, broken: LinkBroken, allowed: float, *, last: bool) -> None:
        for place in list(self.waiting):
            del self.waiting[place]
            self.outcomes[place] = Failed(StoreUnavailable("no answer"))

    monkeypatch.setattr(Call, "broke", not_done)
    assert len(contradictions(await all_told(kind, kind.server(request).port, 0.4))) > 5
