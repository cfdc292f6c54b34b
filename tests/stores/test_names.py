"""Stores whose server has a name, and a name server that loses questions: old ones stay lost, new ones are answered.

A resolver asks again after 5 s only (glibc), so a lookup that lost its packet is of no use to a call with a second.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from serverless_session.errors import StoreUnavailable
from serverless_session.stores import Missing, Outcome, Read, Store, memcached_links
from serverless_session.testing.operations import one
from tests.servers import LOOPBACK, Server
from tests.stores.networked import MEMCACHED, MEMCACHED_INLINE, NETWORKED, SLACK, VALKEY, Networked, kinds

NAME = "store.example"


class NameServer:
    """Knows `NAME`, unless told otherwise. What it loses is answered at the end of the test."""

    def __init__(self) -> None:
        self.knows = True
        self.loses = False
        self._end = threading.Event()
        self._ask = socket.getaddrinfo

    def getaddrinfo(self, host: object, *more: object, **named: object) -> object:
        if host == NAME and self.loses:
            self._end.wait(20.0)
        if host == NAME and not self.knows:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._ask(LOOPBACK if host == NAME else host, *more, **named)  # type: ignore[arg-type]

    def end(self) -> None:
        self._end.set()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    names = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.end()


def store_at_a_name(networked: Networked, request: pytest.FixtureRequest) -> Store:
    server: Server = request.getfixturevalue("memcached" if networked.is_memcached else "valkey")
    return networked.store(f"x://{NAME}:{server.port}")


each = pytest.mark.parametrize("networked", NETWORKED, ids=lambda networked: networked.name)


@each
async def test_one_lost_question_costs_one_call_the_time_to_connect(
    networked: Networked, names: NameServer, request: pytest.FixtureRequest
) -> None:
    store = store_at_a_name(networked, request)
    names.loses = True
    begun = time.monotonic()
    assert kinds([await one(store, Read("a"))]) == [StoreUnavailable]
    assert time.monotonic() - begun < 0.3 + 2 * SLACK, "and not the whole second"
    names.loses = False
    assert await one(store, Read("a")) == Missing()
    names.end()
    await store.aclose()


class HeldUp(memcached_links._Lookup):
    """A lookup whose thread loses the processor at the moment in which it has told that there is no address."""

    def set_exception(self, exception: BaseException | None) -> None:
        super().set_exception(exception)
        time.sleep(0.02)


@each
async def test_a_name_that_is_known_again_is_found_by_the_very_next_call(
    networked: Networked, names: NameServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of a lookup that failed is for those who waited for it."""
    monkeypatch.setattr(memcached_links, "_Lookup", HeldUp)
    store = store_at_a_name(networked, request)
    for _ in range(5):
        names.knows = False
        assert kinds([await one(store, Read("a"))]) == [StoreUnavailable]
        names.knows = True
        assert await one(store, Read("a")) == Missing()
        await store.aclose()


@pytest.mark.parametrize(
    "networked",
    [
        pytest.param(
            VALKEY, id=VALKEY.name, marks=pytest.mark.xfail(reason="redis-py looks names up in the loop's own threads")
        ),
        pytest.param(MEMCACHED, id=MEMCACHED.name),
        pytest.param(MEMCACHED_INLINE, id=MEMCACHED_INLINE.name),
    ],
)
async def test_many_lost_questions_hold_up_neither_later_calls_nor_the_loops_threads(
    networked: Networked, names: NameServer, request: pytest.FixtureRequest
) -> None:
    store = store_at_a_name(networked, request)
    await asyncio.to_thread(time.time)
    names.loses = True
    outcomes = await asyncio.gather(*(one(store, Read("a")) for _ in range(40 if not networked.inline else 3)))
    assert set(kinds(outcomes)) <= set(StoreUnavailable.__subclasses__()) | {StoreUnavailable}
    assert sum(thread.name == "getaddrinfo" for thread in threading.enumerate()) <= 16
    names.loses = False
    try:
        async with asyncio.timeout(1.0):
            await asyncio.to_thread(time.time)
            assert await first_answer(store) == Missing()
    finally:
        names.end()
        await store.aclose()


async def first_answer(store: Store) -> Outcome:
    """Whoever joined the last lost question waits for it once more, 0.3 s at the most."""
    outcome = await one(store, Read("a"))
    return outcome if outcome == Missing() else await one(store, Read("a"))
