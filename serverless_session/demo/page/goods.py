"""What the shop sells, and the slow way to find out what is on the shelves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

COUNTING_SECONDS: Final = 0.8
"""How long it takes to count the shelves; it is what the cache is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One thing on the shelves. `on_the_shelf`: how many of it the count finds."""

    slug: str
    name: str
    note: str
    cents: int
    on_the_shelf: int


GOODS: Final = {
    product.slug: product
    for product in (
        Product(slug="mug", name="a blue mug", note="Stoneware, holds 300 ml", cents=1450, on_the_shelf=12),
        Product(slug="tea", name="green tea", note="First harvest, 80 g", cents=990, on_the_shelf=31),
        Product(slug="honey", name="some honey", note="From lime trees, 250 g", cents=720, on_the_shelf=18),
        Product(slug="teapot", name="a small teapot", note="With a sieve, for two", cents=3900, on_the_shelf=5),
        Product(slug="tin", name="a tin for tea", note="Keeps the light out", cents=1180, on_the_shelf=9),
        Product(slug="biscuits", name="oat biscuits", note="Baked on Tuesdays", cents=460, on_the_shelf=24),
    )
}


async def count_the_shelves(copy: str) -> dict[str, Any]:
    """The product list, by which copy of the shop and when; it takes its time."""
    await asyncio.sleep(COUNTING_SECONDS)
    return {
        "copy": copy,
        "counted_at": datetime.now(UTC),
        "left": {slug: product.on_the_shelf for slug, product in GOODS.items()},
    }


def money(cents: int) -> str:
    """A price as it is written on a label."""
    return f"€{cents // 100}.{cents % 100:02}"
