"""Functions whose values are kept: async or not, methods, endpoints; what makes their keys, and what is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import logging
import sys
import threading
from decimal import Decimal
from typing import Any

import pydantic
import pytest

from serverless_session import Cache, CacheContext, CachePolicy, SharedState
from serverless_session.caching import answers
from serverless_session.caching import cache as cache_module
from serverless_session.caching.stats import Answer, watch
from serverless_session.errors import ConfigurationError, StoreUnavailable
from tests.caching.shops import a_cache, faults_of


class Product(pydantic.BaseModel):
    product_id: int
    price: Decimal = Decimal("9.90")


@dataclasses.dataclass(frozen=True)
class User:
    id: int
    name: str = "ada"


Later: Any


class Unknown:
    pass


# --- async ------------------------------------------------------------------------------------------------------------


async def test_an_async_function_is_computed_once_for_each_of_its_calls() -> None:
    cache, asked = a_cache(), []

    @cache.cached()
    async def product(product_id: int, currency: str = "EUR", *, tax: bool = False) -> Product:
        """What it costs."""
        asked.append((product_id, currency, tax))
        return Product(product_id=product_id)

    for _ in range(2):
        assert await product(7) == Product(product_id=7)
        assert isinstance(await product(product_id=7), Product)
        await product(7, "EUR", tax=False)
        await product(7, "USD")
        await product(8, tax=True)
    assert asked == [(7, "EUR", False), (7, "USD", False), (8, "EUR", True)]
    assert (product.__name__, product.__doc__) == ("product", "What it costs.")
    assert inspect.iscoroutinefunction(product)
    assert str(inspect.signature(product)).startswith("(product_id: int, currency: str = 'EUR', *, tax: bool = False)")


async def test_a_call_is_invalidated_refreshed_and_found_by_its_key() -> None:
    cache, value = a_cache(), ["first"]

    @cache.cached()
    async def name(user: User) -> list[str]:
        return list(value)

    ada = User(1)
    assert await name(ada) == ["first"]
    value[0] = "second"
    assert await name(ada) == ["first"]
    assert await name.refresh(ada) == ["second"]
    assert await name(ada) == ["second"]
    value[0] = "third"
    await name.invalidate(ada)
    assert await cache.get(name.key(ada), None) is None
    assert await name(ada) == ["third"]
    assert await cache.get(name.key(ada), None) == ["third"]
    await cache.set(name.key(ada), ["put"])
    assert await name(ada) == ["put"]
    assert await cache.get_many([name.key(ada), name.key(User(2))]) == {name.key(ada): ["put"]}
    assert name.key(ada) == name.key(User(1)) != name.key(User(2))


async def test_what_tells_calls_apart_is_part_of_the_key() -> None:
    cache = a_cache()

    async def owner(user_id: int, org_id: int) -> str:
        return f"user {user_id} of {org_id}"

    by_user, by_org = cache.cached(key="user_id")(owner), cache.cached(key="org_id")(owner)
    assert await by_user(7, 1) == "user 7 of 1"
    assert await by_org(1, 7) == "user 1 of 7"


async def test_two_functions_do_not_meet() -> None:
    cache = a_cache()

    @cache.cached()
    async def one(n: int) -> str:
        return "one"

    @cache.cached()
    async def two(n: int) -> str:
        return "two"

    assert [await one(1), await two(1)] == ["one", "two"]


async def test_two_functions_that_one_function_made_do_not_meet() -> None:
    cache = a_cache()

    def rate_of(currency: str) -> Any:
        @cache.cached()
        async def rate() -> str:
            return currency

        return rate

    assert [await rate_of("EUR")(), await rate_of("USD")(), await rate_of("EUR")()] == ["EUR", "USD", "EUR"]


async def test_what_a_function_has_from_around_it_tells_it_from_others() -> None:
    cache = a_cache()

    def make(content: Any) -> Any:
        @cache.cached()
        async def value() -> str:
            return str(content() if callable(content) else content)

        return value

    def constant(number: int) -> Any:
        return lambda: number

    contents = [0.5, 0.25, Decimal(1), {"tenant": "A"}, {"tenant": "B"}, constant(1), constant(2)]
    expected = [str(content() if callable(content) else content) for content in contents]
    assert [await make(content)() for content in contents] == expected


class Secret(pydantic.BaseModel):
    user_id: int = pydantic.Field(exclude=True)


class Named(pydantic.BaseModel):
    name: str


class Owned(Named):
    owner: int


class Around(pydantic.BaseModel):
    one: Named


async def test_two_models_that_are_dumped_alike_are_two() -> None:
    cache = a_cache()

    @cache.cached()
    async def show(model: pydantic.BaseModel) -> str:
        return repr(model)

    models = [Secret(user_id=1), Secret(user_id=2), Around(one=Owned(name="a", owner=1))]
    models += [Around(one=Owned(name="a", owner=2)), Around(one=Named(name="a"))]
    assert [await show(model) for model in models] == list(map(repr, models))


async def test_what_a_computation_has_begun_uses_the_cache() -> None:
    cache, asked, begun = a_cache(), [], []

    @cache.cached()
    async def value() -> int:
        asked.append(1)
        if len(asked) == 1:
            begun.append(asyncio.ensure_future(later()))
        return 1

    async def later() -> None:
        await asyncio.sleep(0.01)
        for _ in range(3):
            await value()

    await value()
    await begun[0]
    assert len(asked) == 1


async def test_two_functions_that_need_each_other_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PATIENCE_WITH_OTHERS", 0.1)
    monkeypatch.setattr(cache_module, "PATIENCE_WITH_OTHERS", 0.1)
    cache = a_cache()

    @cache.cached()
    async def one(depth: int) -> int:
        await asyncio.sleep(0.02)
        return depth if depth > 2 else await other(depth)

    @cache.cached()
    async def other(depth: int) -> int:
        await asyncio.sleep(0.02)
        return 7 if asyncio.get_running_loop().time() - began > 0.3 else await one(depth)

    began = asyncio.get_running_loop().time()
    both = await asyncio.wait_for(asyncio.gather(one(1), other(1)), 20.0)
    assert list(both) == [7, 7]


async def test_tags_are_made_of_the_call() -> None:
    cache, value = a_cache(), ["first"]

    @cache.cached(tags=["menu", "product:{product.product_id}", "{currency}"])
    async def price(product: Product, currency: str = "EUR") -> str:
        return value[0]

    for tags in (("menu",), ("product:7",), ("EUR",)):
        value[0] = "first"
        await price.invalidate(Product(product_id=7))
        assert await price(Product(product_id=7)) == "first"
        value[0] = "second"
        await cache.invalidate_tags("product:8", "USD")
        assert await price(Product(product_id=7)) == "first"
        await cache.invalidate_tags(*tags)
        assert await price(Product(product_id=7)) == "second"


async def test_a_key_is_named_by_paths_or_made_by_a_function() -> None:
    cache, asked = a_cache(), list[str]()

    @cache.cached(key=("user.id", "options.colour"))
    async def by_paths(user: User, options: dict[str, str], trace: Any = None) -> int:
        asked.append("paths")
        return 1

    @cache.cached(key=lambda user, trace=None: user.name.lower())
    async def by_function(user: User, trace: Any = None) -> int:
        asked.append("function")
        return 1

    for trace in (object(), object()):
        await by_paths(User(1, "Ada"), {"colour": "red", "size": "L"}, trace)
        await by_function(User(2, "ADA"), trace)
    assert asked == ["paths", "function"]
    await by_paths(User(2), {"colour": "red"})
    with pytest.raises(LookupError, match=r"options\.colour"):
        await by_paths(User(2), {})


async def test_a_function_is_given_its_context_and_nobody_else_sees_it() -> None:
    cache = a_cache()

    @cache.cached(tags=["menu"])
    async def dish(context: CacheContext, name: str) -> str:
        assert context.tags == ["menu"]
        context.ttl = 5
        return name

    assert await dish("soup") == "soup"
    assert list(inspect.signature(dish).parameters) == ["name"]


async def test_what_is_not_known_by_its_value_is_an_error_at_the_call_at_the_latest() -> None:
    cache = a_cache()

    @cache.cached()
    async def anything(value):  # type: ignore[no-untyped-def]
        return 1

    with pytest.raises(TypeError, match="Unknown cannot stand in a key") as raised:
        await anything(Unknown())
    assert "anything()" in raised.value.__notes__[0]
    with pytest.raises(TypeError, match="missing a required argument"):
        await anything()


# --- methods ----------------------------------------------------------------------------------------------------------


class Shop:
    cache = a_cache()

    def __init__(self, shop_id: int) -> None:
        self.shop_id = shop_id
        self.asked = 0

    @cache.cached(key=("self.shop_id", "product_id"), tags=["shop:{self.shop_id}"])
    async def product(self, product_id: int) -> str:
        self.asked += 1
        return f"{product_id} of {self.shop_id}"

    @cache.cached(key=("self.shop_id", "product_id"))
    def stock(self, context: CacheContext, product_id: int) -> int:
        self.asked += 1
        return self.shop_id * product_id

    @staticmethod
    @cache.cached()
    async def rate(currency: str) -> str:
        return currency


async def test_a_method_is_told_by_what_of_its_object_is_named() -> None:
    one, same, other = Shop(1), Shop(1), Shop(2)
    assert [await shop.product(7) for shop in (one, same, other)] == ["7 of 1", "7 of 1", "7 of 2"]
    assert [one.asked, same.asked, other.asked] == [1, 0, 1]
    await same.product.invalidate(7)
    await one.product(7)
    assert one.asked == 2
    assert await Shop.product(one, 7) == "7 of 1"
    assert [one.product.key(7) == same.product.key(7), one.product.key(7) == other.product.key(7)] == [True, False]
    assert list(inspect.signature(one.product).parameters) == ["product_id"]
    assert await Shop.rate("EUR") == "EUR"


class Boutique(Shop):
    pass


async def test_a_method_that_a_class_inherits_is_its_own() -> None:
    shop, boutique = Shop(9), Boutique(9)
    await shop.product(1)
    await boutique.product(1)
    assert (shop.asked, boutique.asked) == (1, 1)


def test_a_method_that_is_not_async_stays_so() -> None:
    shop = Shop(3)
    assert [shop.stock(2), shop.stock(2)] == [6, 6]
    assert shop.asked == 1
    shop.stock.invalidate(2)
    assert shop.stock(2) == 6
    assert shop.asked == 2


# --- not async --------------------------------------------------------------------------------------------------------


def test_a_plain_function_stays_plain_and_runs_in_the_thread_that_called_it() -> None:
    cache, threads = a_cache(), []

    @cache.cached()
    def rate(currency: str) -> Decimal:
        threads.append(threading.current_thread())
        return Decimal("1.25")

    assert not inspect.iscoroutinefunction(rate)
    assert [rate("EUR"), rate("EUR"), rate("USD")] == [Decimal("1.25")] * 3
    assert threads == [threading.current_thread()] * 2
    rate.invalidate("EUR")
    rate("EUR")
    assert rate.refresh("EUR") == Decimal("1.25")
    assert len(threads) == 4


def test_a_plain_function_raises_what_it_raises() -> None:
    cache = a_cache()

    @cache.cached()
    def fails(kind: str) -> int:
        raise {"value": ValueError, "stop": StopIteration}[kind]("no")

    with pytest.raises(ValueError, match="no"):
        fails("value")
    with pytest.raises(RuntimeError, match="StopIteration"):
        fails("stop")


def test_many_threads_at_once_compute_once() -> None:
    cache, asked = a_cache(), []
    barrier = threading.Barrier(20)

    @cache.cached()
    def slow(n: int) -> int:
        asked.append(n)
        threading.Event().wait(0.05)
        return n

    def ask() -> None:
        barrier.wait()
        assert slow(1) == 1

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [1]


def test_a_plain_function_that_asks_for_itself_does_not_wait_for_itself() -> None:
    cache = a_cache()

    @cache.cached()
    def factorial(n: int) -> int:
        return 1 if n == 0 else n * factorial(n - 1)

    @cache.cached()
    def loop(n: int, again: bool = True) -> int:
        return looped(n)

    def looped(n: int) -> int:
        return 1 if threading.current_thread() is None else depth(n)

    depths: list[int] = []

    def depth(n: int) -> int:
        depths.append(n)
        return loop(n) if len(depths) < 3 else 7

    assert factorial(5) == 120
    assert loop(1) == 7


async def test_on_a_loop_a_plain_function_works_and_says_once_what_to_call(caplog: pytest.LogCaptureFixture) -> None:
    cache = a_cache()

    @cache.cached()
    def rate(currency: str) -> int:
        return 1

    with caplog.at_level(logging.WARNING, "serverless_session.caching"):
        assert [rate("EUR"), rate("USD")] == [1, 1]
    assert [record.event for record in caplog.records] == ["cache.blocks_the_loop"]  # type: ignore[attr-defined]
    assert "rate.aio(...)" in caplog.text


async def test_async_code_awaits_a_plain_function_without_blocking() -> None:
    cache, threads = a_cache(), []

    @cache.cached()
    def rate(currency: str) -> int:
        threads.append(threading.current_thread())
        return 1

    assert [await rate.aio("EUR"), await rate.aio("EUR")] == [1, 1]
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


# --- refused when they are decorated ----------------------------------------------------------------------------------


def refused(cache: Cache) -> list[Any]:
    async def unknown_parameter(value: Unknown) -> int: ...  # type: ignore[empty-body]
    async def unknown_inside(value: list[Unknown]) -> int: ...  # type: ignore[empty-body]
    async def unknown_value(n: int) -> Unknown: ...  # type: ignore[empty-body]
    async def generator(n: int) -> Any:
        yield n

    async def wrapped(n: int) -> int: ...  # type: ignore[empty-body]

    @functools.wraps(wrapped)
    def around(n: int) -> Any:
        return wrapped(n)

    def late_context(n: int, context: CacheContext) -> int: ...  # type: ignore[empty-body]
    def plain(n: int) -> int: ...  # type: ignore[empty-body]

    class Shop:
        async def product(self, n: int) -> int: ...  # type: ignore[empty-body]

    return [
        ("cannot-key", lambda: cache.cached()(unknown_parameter)),
        ("cannot-key", lambda: cache.cached()(unknown_inside)),
        ("cannot-restore", lambda: cache.cached()(unknown_value)),
        ("cannot-cache", lambda: cache.cached()(generator)),
        ("cannot-cache", lambda: cache.cached()(functools.partial(plain, 1))),
        ("cannot-cache", lambda: cache.cached()(around)),
        ("cannot-key", lambda: cache.cached()(lambda n: n)),
        ("cannot-key", lambda: cache.cached()(late_context)),
        ("cannot-key", lambda: cache.cached()(Shop.product)),
        ("cannot-cancel", lambda: cache.cached(policy=CachePolicy(ttl=60, hard_timeout=1))(plain)),
        ("bad-key-path", lambda: cache.cached(key="m")(plain)),
        ("bad-key-path", lambda: cache.cached(key="n.")(plain)),
        ("bad-key-path", lambda: cache.cached(tags=["{m}"])(plain)),
        ("bad-key-path", lambda: cache.cached(tags=["{n!r}"])(plain)),
        ("bad-key-path", lambda: cache.cached(tags=["{n"])(plain)),
        ("bad-key-path", lambda: cache.cached(tags="menu")(plain)),
        ("two-policies", lambda: cache.cached(ttl=5, policy=CachePolicy(ttl=5))),
        ("bad-policy", lambda: cache.cached(policy={"ttl": 5})),  # type: ignore[arg-type]
        ("no-ttl", lambda: Cache(SharedState("memory://")).cached()),
        ("two-stores", lambda: Cache(SharedState("memory://"), store="memory://", ttl=5)),
        ("bad-shared", lambda: Cache("memory://", ttl=5)),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize("number", range(21))
def test_what_cannot_be_cached_is_an_error_where_it_is_written(number: int) -> None:
    code, write = refused(a_cache())[number]
    with pytest.raises(ConfigurationError) as raised:
        write()
    assert raised.value.code == code
    assert raised.value.mend


def test_annotations_may_name_what_is_written_further_down() -> None:
    cache = a_cache()
    global Later

    @cache.cached()
    async def early(n: int) -> Later:
        return Later(n)

    Later = dataclasses.make_dataclass("Later", [("n", int)])
    assert asyncio.run(early(1)) == Later(1)
    assert isinstance(asyncio.run(early(1)), Later)


def test_an_annotation_that_is_never_there_is_named() -> None:
    @a_cache().cached()
    async def early(n: int) -> Never:  # type: ignore[name-defined]  # noqa: F821
        return n

    with pytest.raises(ConfigurationError, match="names Never, which is not there"):
        asyncio.run(early(1))


class Rates:
    @classmethod
    @a_cache().cached(key=("cls", "currency"))
    async def of(cls: Any, currency: str = "EUR") -> str:
        return currency


async def test_a_class_method_is_told_by_its_class_or_says_what_is_missing() -> None:
    rates: Any = Rates
    assert await rates.of("USD") == "USD"
    if sys.version_info >= (3, 13):
        with pytest.raises(TypeError, match="give it the class first"):
            await rates.of.invalidate("USD")
        await rates.of.invalidate(Rates, "USD")
    else:
        await rates.of.invalidate("USD")


# --- the store is down ------------------------------------------------------------------------------------------------


async def test_a_function_works_without_its_store_and_an_invalidation_does_not() -> None:
    cache = a_cache()

    @cache.cached()
    async def name(n: int) -> str:
        return "ada"

    await name(1)
    faults_of(cache).fail()
    with watch() as answers:
        assert [await name(1), await name(1)] == ["ada", "ada"]
    assert answers == [Answer.ERROR, Answer.ERROR]
    with pytest.raises(StoreUnavailable):
        await name.invalidate(1)
    assert (cache.stats().misses, cache.stats().errors) == (1, 2)
