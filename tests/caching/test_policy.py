"""How long values are kept, and what happens when they are old: each field of `CachePolicy`, and `CacheContext`."""

import asyncio
import math
from typing import Any

import pytest

from serverless_session import CacheContext, CachePolicy, NotModified
from serverless_session.caching import lookup
from serverless_session.caching.stats import Answer, watch
from serverless_session.deadline import invocation_ends_in
from serverless_session.errors import ComputationTimeout, ConfigurationError
from tests.caching.shops import Shop


class OutOfStock(LookupError):
    def __init__(self, product: str, left: int = 0) -> None:
        super().__init__(product)
        self.left = left


# --- negative values --------------------------------------------------------------------------------------------------


async def test_none_is_kept_for_the_negative_ttl() -> None:
    shop = Shop(negative_ttl=5)
    shop.source.value = None
    assert [await shop.ask(), await shop.ask(shop.there)] == [None, None]
    assert shop.source.asked == 1
    shop.clock.advance(6)
    shop.source.value = "found"
    assert await shop.ask() == "found"
    shop.clock.advance(6)
    assert await shop.ask(shop.there) == "found"
    assert shop.source.asked == 2


async def test_an_exception_of_a_named_kind_is_raised_again_as_it_was() -> None:
    shop = Shop(negative_ttl=5, negative_errors=(LookupError,))

    async def fails() -> Any:
        shop.source.asked += 1
        raise OutOfStock("mug", left=3)

    for cache in (shop.here, shop.there):
        with pytest.raises(OutOfStock) as raised:
            await cache.get_or_compute("key", fails)
        assert (raised.value.args, raised.value.left) == (("mug",), 3)
    assert shop.source.asked == 1
    shop.clock.advance(6)
    with pytest.raises(OutOfStock):
        await shop.here.get_or_compute("key", fails)
    assert shop.source.asked == 2


async def test_a_ttl_alone_leaves_the_rest_of_the_policy_as_it_is() -> None:
    shop = Shop(stale_if_error=60)
    await shop.ask(ttl=5)
    shop.source.fails = RuntimeError
    shop.clock.advance(6)
    assert await shop.ask(ttl=5) == "first"


async def test_another_exception_is_not_kept() -> None:
    shop = Shop(negative_ttl=5, negative_errors=(KeyError,))
    shop.source.fails = ValueError
    for _ in range(2):
        with pytest.raises(ValueError, match="down"):
            await shop.ask()
    assert shop.source.asked == 2


async def test_an_exception_that_would_not_come_back_is_raised_and_not_kept() -> None:
    shop = Shop(negative_ttl=5, negative_errors=(LookupError,))

    async def fails() -> Any:
        shop.source.asked += 1
        raise LookupError(object())

    for _ in range(2):
        with pytest.raises(LookupError):
            await shop.here.get_or_compute("key", fails)
    assert shop.source.asked == 2


async def test_a_kept_exception_of_a_kind_that_is_not_named_here_is_a_miss() -> None:
    shop = Shop()
    named = CachePolicy(ttl=60, negative_ttl=60, negative_errors=(LookupError,))
    shop.source.fails = LookupError
    with pytest.raises(LookupError):
        await shop.ask(policy=named)
    shop.source.fails = None
    assert await shop.ask() == "first"


# --- time-outs --------------------------------------------------------------------------------------------------------


async def test_a_computation_that_takes_too_long_is_cancelled() -> None:
    shop = Shop(hard_timeout=0.02)
    shop.source.seconds = 60.0
    with pytest.raises(ComputationTimeout, match=r"0\.02 s"):
        await shop.ask()
    with pytest.raises(TimeoutError):
        await shop.ask(shop.there), "its lease was given back"


async def test_a_value_that_may_still_be_shown_is_shown_when_the_computation_takes_too_long() -> None:
    shop = Shop(hard_timeout=0.02, stale_if_error=60)
    await shop.ask()
    shop.clock.advance(61)
    shop.source.seconds = 60.0
    assert await shop.ask() == "first"


async def test_a_time_out_of_the_source_itself_is_its_own() -> None:
    shop = Shop(hard_timeout=10)
    shop.source.fails = TimeoutError
    with pytest.raises(TimeoutError, match="the source is down"):
        await shop.ask()


async def test_after_the_soft_time_out_the_old_value_is_shown_and_the_new_one_kept_when_it_is_there() -> None:
    shop = Shop(soft_timeout=0.02, stale_if_error=60)
    await shop.ask()
    shop.clock.advance(61)
    shop.source.value, shop.source.seconds = "second", 0.1
    with watch() as answers:
        assert await shop.ask() == "first"
    assert answers == [Answer.STALE]
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
    assert await shop.ask(shop.there) == "second"
    assert shop.source.asked == 2


async def test_where_the_platform_may_stop_us_nothing_runs_on_after_the_soft_time_out() -> None:
    shop = Shop(soft_timeout=0.02, stale_if_error=60)
    await shop.ask()
    shop.clock.advance(61)
    shop.source.seconds = 60.0
    with invocation_ends_in(10.0):
        assert await shop.ask() == "first"
    running = asyncio.all_tasks() - {asyncio.current_task()}
    if running:
        await asyncio.wait(running, timeout=5.0)
    assert all(task.done() for task in running)


async def test_without_an_old_value_the_soft_time_out_says_nothing() -> None:
    shop = Shop(soft_timeout=0.01)
    shop.source.seconds = 0.05
    assert await shop.ask() == "first"


# --- early refresh ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "cost", "draw", "early"),
    [
        (10.0, 1.0, 0.5, False),
        (1.6, 1.0, 0.5, True),  # -log(0.5) = 0.69 s before it must begin
        (1.7, 1.0, 0.5, False),
        (2.4, 1.0, math.exp(-1.5), True),
        (1.0, 1.0, 1.0, True),  # it must begin
        (12.9, 1.0, 1e-17, True),
        (13.1, 1.0, 1e-17, False),  # more than a fifth of its 60 s before it must begin
        (50.0, 40.0, 1e-17, True),
        (7.0, 0.1, 1e-300, False),
        (0.001, 0.0, 0.5, False),
    ],
)
def test_a_value_is_early_the_more_its_computation_costs(left: float, cost: float, draw: float, early: bool) -> None:
    assert CachePolicy(ttl=60).is_early(1000.0, cost, 1000.0 - left, lambda: draw) is early


async def test_an_early_refresh_shows_others_the_value_meanwhile() -> None:
    shop = Shop(early_refresh=1e6)
    shop.source.seconds = 0.02
    await shop.ask()
    shop.clock.advance(50)
    shop.source.value = "second"
    refreshing = asyncio.ensure_future(shop.ask())
    await asyncio.sleep(0.005)
    for cache in (shop.here, shop.there):
        assert await shop.ask(cache) == "first"
    assert await refreshing == "second"
    assert await shop.ask(shop.there, policy=CachePolicy(ttl=60, early_refresh=0)) == "second"


# --- what the computation says ----------------------------------------------------------------------------------------


async def test_a_computation_sets_its_own_ttl() -> None:
    shop = Shop()

    async def briefly(context: CacheContext) -> Any:
        context.ttl = 5
        return await shop.source()

    for seconds, asked in ((0, 1), (4, 1), (2, 2)):
        shop.clock.advance(seconds)
        await shop.here.get_or_compute("key", briefly)
        assert shop.source.asked == asked


async def test_what_is_not_to_be_kept_is_not_though_it_was_raised() -> None:
    shop = Shop(negative_ttl=5, negative_errors=(LookupError,))

    async def private(context: CacheContext) -> Any:
        context.store = False
        shop.source.asked += 1
        raise LookupError("ada")

    for _ in range(2):
        with pytest.raises(LookupError):
            await shop.here.get_or_compute("key", private)
    assert shop.source.asked == 2


async def test_what_was_raised_has_the_tags_that_it_was_given() -> None:
    shop = Shop(negative_ttl=60, negative_errors=(LookupError,))

    async def closed(context: CacheContext) -> Any:
        context.tags.append("shop")
        shop.source.asked += 1
        raise LookupError("closed")

    for invalidated, asked in (("other", 1), ("shop", 1), ("other", 2)):
        with pytest.raises(LookupError):
            await shop.here.get_or_compute("key", closed)
        assert shop.source.asked == asked
        await shop.there.invalidate_tags(invalidated)


async def test_what_is_kept_for_longer_has_the_tags_that_it_had() -> None:
    shop = Shop(stale_while_revalidate=60)

    async def careful(context: CacheContext) -> Any:
        if context.has_stale:
            raise NotModified
        context.tags.append("late")
        return await shop.source()

    for cache in (shop.here, shop.there):
        assert await cache.get_or_compute("key", careful) == "first"
        shop.clock.advance(61)
    await shop.here.invalidate_tags("late")
    shop.source.value = "second"
    assert await shop.there.get_or_compute("key", careful) == "second"


async def test_the_old_value_that_is_shown_is_not_that_of_the_computation() -> None:
    shop = Shop(soft_timeout=0.01, stale_if_error=60)
    shop.source.value = ["tea"]

    async def slow(context: CacheContext) -> Any:
        if not context.has_stale:
            return await shop.source()
        await asyncio.sleep(0.05)
        raise NotModified

    await shop.here.get_or_compute("key", slow)
    shop.clock.advance(61)
    shown = await shop.here.get_or_compute("key", slow)
    shown.append("of ada")
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
    assert await shop.there.get_or_compute("key", slow) == ["tea"]


async def test_a_computation_that_changes_the_old_value_and_fails_has_changed_nothing() -> None:
    shop = Shop(stale_if_error=60)
    shop.source.value = ["tea"]

    async def fails(context: CacheContext) -> Any:
        if not context.has_stale:
            return await shop.source()
        context.stale.append("half done")
        raise RuntimeError

    await shop.here.get_or_compute("key", fails)
    shop.clock.advance(61)
    assert await shop.here.get_or_compute("key", fails) == ["tea"]


@pytest.mark.parametrize("wrong", [{"ttl": math.inf}, {"ttl": math.nan}, {"ttl": 0}, {"ttl": "5"}, {"tags": [7]}])
async def test_a_context_that_cannot_be_is_an_error_and_holds_up_nobody(wrong: dict[str, Any]) -> None:
    shop = Shop()

    async def careless(context: CacheContext) -> Any:
        for name, value in wrong.items():
            setattr(context, name, value)
        return 1

    with pytest.raises((ValueError, TypeError)):
        await shop.here.get_or_compute("key", careless)
    assert await asyncio.wait_for(shop.ask(shop.there), 5.0) == "first"


async def test_a_computation_that_takes_longer_than_a_lease_goes_on_alone_and_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookup, "LEASE_SECONDS", 0.1)
    shop = Shop()
    shop.source.seconds = 0.4
    slow = asyncio.ensure_future(shop.ask())
    for _ in range(8):  # the store's clock stands still but for this
        await asyncio.sleep(0.05)
        shop.clock.advance(0.04)
    other = asyncio.ensure_future(shop.ask(shop.there))
    assert [await slow, await other] == ["first", "first"]
    assert shop.source.asked == 1


@pytest.mark.parametrize("kind", ["key", "beside"])
async def test_a_lease_that_was_lost_is_not_prolonged(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "LEASE_SECONDS", 0.1)
    shop = Shop(stale_while_revalidate=60)
    if kind == "beside":
        await shop.ask()
        shop.clock.advance(61)
    shop.source.seconds = 0.3
    slow = asyncio.ensure_future(shop.ask())
    await asyncio.sleep(0.02)
    shop.source.value, shop.source.seconds = "second", 0.0
    await shop.there.invalidate("key")
    assert await shop.ask(shop.there) == "second"
    assert await slow == "first"
    assert await shop.ask(shop.there) == "second"


async def test_a_computation_may_have_nothing_kept() -> None:
    shop = Shop()

    async def unkept(context: CacheContext) -> Any:
        context.store = False
        return await shop.source()

    for _ in range(2):
        assert await shop.here.get_or_compute("key", unkept) == "first"
    assert shop.source.asked == 2


async def test_a_computation_sees_the_old_value_and_may_keep_it() -> None:
    shop = Shop(stale_while_revalidate=60)
    seen: list[Any] = []

    async def careful(context: CacheContext) -> Any:
        seen.append((context.has_stale, context.stale))
        if context.has_stale:
            raise NotModified
        return await shop.source()

    assert await shop.here.get_or_compute("key", careful) == "first"
    shop.clock.advance(61)
    assert await shop.here.get_or_compute("key", careful) == "first"
    assert seen == [(False, None), (True, "first")]
    shop.clock.advance(59)
    assert await shop.here.get_or_compute("key", careful) == "first"
    assert len(seen) == 2, "it is fresh again"


async def test_what_is_not_modified_must_have_been_there() -> None:
    shop = Shop()

    async def careless(context: CacheContext) -> Any:
        raise NotModified

    with pytest.raises(RuntimeError, match="has_stale"):
        await shop.here.get_or_compute("key", careless)


async def test_a_computation_gives_its_value_tags() -> None:
    shop = Shop()

    async def tagged(context: CacheContext) -> Any:
        value = await shop.source()
        context.tags.append(f"kind:{value}")
        return value

    for _ in range(2):
        assert await shop.here.get_or_compute("key", tagged) == "first"
    assert await shop.there.get_or_compute("key", tagged) == "first", "who does not know its tags finds it, too"
    assert shop.source.asked == 1
    shop.source.value = "second"
    await shop.there.invalidate_tags("kind:first")
    assert await shop.here.get_or_compute("key", tagged) == "second"
    assert await shop.there.get_or_compute("key", tagged) == "second"


async def test_what_others_invalidate_meanwhile_keeps_a_value_with_late_tags_from_being_kept_once_at_most() -> None:
    shop = Shop()

    async def tagged(context: CacheContext) -> Any:
        value = await shop.source()
        await shop.there.invalidate_tags("of others")
        context.tags.append("late")
        return value

    for asked in (1, 2, 2, 2):
        assert await shop.here.get_or_compute("key", tagged) == "first"
        assert shop.source.asked == asked
    await shop.there.invalidate_tags("late")
    await shop.here.get_or_compute("key", tagged)
    assert shop.source.asked == 3


async def test_a_late_tag_that_is_invalidated_during_the_computation_keeps_nothing() -> None:
    """THREATS 10."""
    shop = Shop()

    async def overtaken(context: CacheContext) -> Any:
        value = await shop.source()
        if shop.source.asked == 1:
            shop.source.value = "second"
            await shop.there.invalidate_tags("kind")
        context.tags.append("kind")
        return value

    assert await shop.here.get_or_compute("key", overtaken) == "first"
    assert await shop.there.get_or_compute("key", overtaken) == "second"


# --- wrong settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl": 0},
        {"ttl": "60"},
        {"ttl": True},
        {"ttl": math.inf},
        {"jitter": 1.0},
        {"jitter": "0.1"},
        {"early_refresh": -1},
        {"early_refresh": math.nan},
        {"stale_while_revalidate": -1},
        {"stale_if_error": -1},
        {"local_ttl": -1},
        {"negative_ttl": 0},
        {"soft_timeout": 0},
        {"hard_timeout": -1},
        {"negative_errors": (LookupError,)},
        {"negative_errors": [LookupError], "negative_ttl": 5},
        {"negative_errors": (KeyboardInterrupt,), "negative_ttl": 5},
    ],
    ids=str,
)
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="bad-policy"):
        CachePolicy(**{"ttl": 60} | wrong)
