"""Caches as users write them; checked by `mypy --strict`, never run."""

import dataclasses
from collections.abc import Hashable
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, assert_type

from fastapi import Depends, FastAPI, Header
from pydantic import BaseModel

from serverless_session import Cache, CacheContext, CachePolicy, CacheStats, NotModified, SharedState
from serverless_session.errors import ComputationTimeout, StoreError
from serverless_session.fastapi import CurrentSession

shared = SharedState("redis://localhost", secret_key="k3Vt9xQzL0pWm7RbYc2NfHs8DgJ5aEu1")
cache = Cache(shared, ttl=60)
api = FastAPI()


class Product(BaseModel):
    product_id: int
    price: Decimal


@dataclasses.dataclass
class User:
    user_id: int


# functions
@cache.cached(ttl=timedelta(minutes=5), tags=["menu", "product:{product_id}"])
async def product(product_id: int, *, currency: str = "EUR") -> Product:
    return Product(product_id=product_id, price=Decimal(1))


@cache.cached(ttl=3600)
def rate(currency: str) -> Decimal:
    return Decimal(currency)


@cache.cached(key=("user.user_id", "day"))
async def orders(user: User, day: str) -> list[str]:
    return [day]


@cache.cached(key=lambda user: user.user_id)
async def greeting(user: User) -> str | None:
    return None


async def call() -> None:
    assert_type(await product(7), Product)
    assert_type(await product(7, currency="USD"), Product)
    assert_type(await product.refresh(product_id=7), Product)
    await product.invalidate(7)
    assert_type(product.key(7), Hashable)
    assert_type(await cache.get(product.key(7)), Any)
    assert_type(await orders(User(1), "monday"), list[str])
    assert_type(await greeting(User(1)), str | None)
    await product("7")  # type: ignore[arg-type]
    await product.invalidate("7")  # type: ignore[arg-type]
    await product.refresh()  # type: ignore[call-arg]
    product.key(7, "EUR")  # type: ignore[call-arg]
    await product.aio(7)  # type: ignore[attr-defined]

    assert_type(rate("EUR"), Decimal)
    assert_type(rate.refresh("EUR"), Decimal)
    assert_type(await rate.aio("EUR"), Decimal)
    rate.invalidate("EUR")
    rate.invalidate(7)  # type: ignore[arg-type]
    await rate("EUR")  # type: ignore[misc]
    await cache.invalidate(rate.key("EUR"), "a text", ("top", 10))


# a context, which callers do not see
@cache.cached(policy=CachePolicy(ttl=60, stale_if_error=timedelta(hours=1)))
async def dishes(context: CacheContext, shop_id: int) -> list[str]:
    if context.has_stale:
        raise NotModified
    context.ttl = timedelta(minutes=1)
    context.tags.append("dish:soup")
    context.store = False
    context.store_it = True  # type: ignore[attr-defined]
    return ["soup"]


@cache.cached()
def names(context: CacheContext) -> dict[int, str]:
    return {1: "tea"}


async def call_with_context() -> None:
    assert_type(await dishes(7), list[str])
    await dishes.invalidate(shop_id=7)
    await dishes(CacheContext(), 7)  # type: ignore[call-arg, arg-type]
    assert_type(names(), dict[int, str])


# methods
class Shop:
    def __init__(self, shop_id: int) -> None:
        self.shop_id = shop_id

    @cache.cached(key=("self.shop_id", "product_id"), tags=["shop:{self.shop_id}"])
    async def stock(self, product_id: int) -> int:
        return product_id

    @cache.cached(key="self.shop_id")
    def name(self) -> str:
        return ""

    @cache.cached(key=("self.shop_id", "day"))
    async def sold(self, context: CacheContext, day: str) -> int:
        return len(day)

    @staticmethod
    @cache.cached()
    async def currency(country: str) -> str:
        return country


async def call_methods(shop: Shop) -> None:
    assert_type(await shop.stock(7), int)
    assert_type(await Shop.stock(shop, 7), int)
    assert_type(shop.name(), str)
    assert_type(await shop.name.aio(), str)
    assert_type(await shop.sold("monday"), int)
    assert_type(await Shop.currency("FR"), str)
    await shop.stock.invalidate(7)
    await shop.stock.invalidate("7")  # type: ignore[arg-type]
    await shop.stock(shop, 7)  # type: ignore[call-arg, arg-type]


# endpoints and dependencies
@cache.cached()
async def rate_of(currency: str = "EUR") -> Decimal:
    return Decimal(1)


@api.get("/products/{product_id}")
@cache.cached(key=("session.user_id", "product_id", "accept_language"))
async def show(
    product_id: int,
    session: CurrentSession,
    rate: Annotated[Decimal, Depends(rate_of)],
    accept_language: Annotated[str, Header()] = "en",
) -> Product:
    return Product(product_id=product_id, price=rate)


# without a function
async def load() -> list[Product]:
    return []


async def load_briefly(context: CacheContext) -> Product:
    context.ttl = 5
    return Product(product_id=1, price=Decimal(1))


async def values() -> None:
    assert_type(await cache.get_or_compute("all", load, tags=["menu"]), list[Product])
    assert_type(await cache.get_or_compute(("one", 1), load_briefly, type=Product, ttl=60), Product)
    assert_type(await cache.get_or_compute("one", lambda: product(7), type=Product), Product)
    assert_type(await cache.get("one", type=Product), Product | None)
    assert_type(await cache.get("one", 0, type=Product), Product | int)
    assert_type(await cache.get("all", type=list[Product]), list[Product] | None)
    assert_type(await cache.get("one"), Any)
    assert_type(await cache.get_many([("n", 1), ("n", 2)]), dict[tuple[str, int], Any])
    await cache.set("motd", "closed", ttl=timedelta(days=1), tags=["menu"])
    await cache.invalidate_tags("menu", stale=True)
    await shared.invalidate_tags("menu", "product:7")
    await cache.clear()
    assert_type(cache.stats(), CacheStats)
    assert_type(cache.stats().seconds_saved, float)
    await cache.get_or_compute("all", load, type=Product)  # type: ignore[arg-type]
    await cache.get_or_compute([], load)  # type: ignore[call-overload]
    await shared.invalidate_tags(7)  # type: ignore[arg-type]


# policies and caches
CachePolicy(
    ttl=timedelta(minutes=5),
    jitter=0.1,
    early_refresh=2,
    stale_while_revalidate=30,
    stale_if_error=timedelta(hours=1),
    local_ttl=1,
    negative_ttl=10,
    negative_errors=(LookupError, ComputationTimeout),
    soft_timeout=0.2,
    hard_timeout=timedelta(seconds=2),
)
Cache(
    store="redis://localhost", secret_key="k3Vt9xQzL0pWm7RbYc2NfHs8DgJ5aEu1", ttl=60, name="v2", local_bytes=1_000_000
)
Cache(shared.replace(store="memory://"), policy=dataclasses.replace(CachePolicy(ttl=60), ttl=300))
CachePolicy(60)  # type: ignore[call-arg]
CachePolicy(ttl="60")  # type: ignore[arg-type]
CachePolicy(ttl=60).ttl = 5  # type: ignore[misc]
Cache("memory://")  # type: ignore[arg-type]
cache.cached(ttl=60, tags=[7])  # type: ignore[list-item]


async def change(product_id: int) -> bool:
    try:
        await product.invalidate(product_id)
    except StoreError:
        return False
    return True
