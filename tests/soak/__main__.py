"""`python -m tests.soak`: the race, its faults and its table; exit code 1 if anything was lost or undone."""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from serverless_session.stores import MemoryStore, Store
from serverless_session.stores.contract import VERSION_BYTES
from serverless_session.stores.opening import open_anew
from tests import chaos, servers
from tests.chaos import Chaos
from tests.soak import faulty
from tests.soak.faulty import LossyStore
from tests.soak.ledger import Ledger
from tests.soak.race import Report, race

SERVERS = MappingProxyType({"valkey": servers.valkey, "redis7": servers.redis, "memcached": servers.memcached})
USUAL_OVERRUN = 0.5
"""Of 99.9 % of the calls; 0.1 s measured."""
LONGEST_OVERRUN = 5.0
"""Seconds beyond its deadline in which a call must end even on a machine that has too much to do."""


@dataclass
class Field:
    """Two sandboxes' stores behind faults, the same store without, and what is known of the faults."""

    stores: list[Store]
    direct: Store
    was_sent_twice: Callable[[bytes], bool]
    injected: Callable[[], Mapping[str, int]]
    quiet: float


@contextmanager
def field(name: str, seed: int) -> Iterator[Field]:
    """The store `name`, two objects of it side by side; a server is started and a faulty wire put before it."""
    if name == "memory":
        sent_twice = set[bytes]()
        memory = MemoryStore()
        both = [LossyStore(memory, seed=seed + number, sent_twice=sent_twice) for number in range(2)]
        yield Field(
            [*both],
            memory,
            lambda kept: kept[:VERSION_BYTES] in sent_twice,
            lambda: both[0].injected + both[1].injected,
            faulty.LATE + 0.2,
        )
        return
    with SERVERS[name]() as server, Chaos(server, seed=seed) as wire:
        yield Field(
            [open_anew(wire.url), open_anew(wire.url)],
            open_anew(server.url),
            lambda kept: wire.copies(kept) > 1,
            lambda: {fault.value: times for fault, times in wire.injected.items()},
            chaos.LATE + chaos.PAUSE + 0.2,
        )


async def run(here: Field, *, operations: int, tasks: int, seed: int, progress: bool = False) -> Report:
    """The race on `here`, from its first operation to the last look."""
    report = Report(Ledger(here.was_sent_twice))
    telling = asyncio.ensure_future(_tell(report, operations)) if progress else None
    try:
        await race(
            here.stores, report, direct=here.direct, operations=operations, tasks=tasks, seed=seed, quiet=here.quiet
        )
    finally:
        if telling is not None:
            telling.cancel()
        for store in (*here.stores, here.direct):
            await store.aclose()
    return report


async def _tell(report: Report, of: int) -> None:
    begun = time.monotonic()
    while True:
        await asyncio.sleep(5)
        rate = report.operations / (time.monotonic() - begun)
        violations, returned = report.ledger.violations.total(), report.ledger.returned.total()
        print(
            f"{report.operations:>9,} of {of:,}, {rate:,.0f} a second; violations {violations}, returned {returned}",
            file=sys.stderr,
            flush=True,
        )


def table(name: str, seed: int, report: Report, injected: Mapping[str, int]) -> str:
    ledger = report.ledger
    uncertain, stood = ledger.uncertain()
    lines = [
        f"{name}, seed {seed}: {report.operations:,} operations in {report.calls:,} calls, {report.seconds:.0f} s",
        "",
        *(f"  {asked:<8} {told:<18} {times:>10,}" for (asked, told), times in sorted(report.outcomes.items())),
        "",
        *(f"  fault    {fault:<32} {times:>9,}" for fault, times in sorted(injected.items(), key=lambda one: -one[1])),
        "",
        f"  of {uncertain:,} writes nobody was told whether they stand; {stood:,} of them were seen to",
        f"  increments that stand at the end, each accounted for: {report.increments:,}",
        f"  over the deadline: 99.9 % of calls at most {max(report.overrun(0.999), 0):.3f} s, the worst"
        f" {max(report.overrun(), 0):.3f} s",
        f"  created, deleted, and back by a second copy of the creation: {ledger.returned.total()}",
        *(f"    {times:,} x {what}" for what, times in ledger.returned.items()),
        f"  violations: {ledger.violations.total()}",
        *(f"    {times:,} x {what}" for what, times in ledger.violations.items()),
        *(f"      {line}" for line in ledger.first_trail),
    ]
    return "\n".join(lines)


def failed(report: Report) -> bool:
    too_late = report.overrun(0.999) > USUAL_OVERRUN or report.overrun() > LONGEST_OVERRUN
    return report.ledger.violations.total() > 0 or too_late


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--store", choices=["memory", *SERVERS], default="valkey")
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="default: random")
    asked = parser.parse_args()
    print(f"seed {asked.seed}", file=sys.stderr)
    with field(asked.store, asked.seed) as here:
        report = asyncio.run(run(here, operations=asked.operations, tasks=asked.tasks, seed=asked.seed, progress=True))
        print(table(asked.store, asked.seed, report, here.injected()))
    return int(failed(report))


if __name__ == "__main__":
    sys.exit(main())
