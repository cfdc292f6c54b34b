"""The race, short, on every store; and the proof that its ledger catches what it is there for."""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest

from serverless_session.deadline import within
from serverless_session.errors import StoreUnavailable
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Failed,
    Found,
    MemoryStore,
    Missing,
    Operation,
    Outcome,
    Read,
    Store,
    Write,
    Written,
    new_version,
)
from serverless_session.stores.opening import open_anew
from tests import chaos, servers
from tests.chaos import Chaos, Fault
from tests.servers import Server
from tests.soak import __main__ as program
from tests.soak.__main__ import SERVERS, Field, failed, field, run, table
from tests.soak.ledger import Ledger
from tests.soak.race import KEYS, Report
from tests.stores.faults import FaultyWire, answer_never_comes


@pytest.mark.parametrize("name", ["memory", *SERVERS])
def test_nothing_is_lost_or_undone_under_faults(name: str) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    with field(name, seed) as here:
        report = asyncio.run(run(here, operations=5000, tasks=64, seed=seed))
        said = table(name, seed, report, here.injected())
    print(said)
    assert report.ledger.violations.total() == 0, said  # how late a call may be is judged by the program, not in tests
    assert report.increments > 0
    assert {"Found", "Missing", "Written", "Conflict", "Deleted", "WriteUncertain"} <= {
        told for _, told in report.outcomes
    }


# --- the ledger catches stores that break their promises --------------------------------------------------------------


class Broken(Store):
    """A store in memory that keeps its promises until `fault` answers an operation in its place."""

    def __init__(self, fault: "Break") -> None:
        self.inner = MemoryStore()
        self.limits = self.inner.limits
        self.chance = random.Random(1)
        self.shown: dict[str, Found] = {}
        self._fault = fault

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        await asyncio.sleep(0)
        outcomes = [await self._one(operation) for operation in operations]
        await asyncio.sleep(0)
        return outcomes

    async def _one(self, operation: Operation) -> Outcome:
        wrong = await self._fault(self, operation) if self.chance.random() < 0.1 else None
        return wrong if wrong is not None else await self.does(operation)

    async def does(self, operation: Operation) -> Outcome:
        (outcome,) = await self.inner.perform(operation)
        if isinstance(outcome, Found):
            self.shown.setdefault(operation.key, outcome)
        return outcome


Break = Callable[[Broken, Operation], Awaitable[Outcome | None]]


async def update_lost(store: Broken, operation: Operation) -> Outcome | None:
    if isinstance(operation, Write) and operation.expect is not ABSENT:
        return await store.does(replace(operation, expect=ANYTHING))
    return None


async def write_lost(store: Broken, operation: Operation) -> Outcome | None:
    return Written() if isinstance(operation, Write) else None


async def delete_undone(store: Broken, operation: Operation) -> Outcome | None:
    if isinstance(operation, Delete) and isinstance(stood := await store.does(Read(operation.key)), Found):
        outcome = await store.does(operation)
        await store.does(Write(operation.key, stood.value, ttl=3600, version=stood.version, expect=ABSENT))
        return outcome
    return None


async def two_winners(store: Broken, operation: Operation) -> Outcome | None:
    if isinstance(operation, Write) and operation.expect is ABSENT:
        return await store.does(replace(operation, expect=ANYTHING))
    return None


async def unavailable_but_done(store: Broken, operation: Operation) -> Outcome | None:
    await store.does(operation)
    return Failed(StoreUnavailable("no"))


async def conflict_but_done(store: Broken, operation: Operation) -> Outcome | None:
    if isinstance(operation, Write) and isinstance(await store.does(operation), Written):
        return Conflict(Missing() if operation.expect is not ABSENT else Found(b"", new_version()))
    return None


async def sent_again_with_a_fresh_version(store: Broken, operation: Operation) -> Outcome | None:
    return await store.does(replace(operation, version=new_version())) if isinstance(operation, Write) else None


async def conflict_with_itself(store: Broken, operation: Operation) -> Outcome | None:
    """Sent again by who does not know its own version."""
    if isinstance(operation, Write) and isinstance(await store.does(operation), Written):
        return Conflict(Found(operation.value, operation.version))
    return None


async def conflict_with_what_was_expected(store: Broken, operation: Operation) -> Outcome | None:
    """What stood there was looked up before the refusal."""
    stood = await store.does(Read(operation.key))
    if not isinstance(operation, Read) and isinstance(stood, Found | Missing) and stood.meets(operation.expect):
        return Conflict(stood)
    return None


async def stale(store: Broken, operation: Operation) -> Outcome | None:
    return store.shown.get(operation.key) if isinstance(operation, Read) else None


async def evicted(store: Broken, operation: Operation) -> Outcome | None:
    await store.does(Delete(operation.key, expect=ANYTHING))
    return None


async def answer_of_another(store: Broken, operation: Operation) -> Outcome | None:
    return await store.does(Read(store.chance.choice(KEYS))) if isinstance(operation, Read) else None


async def half_a_value(store: Broken, operation: Operation) -> Outcome | None:
    stood = await store.does(operation)
    return Found(stood.value[:10], stood.version) if isinstance(stood, Found) else stood


async def raced(
    fault: Break, was_sent_twice: Callable[[bytes], bool] = lambda _: False, operations: int = 3000
) -> Report:
    store = Broken(fault)
    return await run(
        Field([store, store], store.inner, was_sent_twice, dict, 0.0), operations=operations, tasks=16, seed=1
    )


async def test_a_store_that_keeps_its_promises_violates_nothing() -> None:
    async def keeps(store: Broken, operation: Operation) -> Outcome | None:
        return None

    assert not failed(await raced(keeps))


@pytest.mark.parametrize(
    ("fault", "caught"),
    [
        (update_lost, "replaced (again)"),
        (write_lost, "replaced (again)"),
        (delete_undone, "shown again"),
        (two_winners, "claimed by two"),
        (unavailable_but_done, "said not to be done"),
        (conflict_but_done, "said not to be done"),
        (sent_again_with_a_fresh_version, "nobody wrote"),
        (conflict_with_itself, "in conflict with itself"),
        (conflict_with_what_was_expected, "what was expected"),
        (stale, "shown again"),
        (evicted, "nobody deleted it"),
        (answer_of_another, "nobody wrote there"),
        (half_a_value, "other bytes"),
    ],
)
async def test_a_broken_promise_is_caught(fault: Break, caught: str) -> None:
    report = await raced(fault)
    assert failed(report)
    assert any(caught in violation for violation in report.ledger.violations), report.ledger.violations
    assert report.ledger.first_trail, "and how it came to it is shown"


def tell(ledger: Ledger, operation: Operation, outcome: Outcome) -> None:
    ledger.answered(ledger.sent(0, operation), outcome)


def a_life(ledger: Ledger) -> tuple[Write, Write]:
    """Created, replaced, deleted, and all of it acknowledged."""
    create = Write("k", b"0", ttl=3600, version=new_version(), expect=ABSENT)
    more = Write("k", b"1", ttl=3600, version=new_version(), expect=create.version)
    for write in (create, more):
        tell(ledger, write, Written())
    tell(ledger, Delete("k", expect=more.version), Deleted())
    assert not ledger.violations
    return create, more


def test_increments_that_vanish_at_the_very_end_are_caught() -> None:
    ledger = Ledger(lambda _: False)
    _, more = a_life(ledger)
    assert ledger.close({"k": (Found(b"1", more.version), [1])}) == 1
    assert not ledger.violations
    ledger.close({"k": (Found(b"1", more.version), [0])})
    assert ledger.violations


def test_a_creation_sent_twice_explains_what_is_back_as_it_was_created_and_nothing_else() -> None:
    ledger = Ledger(lambda kept: kept == create.version + create.value)
    create, more = a_life(ledger)
    tell(ledger, Read("k"), Found(b"1", more.version))
    assert ledger.violations.total() == 1
    assert not ledger.returned


def test_a_creation_sent_twice_explains_one_return() -> None:
    ledger = Ledger(lambda _: True)
    create, _ = a_life(ledger)
    tell(ledger, Read("k"), Found(b"0", create.version))
    assert (ledger.returned.total(), ledger.violations.total()) == (1, 0)
    tell(ledger, Delete("k", expect=create.version), Deleted())
    assert (ledger.returned.total(), ledger.violations.total()) == (1, 0)
    tell(ledger, Read("k"), Found(b"0", create.version))
    assert (ledger.returned.total(), ledger.violations.total()) == (1, 1)


def test_what_was_built_on_a_second_creation_unseen_is_explained_too() -> None:
    ledger = Ledger(lambda _: True)
    create, _ = a_life(ledger)
    on_top = Write("k", b"2", ttl=3600, version=new_version(), expect=create.version)
    tell(ledger, on_top, Written())
    tell(ledger, Read("k"), Found(b"2", on_top.version))
    assert (ledger.returned.total(), ledger.violations.total()) == (1, 0)


async def test_a_call_that_does_not_end_in_its_time_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(store: Broken, operation: Operation) -> Outcome | None:
        await asyncio.sleep(1.3)
        return None

    monkeypatch.setattr(program, "LONGEST_OVERRUN", 0.2)
    report = await raced(slow, operations=100)
    assert failed(report)
    assert not report.ledger.violations


# --- the hole ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False], ids=["known to the wire", "not known"])
async def test_a_late_copy_of_a_creation_brings_back_what_was_deleted(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a store over a network cannot exclude today. It is counted apart, if the wire knows of the late copy."""
    with servers.valkey() as server, Chaos(server, script=[Fault.LATE]) as wire:
        monkeypatch.setattr(wire.random, "uniform", lambda _, longest: longest)
        ledger, store = (
            Ledger((lambda kept: wire.copies(kept) > 1) if known else lambda _: False),
            open_anew(wire.url),
        )

        async def asked(operation: Operation) -> Outcome:
            sent = ledger.sent(0, operation)
            (outcome,) = await store.perform(operation)
            ledger.answered(sent, outcome)
            return outcome

        create = Write("k", b"its name", ttl=60, version=new_version(), expect=ABSENT)
        with within(0.2):
            assert await asked(create) == Written(), "by its second copy"
        assert await asked(Delete("k", expect=create.version)) == Deleted()
        assert await asked(Read("k")) == Missing()
        give_up_at = time.monotonic() + chaos.LATE + 5
        while await asked(Read("k")) == Missing():
            assert time.monotonic() < give_up_at
        await store.aclose()
    assert ledger.returned == ({"after it was acknowledged": 1} if known else {})
    assert ledger.violations.total() == (0 if known else 1)


async def test_a_second_copy_creates_anew_what_was_deleted_meanwhile(valkey: Server) -> None:
    """The first had landed, and its answer is on its way for too long."""
    direct = open_anew(valkey.url)
    create = Write(f"soak-{os.urandom(8).hex()}", b"its name", ttl=60, version=new_version(), expect=ABSENT)
    async with FaultyWire(valkey.port, answer_never_comes) as wire:
        store = open_anew(wire.url)
        with within(1):
            asked = asyncio.ensure_future(store.perform(create))
            while await direct.read(create.key) == Missing():
                pass
            assert await direct.delete(create.key, expect=create.version) == Deleted()
            assert await direct.read(create.key) == Missing()
            assert list(await asked) == [Written()]
        assert await direct.read(create.key) == Found(create.value, create.version)
        await store.aclose()
    await direct.aclose()
