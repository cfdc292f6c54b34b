"""Who asks what, and when: many tasks after a handful of keys, in a hurry, and often cancelled.

Each task goes by what it was last told of a key, which is often stale: so it reads, creates, adds one to its own
counter by compare-and-set, or deletes, one or several keys in a call, through one of several store objects, each of
them a sandbox of its own. A value is the random name of its life and one counter a task.
"""

import asyncio
import os
import random
import struct
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from serverless_session.deadline import within
from serverless_session.stores import (
    ABSENT,
    Delete,
    Expected,
    Failed,
    Found,
    Missing,
    Operation,
    Outcome,
    Read,
    Store,
    Write,
    new_version,
)
from tests.soak.ledger import NAME_BYTES, Ledger, Sent

LASTING = [f"soak-lasting-{number}" for number in range(2)]
"""Keys that nobody deletes, so that their counters grow from the first to the last second."""
KEYS = [*LASTING, *(f"soak-{number}" for number in range(6))]

HOUR = 3600.0
DEADLINES = (0.1, 0.2, 0.2, 0.5, 1.0)
CANCELLED, PATIENCE = 0.04, 0.03
"""How many calls are cancelled, and within how many seconds."""

_COUNTER_BYTES = 4


@dataclass
class Report:
    """What was asked, what came of it, and by how many seconds each call overran its deadline (below 0: it did not)."""

    ledger: Ledger
    operations: int = 0
    calls: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    overruns: "array[float]" = field(default_factory=lambda: array("d"))
    seconds: float = 0.0
    increments: int = 0

    def note(self, operation: Operation, outcome: Outcome | None) -> None:
        self.operations += 1
        asked = type(operation).__name__.lower()
        if isinstance(operation, Write):
            asked = "create" if operation.expect is ABSENT else "replace"
        told = outcome.error if isinstance(outcome, Failed) else outcome
        self.outcomes[asked, type(told).__name__ if told is not None else "cancelled"] += 1

    def overrun(self, share: float = 1.0) -> float:
        """The seconds that `share` of the calls did not exceed."""
        return sorted(self.overruns)[int(share * (len(self.overruns) - 1))]


async def race(
    stores: Sequence[Store],
    report: Report,
    *,
    direct: Store,
    operations: int,
    tasks: int = 64,
    seed: int = 0,
    quiet: float = 1.0,
) -> None:
    """Ask until `operations` were asked; when the last late copy has landed (`quiet` seconds), look at what stands.

    `stores`: those that race, behind what makes them fail; `direct`: the same without. Ends early once the violations
    are too many to tell anything.
    """
    begun = time.monotonic()

    def done() -> bool:
        return report.operations >= operations or report.ledger.violations.total() > 100

    async with asyncio.TaskGroup() as together:
        for number in range(tasks):
            together.create_task(_Task(number, tasks, stores, report, random.Random(seed * 1000 + number)).run(done))
    await asyncio.sleep(quiet)
    standing = {}
    for key in KEYS:
        for _ in range(2):  # what was in doubt until now, the first look settles
            sent = report.ledger.sent(0, Read(key))
            stands = await direct.read(key)
            report.ledger.answered(sent, stands)
            standing[key] = stands, _counters(stands)
    report.increments = report.ledger.close(standing)
    report.seconds = time.monotonic() - begun


def _counters(stands: Found | Missing) -> list[int]:
    if isinstance(stands, Missing):
        return []
    tasks = (len(stands.value) - NAME_BYTES) // _COUNTER_BYTES
    return list(struct.unpack_from(f"<{tasks}I", stands.value, NAME_BYTES))


class _Task:
    def __init__(self, number: int, of: int, stores: Sequence[Store], report: Report, chance: random.Random) -> None:
        self._number, self._of = number, of
        self._stores = stores
        self._report = report
        self._chance = chance
        self._told: dict[str, Found | Missing] = {}

    async def run(self, done: Callable[[], bool]) -> None:
        while not done():
            await self._call()

    async def _call(self) -> None:
        chance, report = self._chance, self._report
        store, limit = chance.choice(self._stores), chance.choice(DEADLINES)
        patience = chance.uniform(0, PATIENCE) if chance.random() < CANCELLED else None
        operations = [self._operation(key) for key in chance.sample(KEYS, chance.choice((1, 1, 1, 1, 2, 4)))]
        sent = [report.ledger.sent(self._number, operation) for operation in operations]
        begun = time.monotonic()
        outcomes: Sequence[Outcome | None]
        cancelling = asyncio.timeout(patience)
        try:
            with within(limit):
                async with cancelling:
                    outcomes = await store.perform(*operations)
        except TimeoutError:
            if not cancelling.expired():
                raise
            outcomes = [None] * len(operations)
        allowed = limit if patience is None else min(limit, patience)
        report.overruns.append(time.monotonic() - begun - allowed)
        report.calls += 1
        for one, outcome in zip(sent, outcomes, strict=True):
            self._learn(one, outcome)

    def _learn(self, sent: Sent, outcome: Outcome | None) -> None:
        self._report.note(sent.operation, outcome)
        stands = self._report.ledger.answered(sent, outcome)
        if stands is not None:
            self._told[sent.operation.key] = stands
        elif self._chance.random() < 0.5:
            self._told.pop(sent.operation.key, None)  # else it goes on as if nothing had come of it

    def _operation(self, key: str) -> Operation:
        chance, told = self._chance, self._told.get(key)
        dice = chance.random()
        if told is None or dice < 0.25:
            return Read(key)
        if isinstance(told, Missing) or dice < 0.3:
            value = os.urandom(NAME_BYTES) + bytes(_COUNTER_BYTES * self._of)
            return self._write(key, value, ABSENT)
        if dice < 0.42 and key not in LASTING:
            return Delete(key, expect=told.version)
        grown, place = bytearray(told.value), NAME_BYTES + _COUNTER_BYTES * self._number
        struct.pack_into("<I", grown, place, struct.unpack_from("<I", grown, place)[0] + 1)
        return self._write(key, bytes(grown), told.version)

    def _write(self, key: str, value: bytes, expect: Expected) -> Write:
        look_first = self._chance.random() < 0.3
        return Write(key, value, ttl=HOUR, version=new_version(), expect=expect, look_first=look_first)
