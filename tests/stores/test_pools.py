"""Connections are shared, bounded, and let go: what holds for every store over a network."""

import asyncio
import random
import threading
import time
from collections.abc import Sequence

import pytest

from serverless_session.deadline import within
from serverless_session.errors import StoreTimeout
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Failed,
    Found,
    Missing,
    Outcome,
    Read,
    Written,
)
from serverless_session.testing.operations import new_key, one, present, write
from tests.stores.faults import FaultyWire, Link, silent
from tests.stores.networked import KINDS, Kind, each_kind
from tests.wire import TripCounter

in_threads = pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.inline], ids=str)
"""A loop that blocks could not run the wire beside it, nor be cancelled while it waits."""


@each_kind
async def test_1_000_calls_at_once_share_a_few_connections(kind: Kind, request: pytest.FixtureRequest) -> None:
    server = kind.server(request)
    with TripCounter.to(server.port) as wire:
        store = kind.store(wire.port, max_connections=4)
        before = threading.active_count()
        with within(30.0):
            stood = [await present(store, b"%d" % number) for number in range(20)]
            outcomes = await asyncio.gather(*(one(store, Read(stood[number % 20][0])) for number in range(1000)))
        assert outcomes == [Found(b"%d" % (number % 20), stood[number % 20][1]) for number in range(1000)]
        assert wire.connections <= 4
        if not kind.inline:
            assert wire.connections >= 2
        assert threading.active_count() - before <= (4 if kind.fixture == "memcached" and not kind.inline else 0)
        await store.aclose()


@in_threads
async def test_waiting_for_a_free_connection_is_a_timeout_of_something_never_sent(
    kind: Kind, request: pytest.FixtureRequest
) -> None:
    async with FaultyWire(kind.server(request).port, then=silent) as wire:
        store = kind.store(wire.port, max_connections=1)
        with within(5.0):
            blocking = asyncio.ensure_future(store.perform(Read("a")))
            await asyncio.sleep(0.05)
        with within(0.2):
            outcomes = await store.perform(Read("a"), write("b", expect=ABSENT), write("c", expect=ANYTHING))
        for outcome in outcomes:
            assert isinstance(outcome, Failed)
            assert type(outcome.error) is StoreTimeout
        blocking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await blocking
        await store.aclose()


@in_threads
async def test_an_idle_connection_that_was_closed_is_replaced_unnoticed(
    kind: Kind, request: pytest.FixtureRequest
) -> None:
    async def answers_twice(link: Link) -> None:
        for _ in range(2):
            link.answer(await link.ask(await link.request()))

    async with FaultyWire(kind.server(request).port, then=answers_twice) as wire:
        store = kind.store(wire.port)
        for _ in range(3):
            for _ in range(2):
                assert await one(store, write(new_key(), expect=ANYTHING)) == Written(), "it is never sent again"
            await asyncio.sleep(0.05)
        assert wire.connections == 3
        await store.aclose()


@each_kind
async def test_a_connection_that_rested_too_long_is_not_trusted(
    kind: Kind, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the wall clock, which goes on while a sandbox is frozen; and may be set back."""
    with TripCounter.to(kind.server(request).port) as wire:
        store = kind.store(wire.port)
        for _ in range(3):
            await one(store, Read("a"))
        assert wire.connections == 1
        now = time.time
        for jump, reopened in ((29, 0), (31, 1), (600, 1), (-5, 1)):
            await one(store, Read("a"))
            wire.reset()
            with monkeypatch.context() as patched:
                patched.setattr(time, "time", lambda jump=jump: now() + jump)
                assert await one(store, write(new_key(), expect=ANYTHING)) == Written()
                assert wire.connections == reopened
                await store.aclose()
        await store.aclose()


@in_threads
async def test_after_a_broken_connection_the_idle_ones_are_not_trusted_either(
    kind: Kind, request: pytest.FixtureRequest
) -> None:
    """Most often the whole server went away: so the next calls do not stumble one after the other."""

    async def answers_once(link: Link) -> None:
        link.answer(await link.ask(await link.request()))
        await link.request()

    async with FaultyWire(kind.server(request).port, *[answers_once] * 4) as wire:
        store = kind.store(wire.port)
        await asyncio.gather(*(one(store, Read("a")) for _ in range(4)))
        assert wire.connections == 4
        assert await one(store, Read("a")) == Missing()
        written = await asyncio.gather(*(one(store, write(new_key(), expect=ANYTHING)) for _ in range(4)))
        assert written == [Written()] * 4, "although none of them can be sent again"
        await store.aclose()


# --- cancellation -----------------------------------------------------------------------------------------------------


@in_threads
async def test_a_cancelled_call_is_cancelled_and_its_connection_not_used_again(
    kind: Kind, request: pytest.FixtureRequest
) -> None:
    async with FaultyWire(kind.server(request).port, silent) as wire:
        store = kind.store(wire.port)
        call = asyncio.ensure_future(store.perform(Read("b")))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await one(store, Read(new_key())) == Missing()
        assert wire.connections == 2
        await store.aclose()


@in_threads
async def test_cancelled_calls_do_not_hold_up_those_that_come_after(kind: Kind, request: pytest.FixtureRequest) -> None:
    """Each held a connection, and on Memcached a thread, for as long as a silent server liked."""
    async with FaultyWire(kind.server(request).port, *[silent] * 6) as wire:
        store = kind.store(wire.port, max_connections=6)
        with within(30.0):
            calls = [asyncio.ensure_future(store.perform(Read("b"))) for _ in range(12)]
            await asyncio.sleep(0.1)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        begun = time.monotonic()
        assert await asyncio.gather(*(one(store, Read(new_key())) for _ in range(6))) == [Missing()] * 6
        assert time.monotonic() - begun < 0.5
        await store.aclose()


@in_threads
async def test_a_storm_of_cancellations_gives_nobody_anothers_value(kind: Kind, request: pytest.FixtureRequest) -> None:
    """Bursts of several reads too, of which some answers were read when it was cancelled."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    store = kind.store(kind.server(request).port, max_connections=4)
    stood = [await present(store, b"%d" % number) for number in range(50)]
    answered = cancelled = 0

    async def call(number: int) -> Sequence[Outcome]:
        keys = [stood[(number + step) % 50][0] for step in range(1 + number % 3)]
        return await store.perform(*(Read(key) for key in keys))

    with within(30.0):
        for _ in range(60):
            numbers = [dice.randrange(50) for _ in range(20)]
            calls = [(number, asyncio.ensure_future(call(number))) for number in numbers]
            for _, running in calls:
                if dice.random() < 0.5:
                    asyncio.get_running_loop().call_later(dice.random() * 0.004, running.cancel)
            await asyncio.wait([running for _, running in calls])
            for number, running in calls:
                if running.cancelled():
                    cancelled += 1
                    continue
                answered += 1
                expected = [(number + step) % 50 for step in range(1 + number % 3)]
                assert list(running.result()) == [Found(b"%d" % at, stood[at][1]) for at in expected]
        assert await one(store, Read(stood[7][0])) == Found(b"7", stood[7][1])
    await store.aclose()
    assert answered > 200
    assert cancelled > 100
