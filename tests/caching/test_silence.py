"""Keys, values and tags stand nowhere but in the store, and there neither in a key nor in the clear."""

import asyncio
import dataclasses
import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serverless_session import Cache, CacheContext, CachePolicy, SharedState
from serverless_session.caching.answers import Answered, Loaded
from serverless_session.caching.stats import Answer
from serverless_session.records.leases import Computed, Ends, Entry, Freshness, Lease
from serverless_session.stores import MemoryStore, new_version
from serverless_session.testing import FaultyStore
from tests.sessions.apps import SECRET

KEY, VALUE, TAG, ARGUMENT = "key-of-ada-4711", "value-of-ada-4712", "tag-of-ada-4713", "argument-of-ada-4714"
ALL = (KEY, VALUE, TAG, ARGUMENT)


@dataclasses.dataclass
class User:
    name: str


class Unknown:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


async def said_by(act: Callable[[], Awaitable[Any]]) -> str:
    try:
        await act()
    except Exception as error:  # noqa: BLE001 - whatever it says is looked at
        return "".join(traceback.format_exception(error, limit=0)) + repr(error)
    return ""


async def test_nothing_is_said_of_what_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    memory = MemoryStore(capacity_bytes=20_000)
    faulty = FaultyStore(memory)
    shared = SharedState(faulty, secret_key=SECRET, compress_above_bytes=None)
    cache = Cache(shared, policy=CachePolicy(ttl=60, hard_timeout=0.01, local_ttl=5), name="orders")

    async def compute() -> Any:
        return {VALUE: VALUE}

    async def never(context: CacheContext) -> Any:
        await asyncio.sleep(60)

    async def large() -> Any:
        return VALUE * 10_000

    async def unfit() -> Any:
        return {"path": Unknown(VALUE)}

    async def tagged(context: CacheContext) -> Any:
        context.tags.append(TAG)
        return VALUE

    @cache.cached(tags=["{name}"], policy=CachePolicy(ttl=60))
    def plain(name: str, user: User) -> str:
        return VALUE

    @cache.cached(key="user.mail")
    async def lacking(user: User) -> str:
        return VALUE

    said = [
        await said_by(act)
        for act in (
            lambda: cache.get_or_compute(KEY, compute, tags=[TAG]),
            lambda: cache.get_or_compute(KEY, compute, tags=[TAG]),
            lambda: cache.get_or_compute((KEY, 2), never),
            lambda: cache.get_or_compute((KEY, 3), large),
            lambda: cache.get_or_compute((KEY, 4), unfit),
            lambda: cache.get_or_compute((KEY, 5), tagged),
            lambda: cache.get_or_compute(Unknown(KEY), compute),
            lambda: cache.get_or_compute((KEY, 6), compute, tags=[TAG, 7]),  # type: ignore[arg-type, list-item]
            lambda: cache.set(KEY, Unknown(VALUE)),
            lambda: asyncio.sleep(0, plain(ARGUMENT, User(ARGUMENT))),
            lambda: plain.aio(ARGUMENT, Unknown(ARGUMENT)),  # type: ignore[arg-type]
            lambda: lacking(User(ARGUMENT)),
        )
    ]
    keys, kept = " ".join(memory._entries), b" ".join(found.value for found, _ in memory._entries.values())
    faulty.fail()
    said += [
        await said_by(act)
        for act in (
            lambda: cache.get_or_compute((KEY, 7), compute),
            lambda: cache.invalidate(KEY),
            lambda: shared.invalidate_tags(TAG),
            lambda: cache.set(KEY, VALUE),
            lambda: cache.clear(),
        )
    ]
    loaded, ends = Loaded(VALUE, VALUE, VALUE.encode()), Ends(1.0, 2.0, 3.0)
    entry = Entry(loaded, False, ends, 0.1, {TAG: b""}, new_version(), Freshness.FRESH)
    said += map(repr, (entry, Lease(KEY, new_version(), {TAG: b""}, entry=entry), Computed(VALUE.encode(), ends, 0.1)))
    said += [repr(loaded), repr(Answered(Answer.HIT, 0.1, loaded)), repr(plain.key(ARGUMENT, User(ARGUMENT)))]
    assert sum(map(bool, said)) >= 14
    assert {record.event for record in caplog.records if hasattr(record, "event")} >= {
        "cache.too_large",
        "cache.store_failed",
        "cache.blocks_the_loop",
    }
    everything = "\n".join([*said, caplog.text, keys, kept.decode("latin-1"), *map(str, map(vars, caplog.records))])
    assert [secret for secret in ALL if secret in everything] == []
