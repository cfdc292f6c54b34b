"""What a cached function costs: a hit, a miss, one miss in ten, a hit in the process, a hit with tags."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Final

from benchmarks.contenders.caches import FLOOR, OURS, CacheContender, racing
from benchmarks.questions import Question
from benchmarks.results import Role

if TYPE_CHECKING:
    from benchmarks.asking import Bench

_fresh = count()

HIT: Final = "hit, 1 KiB"
LOCAL_HIT: Final = "hit in the process, 1 KiB"


def ask(bench: Bench) -> None:
    for kibibytes in (1, 64):
        for what, keys in (("hit", always_one), ("miss", always_new), ("10 % misses", one_new_in_ten)):
            if bench.quick and kibibytes > 1 and what != "hit":
                continue
            bench.race(
                QUESTION.name,
                f"{what}, {kibibytes} KiB",
                racing(in_the_store, keys, size=kibibytes * 1024),
                floor=FLOOR,
            )
    bench.race(QUESTION.name, LOCAL_HIT, racing(in_the_process, always_one, size=1024), floor=FLOOR)
    for tags in (0, 1, 16):
        bench.race(
            QUESTION.name,
            f"hit with {tags} tags, 1 KiB",
            racing(with_tags, always_one, size=1024, tags=tuple(f"tag-{number}" for number in range(tags))),
            floor=FLOOR,
        )


def in_the_store(contender: CacheContender) -> bool:
    return not contender.is_local and (contender.name == OURS or not contender.guards)


def in_the_process(contender: CacheContender) -> bool:
    return contender.is_local or contender.role is Role.FLOOR


def with_tags(contender: CacheContender) -> bool:
    return contender.takes_tags or contender.role is Role.FLOOR


def always_one(prefix: str) -> Callable[[], str]:
    key = f"{prefix}menu"
    return lambda: key


def always_new(prefix: str) -> Callable[[], str]:
    return lambda: f"{prefix}{next(_fresh)}"


def one_new_in_ten(prefix: str) -> Callable[[], str]:
    asked, key = count(1), f"{prefix}menu"
    return lambda: f"{prefix}{next(_fresh)}" if next(asked) % 10 == 0 else key


QUESTION: Final = Question(
    name="caches",
    title="Caches: one call of a cached function at a time",
    about=(
        "An async function that brings a dict of 1 or 64 KiB at once, behind the decorator of each cache, kept for ten "
        "minutes in Redis, as JSON where that can be said. The floor is redis-py doing GET (and SET after a miss) on "
        "bytes of that size, without decoding them. Whoever guards against stampedes only when told to does not here."
    ),
    columns=("us", "ratio", "cpu_us", "trips", "commands", "wire_bytes"),
    ask=ask,
)
