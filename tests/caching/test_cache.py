"""Values that are computed once, found again, and never shown after they were invalidated."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from serverless_session import Cache, CachePolicy, SharedState
from serverless_session.deadline import invocation_ends_in
from serverless_session.errors import ConfigurationError, StoreUnavailable, ValueNotSerializable
from serverless_session.stores import Read, Write
from tests.caching.shops import Shop, Source


async def test_a_value_is_computed_once_and_found_by_all() -> None:
    shop = Shop()
    assert [await shop.ask() for _ in range(3)] == ["first"] * 3
    assert await shop.ask(shop.there) == "first"
    assert shop.source.asked == 1


async def test_a_miss_is_two_trips_and_a_hit_is_one() -> None:
    shop = Shop()
    await shop.here.get_or_compute("another", shop.source)  # the first one of all makes the cache's own stamp
    for tags, miss in (((), 2), (("menu",), 3), (("menu", "other"), 3)):
        await shop.here.invalidate("key")
        shop.store.reset()
        await shop.ask(tags=tags)
        assert shop.store.calls == miss + 1, "after an invalidation, one more"
        shop.store.reset()
        await shop.ask(tags=tags)
        assert shop.store.calls == 1


@pytest.mark.parametrize("value", [None, 0, "", [], {}, {"a": (1, None)}])
async def test_whatever_comes_is_a_value(value: Any) -> None:
    shop = Shop()
    shop.source.value = value
    assert [await shop.ask() for _ in range(2)] == [value] * 2
    assert shop.source.asked == 1


async def test_many_who_ask_at_once_in_two_processes_compute_once() -> None:
    shop = Shop()
    shop.source.seconds = 0.05
    asked = [shop.ask(cache) for cache in (shop.here, shop.there) for _ in range(25)]
    assert await asyncio.gather(*asked) == ["first"] * 50
    assert shop.source.asked == 1


@pytest.mark.parametrize("how", ["key", "tag"])
async def test_what_was_invalidated_is_computed_anew(how: str) -> None:
    shop = Shop()
    await shop.ask(tags=["menu"])
    shop.source.value = "second"
    await (shop.there.invalidate("key") if how == "key" else shop.there.invalidate_tags("menu"))
    assert await shop.ask(tags=["menu"]) == "second"
    assert await shop.ask(shop.there, tags=["menu"]) == "second"
    assert shop.source.asked == 2


async def test_a_tag_that_is_made_stale_is_computed_anew_at_its_next_use() -> None:
    shop = Shop()
    await shop.ask(tags=["menu"])
    shop.source.value = "second"
    await shop.there.invalidate_tags("menu", stale=True)
    assert await shop.ask(tags=["menu"]) == "second", "who asks computes"
    assert await shop.ask(shop.there, tags=["menu"]) == "second"
    assert shop.source.asked == 2


async def test_a_value_ends_with_its_ttl() -> None:
    shop = Shop()
    await shop.ask()
    shop.source.value = "second"
    shop.clock.advance(59)
    assert await shop.ask() == "first"
    shop.clock.advance(2)
    assert await shop.ask() == "second"


async def test_a_stale_value_is_shown_while_one_computes() -> None:
    shop = Shop(stale_while_revalidate=60)
    await shop.ask()
    shop.clock.advance(61)
    shop.source.value, shop.source.seconds = "second", 0.05
    refreshing = asyncio.ensure_future(shop.ask())
    await asyncio.sleep(0.01)
    assert await shop.ask(shop.there) == "first"
    assert await refreshing == "second"
    assert await shop.ask(shop.there) == "second"


async def test_a_value_is_shown_for_a_while_if_the_source_fails() -> None:
    shop = Shop(stale_if_error=60)
    await shop.ask()
    shop.source.fails = RuntimeError
    shop.clock.advance(61)
    assert await shop.ask() == "first"
    shop.clock.advance(60)
    with pytest.raises(RuntimeError):
        await shop.ask()


async def test_what_the_source_raises_is_raised_and_nothing_is_kept() -> None:
    shop = Shop()
    shop.source.fails = RuntimeError
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await shop.ask()
    shop.source.fails = None
    assert await shop.ask(shop.there) == "first"


async def test_a_value_that_asks_for_itself_does_not_wait_for_itself() -> None:
    shop = Shop()

    async def twice() -> Any:
        return [await shop.ask()]

    assert await shop.here.get_or_compute("key", twice) == ["first"]


async def test_who_asks_after_an_invalidation_gets_nothing_from_before_it() -> None:
    """Though somebody who asked before it is still computing, in the same process or in another."""
    for where in ("here", "there"):
        shop = Shop()
        shop.source.seconds = 0.05
        before = asyncio.ensure_future(shop.ask())
        await asyncio.sleep(0.01)
        shop.source.value = "second"
        await getattr(shop, where).invalidate("key")
        assert await shop.ask() == "second"
        assert await before == "first"
        assert await shop.ask() == "second"


async def test_each_who_waited_has_a_value_of_his_own() -> None:
    shop = Shop()
    shop.source.value = {"items": ["tea"]}
    shop.source.seconds = 0.01
    one, two, three = await asyncio.gather(*(shop.ask() for _ in range(3)))
    one["items"].append("mug")
    two["items"].append("honey")
    assert three == {"items": ["tea"]}
    assert await shop.ask() == {"items": ["tea"]}


async def test_a_computation_that_nobody_waits_for_is_cancelled_and_somebody_else_computes() -> None:
    shop = Shop()
    shop.source.seconds = 60.0
    asked = [asyncio.ensure_future(shop.ask()) for _ in range(3)]
    await asyncio.sleep(0.01)
    for one in asked:
        one.cancel()
    await asyncio.wait(asked)
    shop.source.seconds = 0.0
    assert await asyncio.wait_for(shop.ask(shop.there), 5.0) == "first"
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_computation_goes_on_for_those_who_still_wait() -> None:
    shop = Shop()
    shop.source.seconds = 0.05
    leaving, staying = (asyncio.ensure_future(shop.ask()) for _ in range(2))
    await asyncio.sleep(0.01)
    leaving.cancel()
    assert await staying == "first"
    assert shop.source.asked == 1


async def test_a_value_that_would_not_come_back_is_refused_and_holds_up_nobody() -> None:
    shop = Shop()
    shop.source.value = object()
    with pytest.raises(ValueNotSerializable):
        await shop.ask()
    shop.source.value = "first"
    assert await asyncio.wait_for(shop.ask(shop.there), 5.0) == "first"


async def test_a_lease_does_not_outlive_the_invocation() -> None:
    shop = Shop()
    with invocation_ends_in(0.7):
        await shop.ask()
    leases = [operation.ttl for operation in shop.store.operations if isinstance(operation, Write)]
    assert 0 < leases[0] <= 0.7


# --- the store fails --------------------------------------------------------------------------------------------------


async def test_a_store_that_hangs_costs_little_once_and_nothing_after() -> None:
    shop = Shop()
    await shop.ask()
    shop.faulty.delay(60.0)
    for _ in range(101):
        assert await shop.ask() == "first"
    assert shop.source.asked == 102
    assert 1 <= shop.faulty.injected.delayed <= 10, "it is asked once in a while"


async def test_an_invalidation_is_done_or_raises() -> None:
    """It is tried though the store rests."""
    shop = Shop()
    await shop.ask()
    shop.faulty.fail(on=(Read, Write))
    await shop.ask()
    with pytest.raises(StoreUnavailable):
        await shop.here.invalidate("key")
    shop.faulty.heal()
    shop.source.value = "second"
    await shop.here.invalidate("key")
    assert await shop.ask(shop.there) == "second"


# --- wrong settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: CachePolicy(ttl=0),
        lambda: CachePolicy(ttl="60"),  # type: ignore[arg-type]
        lambda: CachePolicy(ttl=60, jitter=1.0),
        lambda: CachePolicy(ttl=60, early_refresh=-1),
        lambda: CachePolicy(ttl=60, stale_if_error=-1),
        lambda: Cache(SharedState("memory://"), ttl=60, policy=CachePolicy(ttl=60)),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError):
        make()


async def test_without_a_ttl_nothing_is_kept() -> None:
    with pytest.raises(ConfigurationError, match="no-ttl"):
        await Cache(SharedState("memory://")).get_or_compute("key", Source())
