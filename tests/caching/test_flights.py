"""Who shares a look, who waits, and who must not."""

import asyncio
from typing import Any

import pytest

from serverless_session import CacheContext
from serverless_session.caching.flights import Flights, Rest
from serverless_session.caching.stats import Answer, watch
from tests.caching.shops import Shop


async def test_who_asks_while_somebody_looks_waits_and_shares_the_next_look() -> None:
    flights, looks = Flights[int](), 0

    async def look() -> int:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.01)
        return looks

    shared = await asyncio.gather(*(flights.share("key", look) for _ in range(10)))
    assert looks == 2
    assert sorted(shared) == [(1, False, False), (2, False, False)] + [(2, True, False)] * 8
    assert await flights.share("key", look) == (3, False, False)


async def test_a_failure_is_shared_by_those_who_asked_before_it_began() -> None:
    flights, looks = Flights[int](), 0

    async def look() -> int:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.01)
        raise LookupError(looks)

    raised = await asyncio.gather(*(flights.share("key", look) for _ in range(10)), return_exceptions=True)
    assert sorted(error.args[0] for error in raised if isinstance(error, LookupError)) == [1] + [2] * 9


@pytest.mark.parametrize("while_computing", [False, True])
async def test_whoever_is_cancelled_the_others_get_a_value(while_computing: bool) -> None:
    flights, looks = Flights[int](), 0

    async def compute() -> int:
        await asyncio.sleep(0.02)
        return looks

    async def look() -> int | Rest[int]:
        nonlocal looks
        looks += 1
        if while_computing:
            return Rest(compute)
        return await compute()

    asked = [asyncio.ensure_future(flights.share("key", look)) for _ in range(5)]
    await asyncio.sleep(0.005)
    asked[0].cancel()
    asked[2].cancel()
    done = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in done] == [True, False, True, False, False]
    assert looks == 2
    assert list(flights._by_loop.values()) == [{}]


async def test_what_must_not_be_shared_is_computed_by_each() -> None:
    flights, looks = Flights[int](lambda outcome: False), 0

    async def look() -> int:
        nonlocal looks
        looks = mine = looks + 1
        await asyncio.sleep(0)
        return mine

    shared = await asyncio.gather(*(flights.share("key", look) for _ in range(5)))
    assert sorted(one.outcome for one in shared) == [1, 2, 3, 4, 5]


# --- in a cache -------------------------------------------------------------------------------------------------------


async def test_what_is_never_kept_holds_up_nobody() -> None:
    """THREATS 24: a lease on what cannot be cached would let in one after the other."""
    shop = Shop()
    running = most = 0

    async def private(context: CacheContext) -> Any:
        nonlocal running, most
        context.store = False
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        return await shop.source()

    await shop.here.get_or_compute("key", private)
    shop.store.reset()
    caches = [shop.here] * 25 + [shop.there] * 25
    await asyncio.gather(*(cache.get_or_compute("key", private) for cache in caches))
    assert most == 50
    assert shop.store.calls <= 2 * 50, "at most one more trip for each than its look"


async def test_who_asks_after_an_invalidation_waits_for_nobody_of_before_it() -> None:
    for how in ("key", "tag", "clear", "set"):
        shop = Shop()
        shop.source.seconds = 60.0
        hanging = asyncio.ensure_future(shop.ask(tags=["menu"]))
        await asyncio.sleep(0.005)
        shop.source.seconds = 0.0
        await {
            "key": lambda shop=shop: shop.here.invalidate("key"),
            "tag": lambda shop=shop: shop.here.invalidate_tags("menu"),
            "clear": lambda shop=shop: shop.here.clear(),
            "set": lambda shop=shop: shop.here.set("key", "first", tags=["menu"]),
        }[how]()
        if how in ("key", "set"):  # of a tag, the lease of who computes says nothing
            assert await asyncio.wait_for(shop.ask(tags=["menu"]), 5.0) == "first"
        hanging.cancel()
        await asyncio.wait([hanging])


async def test_what_is_never_kept_is_looked_up_side_by_side() -> None:
    shop = Shop()

    async def private(context: CacheContext) -> Any:
        context.store = False
        return 1

    await shop.here.get_or_compute("key", private)
    await shop.here.get_or_compute("key", private)
    shop.faulty.delay(0.02)
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(shop.here.get_or_compute("key", private) for _ in range(50)))
    assert asyncio.get_running_loop().time() - began < 0.5, "50 times 0.02 s, if one waited for another"


async def test_nobody_is_given_what_somebody_else_may_not_keep() -> None:
    shop = Shop()
    mine = iter(range(100))

    async def private(context: CacheContext) -> Any:
        context.store = False
        await asyncio.sleep(0.01)
        return next(mine)

    values = await asyncio.gather(*(shop.here.get_or_compute("key", private) for _ in range(10)))
    assert sorted(values) == list(range(10))


async def test_answers_say_where_they_came_from() -> None:
    shop = Shop(stale_while_revalidate=60)
    shop.source.seconds = 0.02
    with watch() as answers:
        await asyncio.gather(shop.ask(), shop.ask(), shop.ask())
    assert sorted(answer.value for answer in answers) == ["miss", "wait", "wait"]
    with watch() as answers:
        waiting = asyncio.ensure_future(shop.ask())
        await waiting
        shop.clock.advance(61)
        refreshing = asyncio.ensure_future(shop.ask())
        await asyncio.sleep(0.005)
        await shop.ask()
        await shop.ask(shop.there)
        await refreshing
    assert answers == [Answer.HIT, Answer.STALE, Answer.STALE, Answer.MISS]
    stats = shop.here.stats()
    assert (stats.hits, stats.misses, stats.waits, stats.stale) == (1, 2, 2, 1)
    assert 0.06 <= stats.seconds_saved < 0.5
