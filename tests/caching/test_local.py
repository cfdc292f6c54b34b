"""The level in this process: what it holds, how it ages, and what it must not show."""

import asyncio
import datetime as dt
from typing import Any

import pytest

from serverless_session import CachePolicy
from serverless_session.caching.local import ENTRY_BYTES, LocalLevel
from serverless_session.caching.stats import Answer, watch
from serverless_session.snapshot import forget_everything
from serverless_session.stores import Read
from serverless_session.testing import ManualClock
from tests.caching.shops import Shop

LOCAL = CachePolicy(ttl=60, local_ttl=5, early_refresh=0)


class Level:
    """A level over two clocks that are set by hand."""

    def __init__(self, capacity_bytes: int = 100_000) -> None:
        self.wall, self.monotonic = ManualClock(1_000_000.0), ManualClock(50.0)
        self.level = LocalLevel(capacity_bytes, wall=self.wall.time, monotonic=self.monotonic.time)

    def pass_(self, wall: float, monotonic: float) -> None:
        self.wall.advance(wall)
        self.monotonic.advance(monotonic)

    def put(self, key: str, value: Any, ttl: float = 10.0, tags: frozenset[str] = frozenset()) -> None:
        self.level.put(key, value, b"x" * 10, lambda packed: packed, ttl=ttl, cost=0.5, tags=tags, age=self.level.age)

    def holds(self, key: str) -> bool:
        return self.level.get(key) is not None


@pytest.mark.parametrize(
    ("wall", "monotonic", "held"),
    [
        (9.0, 9.0, True),
        (10.0, 10.0, False),
        (10.0, 9.1, False),
        (9.1, 10.0, False),
        (5.0, 4.5, True),
        (5.0, 3.0, False),
    ],
)
def test_it_ages_by_the_larger_of_both_clocks_and_is_emptied_where_they_disagree(
    wall: float, monotonic: float, held: bool
) -> None:
    """THREATS 31."""
    level = Level()
    level.put("key", "value")
    level.pass_(wall, monotonic)
    assert level.holds("key") is held


def test_a_clock_that_is_set_back_empties_it_once() -> None:
    level = Level()
    level.put("key", "value")
    level.pass_(-3600.0, 1.0)
    assert not level.holds("key")
    level.put("key", "value")
    level.pass_(1.0, 1.0)
    assert level.holds("key")


def test_it_is_bounded_by_bytes_and_the_least_recently_used_leave() -> None:
    level = Level(capacity_bytes=3 * (ENTRY_BYTES + 60))
    for key in ("a", "b", "c"):
        level.put(key, "x")
    assert level.holds("a")
    level.put("d", "x")
    assert [level.holds(key) for key in ("a", "b", "c", "d")] == [True, False, True, True]
    level.put("e", list(range(10_000)))
    assert not level.holds("e"), "it is larger than all there is"
    assert level.holds("a")


def test_each_has_a_value_of_his_own() -> None:
    level = Level()
    level.put("key", {"items": ["tea"]})
    for _ in range(2):
        local = level.level.get("key")
        assert local is not None
        assert local.value == {"items": ["tea"]}
        local.value["items"].append("mug")


def test_what_only_the_codec_can_copy_is_held_in_bytes() -> None:
    level = Level()
    level.put("key", {"at": dt.date(2026, 1, 2)})
    local = level.level.get("key")
    assert local is not None
    assert local.value == b"x" * 10


def test_what_was_asked_for_before_an_invalidation_is_not_put_in_after_it() -> None:
    level = Level()
    age = level.level.age
    level.level.drop("other")
    level.level.put("key", 1, b"1", lambda packed: 1, ttl=10, cost=0, tags=frozenset(), age=age)
    assert not level.holds("key")


# --- in a cache -------------------------------------------------------------------------------------------------------


async def test_a_local_hit_takes_no_trip_and_ends_with_its_own_time() -> None:
    shop = Shop()
    await shop.ask(policy=LOCAL)
    shop.store.reset()
    with watch() as answers:
        assert await shop.ask(policy=LOCAL) == "first"
    assert (shop.store.calls, answers) == (0, [Answer.LOCAL])
    shop.clock.advance(6)
    await shop.ask(policy=LOCAL)
    assert shop.store.calls == 1
    assert (shop.here.stats().local_hits, shop.here.stats().hits, shop.source.asked) == (1, 1, 1)


async def test_without_a_local_ttl_nothing_is_held() -> None:
    shop = Shop()
    for _ in range(2):
        await shop.ask()
    assert shop.store.calls == 4, "a miss with the cache's own stamp, and a hit"


async def test_it_never_shows_a_value_beyond_its_own_end() -> None:
    shop = Shop()
    policy = CachePolicy(ttl=3, local_ttl=100, early_refresh=0)
    await shop.ask(policy=policy)
    shop.clock.advance(0.9)  # the wall clock alone, less than what counts as a disagreement
    await shop.ask(policy=policy)
    held = shop.here._local._held
    assert [entry.ttl for entry in held.values()] == [3.0]


async def test_it_holds_only_what_the_store_accepted() -> None:
    """THREATS 31."""
    shop = Shop()

    async def overtaken() -> Any:
        value = await shop.source()
        await shop.there.invalidate("key")
        return value

    assert await shop.here.get_or_compute("key", overtaken, policy=LOCAL) == "first"
    shop.source.value = "second"
    assert await shop.ask(policy=LOCAL) == "second"
    shop.faulty.fail()
    await shop.here.get_or_compute("another", shop.source, policy=LOCAL)
    assert await shop.ask(policy=LOCAL) == "second", "of before"
    shop.source.value = "third"
    assert await shop.here.get_or_compute("another", shop.source, policy=LOCAL) == "third"


@pytest.mark.parametrize("how", ["key", "tag", "stale tag", "clear", "set", "shared"])
async def test_what_this_process_invalidates_is_gone_from_it_at_once(how: str) -> None:
    shop = Shop()
    await shop.ask(policy=LOCAL, tags=["menu"])
    shop.source.value = "second"
    match how:
        case "key":
            await shop.here.invalidate("key")
        case "tag":
            await shop.here.invalidate_tags("menu")
        case "stale tag":
            await shop.here.invalidate_tags("menu", stale=True)
        case "clear":
            await shop.here.clear()
        case "set":
            await shop.here.set("key", "second", tags=["menu"])
        case "shared":
            await shop.shared.invalidate_tags("menu")
    assert await shop.ask(policy=LOCAL, tags=["menu"]) == "second"


def test_texts_count_with_what_they_take() -> None:
    level = Level(capacity_bytes=10_000)
    for number in range(20):
        level.put(str(number), "x" * 3000)
    assert len(level.level._held) <= 3


async def test_a_value_of_another_type_than_is_asked_for_is_a_miss() -> None:
    shop = Shop()
    shop.source.value = 1
    await shop.ask(policy=LOCAL)
    shop.source.value = "text"
    assert await shop.ask(policy=LOCAL, type=str) == "text"


async def test_after_a_refresh_nothing_of_before_it_is_held() -> None:
    shop = Shop()

    @shop.here.cached(policy=LOCAL, key=lambda: "value")
    async def value() -> Any:
        return await shop.source()

    value_of = value
    await value_of()
    shop.clock.advance(6)  # not held any more
    shop.faulty.delay(0.03, on=(Read,), times=1)
    reading = asyncio.ensure_future(value_of())
    await asyncio.sleep(0.005)
    shop.source.value = "second"
    assert await value_of.refresh() == "second"
    await reading
    assert await value_of() == "second"


async def test_two_caches_of_one_name_hear_of_each_other() -> None:
    shop = Shop()
    await shop.ask(policy=LOCAL)
    await shop.ask(shop.there, policy=LOCAL)
    shop.source.value = "second"
    await shop.here.invalidate("key")
    assert await shop.ask(shop.there, policy=LOCAL) == "second"
    shop.source.value = "third"
    await shop.here.clear()
    assert await shop.ask(shop.there, policy=LOCAL) == "third"


async def test_a_store_that_is_swapped_takes_what_was_held_with_it() -> None:
    shop = Shop()
    await shop.ask(policy=LOCAL)
    for value in ("second", "third"):
        shop.source.value = value
        with shop.shared.override(store="memory://"):
            assert await shop.ask(policy=LOCAL) == value
    assert await shop.ask(policy=LOCAL) == "first"


async def test_nothing_of_it_goes_into_a_snapshot() -> None:
    shop = Shop()
    await shop.ask(policy=LOCAL)
    assert shop.here._local._held
    await forget_everything()
    assert not shop.here._local._held
