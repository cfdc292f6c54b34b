"""Values that are put and taken: `get`, `get_many`, `set`, `clear`, and caches that share a store."""

import asyncio
import dataclasses
from typing import Any

import pytest

from serverless_session import Cache, CachePolicy, SharedState
from serverless_session.caching import shapes
from serverless_session.caching.keys import CallKey
from serverless_session.errors import ConfigurationError, UnknownKey, ValueNotSerializable
from serverless_session.stores import ANYTHING, MemoryStore, Write, new_version
from tests.caching.shops import Shop
from tests.sessions.apps import SECRET


@dataclasses.dataclass
class Mug:
    price: int


async def test_what_was_put_is_found_and_nothing_is_computed() -> None:
    shop = Shop()
    assert await shop.here.get("key") is None
    assert await shop.here.get("key", "default") == "default"
    await shop.here.set("key", None)
    assert await shop.there.get("key", "default") is None
    await shop.here.set("key", {"a": 1}, ttl=5)
    assert await shop.ask(shop.there) == {"a": 1}
    shop.clock.advance(6)
    assert await shop.here.get("key") is None
    assert shop.source.asked == 0


async def test_a_value_is_restored_to_the_type_that_is_named() -> None:
    shop = Shop()

    async def mug() -> Mug:
        return Mug(9)

    for cache in (shop.here, shop.there):
        assert await cache.get_or_compute("mug", mug, type=Mug) == Mug(9)
        assert await cache.get("mug", type=Mug) == Mug(9)
        assert await cache.get("mug", 7, type=int) == 7, "it is no int"
    with pytest.raises(ValueNotSerializable):
        await shop.here.get_or_compute("another", mug)


async def test_many_are_found_in_one_call_and_with_tags_in_two() -> None:
    shop = Shop()
    for number in range(20):
        await shop.here.set(("n", number), number)
    shop.store.reset()
    keys = [("n", number) for number in range(25)] * 2
    assert await shop.there.get_many(keys) == {("n", number): number for number in range(20)}
    assert shop.store.calls == 1
    await shop.here.set(("n", 0), 0, tags=["zero"])
    shop.store.reset()
    assert len(await shop.there.get_many(keys)) == 20
    assert shop.store.calls == 2
    await shop.shared.invalidate_tags("zero")
    assert ("n", 0) not in await shop.there.get_many(keys)
    assert await shop.here.get_many([]) == {}


async def test_what_no_longer_fits_is_left_out_of_many() -> None:
    shop = Shop()

    @shop.here.cached(key=lambda: "mug")
    async def mug() -> Mug:
        return Mug(9)

    await mug()
    key = mug.key()
    await shop.here.set(CallKey(key.encoded, shapes.ANYTHING), "no mug")  # type: ignore[attr-defined]
    assert await shop.here.get_many([key]) == {}
    assert await shop.here.get(key) is None
    assert await mug() == Mug(9)


async def test_what_is_sealed_under_an_unknown_key_is_not_there_and_not_overwritten() -> None:
    store = MemoryStore()
    one, other = (Cache(SharedState(store, secret_key=secret), ttl=60) for secret in (SECRET, SECRET[::-1]))
    await one.set("key", "of one")
    await other.set("another", "of the other")
    assert await other.get("key", "nothing") == "nothing"
    assert await other.get_many(["key", "another"]) == {"another": "of the other"}
    with pytest.raises(UnknownKey):
        await other.set("key", "of the other")

    async def compute() -> str:
        return "computed"

    assert await other.get_or_compute("key", compute) == "computed"
    assert await one.get("key") == "of one"


async def test_a_damaged_stamp_counts_as_none() -> None:
    for act in ("ask", "set", "stale"):
        shop = Shop()
        await shop.ask(tags=["menu"])
        key = shop.shared.tag_key("menu")
        await shop.store.perform(Write(key, b"garbage", ttl=60, version=new_version(), expect=ANYTHING))
        if act == "set":
            await shop.here.set("key", "put", tags=["menu"])
        elif act == "stale":
            await shop.shared.invalidate_tags("menu", stale=True)
        for _ in range(2):
            assert await shop.ask(tags=["menu"]) in ("first", "put")
        assert shop.here.stats().errors == 0
        assert shop.source.asked <= 2


@pytest.mark.parametrize("tags", ["menu", [7], [None]])
async def test_tags_are_a_list_of_texts(tags: Any) -> None:
    shop = Shop()
    with pytest.raises(TypeError, match="list of texts"):
        await shop.ask(tags=tags)
    with pytest.raises(TypeError, match="list of texts"):
        await shop.here.set("key", 1, tags=tags)


async def test_what_is_put_wins_over_what_is_being_computed() -> None:
    shop = Shop()
    shop.source.seconds = 0.02
    computing = asyncio.ensure_future(shop.ask())
    await asyncio.sleep(0.005)
    await shop.there.set("key", "put")
    assert await computing == "first"
    assert await shop.ask() == "put"


async def test_clear_is_one_trip_and_leaves_other_caches_alone() -> None:
    shop = Shop()
    other = Cache(shop.shared, ttl=60, name="other")
    for number in range(3):
        await shop.here.set(number, "old")
        await other.set(number, "of another")
    shop.store.reset()
    await shop.there.clear()
    assert shop.store.calls == 1
    assert await shop.here.get_many(range(3)) == {}
    assert await other.get_many(range(3)) == dict.fromkeys(range(3), "of another")


async def test_what_is_computed_while_the_cache_is_cleared_is_a_miss() -> None:
    shop = Shop()
    await shop.ask()
    await shop.here.invalidate("key")
    shop.source.seconds = 0.02
    computing = asyncio.ensure_future(shop.ask())
    await asyncio.sleep(0.005)
    shop.source.value = "second"
    await shop.there.clear()
    assert await computing == "first"
    assert await shop.ask() == "second"


async def test_namespaces_do_not_meet() -> None:
    store = MemoryStore()
    one, other = (Cache(SharedState(store, secret_key=SECRET, namespace=name), ttl=60) for name in ("one", "other"))
    await one.set("key", "of one")
    assert await other.get("key") is None


async def test_one_store_in_one_line() -> None:
    cache = Cache(store=MemoryStore(), secret_key=SECRET, ttl=60)
    await cache.set("key", 1)
    assert await cache.get("key") == 1


@pytest.mark.parametrize("key", [object(), [object()], {"a": object()}, lambda: 1])
async def test_a_key_is_known_by_its_value(key: Any) -> None:
    with pytest.raises(TypeError, match="cannot stand in a key"):
        await Shop().here.get(key)


async def test_a_value_from_before_it_had_a_tag_does_not_count() -> None:
    """A release that adds a tag must be able to invalidate what the one before it kept."""
    shop = Shop()
    await shop.ask(tags=["menu"])
    shop.source.value = "second"
    assert await shop.ask(shop.there, tags=["menu"]) == "first"
    assert await shop.ask(shop.there, tags=["menu", "shop"]) == "second"
    assert await shop.ask(tags=["menu", "shop"]) == "second"


async def test_a_refresh_that_fails_says_so() -> None:
    shop = Shop(stale_if_error=60, stale_while_revalidate=60)

    @shop.here.cached(key=lambda: "value")
    async def value() -> Any:
        return await shop.source()

    value_of = value
    await value_of()
    shop.source.fails = RuntimeError
    with pytest.raises(RuntimeError):
        await value_of.refresh()
    assert await value_of() == "first"


async def test_a_refresh_computes_after_whoever_computes_now() -> None:
    """What changed before it was asked for is in what it returns, and stands in the store afterwards."""
    shop = Shop()
    await shop.ask()

    async def refresh(cache: Cache) -> Any:
        @cache.cached(key=lambda: "same")
        async def value() -> Any:
            return await shop.source()

        value_of = value
        return await value_of.refresh()

    shop.source.seconds = 0.02
    first = asyncio.ensure_future(refresh(shop.here))
    await asyncio.sleep(0.005)
    shop.source.value = "second"
    assert await refresh(shop.there) == "second"
    assert await first == "first"


def test_a_policy_and_a_ttl_do_not_go_together() -> None:
    with pytest.raises(ConfigurationError, match="two-policies"):
        Cache(SharedState("memory://"), ttl=60, policy=CachePolicy(ttl=60))
