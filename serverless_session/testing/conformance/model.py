"""Any sequence of calls, against a model that is too small to be wrong. Hypothesis makes the sequences.

The model knows the contract's corners: what it allows to differ (a value that has expired and was not replaced) is more
than one allowed outcome, and the model goes on from the one that was given. A sequence that fails is made as short as
possible and told step by step.
"""

from __future__ import annotations

import asyncio
import unittest
from dataclasses import dataclass, field
from typing import Literal, get_args

from serverless_session.stores.contract import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Expected,
    Found,
    Missing,
    Operation,
    Outcome,
    Read,
    Store,
    Version,
    Write,
    Written,
    new_version,
)
from serverless_session.testing.conformance.trial import Trial
from serverless_session.testing.conformance.verdicts import TABLE, ask, expired, judge
from serverless_session.testing.operations import new_key, write

CALLS = 25
PLACES = 4
VALUES = (b"", b"a", b"b", b"\0\r\n\xff", bytes(300))

Kind = Literal["read", "write", "delete", "send again"]
Aim = Literal["what stands", "absent", "anything", "an earlier version", "a version that never was"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation of a call, as Hypothesis draws it: what to do at which place, and what to expect there."""

    place: int
    kind: Kind
    aim: Aim
    value: bytes
    look_first: bool


@dataclass(slots=True)
class Place:
    """One key, as the contract says it must be. `ended`: what has expired there and was not replaced."""

    key: str
    stands: Found | Missing = field(default_factory=Missing)
    ended: Version | None = None
    sent: list[Write] = field(default_factory=list)
    earlier: list[Version] = field(default_factory=list)

    def allowed(self, operation: Operation) -> list[Outcome]:
        """The outcomes that the contract allows now."""
        match operation:
            case Read():
                return [self.stands]
            case Write(version=version, expect=expect):
                if self.stands.meets(expect) or self.stands.meets(version):
                    return [Written()]
                ended = self.ended is not None and self.ended in (expect, version)
                return [Conflict(self.stands), *([Written()] if ended else [])]
            case Delete(expect=expect):
                if isinstance(self.stands, Found):
                    return [Deleted() if self.stands.meets(expect) else Conflict(self.stands)]
                if self.ended is None:
                    return [Missing()]
                return [Missing(), Deleted() if expect in (ANYTHING, self.ended) else Conflict(Missing())]

    def follow(self, operation: Operation, outcome: Outcome) -> None:
        """What stands there after this outcome."""
        if isinstance(operation, Write) and outcome == Written():
            self.stands, self.ended = Found(operation.value, operation.version), None
            self.sent.append(operation)
            self.earlier.append(operation.version)
        elif outcome == Deleted():
            self.stands, self.ended = Missing(), None

    def operation(self, step: Step) -> Operation:
        """The operation that a step is, here and now."""
        if step.kind == "read":
            return Read(self.key)
        if step.kind == "send again" and self.sent:
            return self.sent[-1] if step.look_first else self.sent[-2:][0]
        expect = self._expected(step.aim)
        if step.kind == "delete":
            return Delete(self.key, expect=new_version() if expect is ABSENT else expect)
        return write(self.key, step.value, expect=expect, look_first=step.look_first)

    def _expected(self, aim: Aim) -> Expected:
        match aim:
            case "what stands":
                return self.stands.version if isinstance(self.stands, Found) else self.ended or ABSENT
            case "absent":
                return ABSENT
            case "anything":
                return ANYTHING
            case "an earlier version" if self.earlier:
                return self.earlier[0]
            case _:
                return new_version()


class Places:
    """Keys for the sequences: free ones, and some under which something has expired, made many at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._expired: list[tuple[str, Version]] = []

    async def take(self) -> list[Place]:
        """Places of one sequence."""
        if not self._expired:
            self._expired = await expired(self._store, 40)
        key, version = self._expired.pop()
        return [Place(key, ended=version, earlier=[version]), *(Place(new_key()) for _ in range(PLACES - 1))]


async def carry_out(store: Store, asked: list[tuple[Place, Operation]]) -> None:
    """One call, whose outcomes the model must allow."""
    outcomes = await ask(store, *(operation for _, operation in asked))
    for (place, operation), outcome in zip(asked, outcomes, strict=True):
        judge(operation, outcome, *place.allowed(operation), rule=TABLE, because="so says the model")
        place.follow(operation, outcome)


async def look(store: Store, places: list[Place]) -> None:
    """What stands everywhere is what the model says."""
    reads = [Read(place.key) for place in places]
    for read, place, outcome in zip(reads, places, await ask(store, *reads), strict=True):
        judge(read, outcome, place.stands, rule=TABLE, because="so says the model")


async def follow(store: Store, places: list[Place], calls: list[list[Step]]) -> None:
    """The calls, one after the other; after each of them everything is looked at."""
    for steps in calls:
        at = [places[step.place] for step in steps]
        await carry_out(store, [(place, place.operation(step)) for place, step in zip(at, steps, strict=True)])
        await look(store, places)


class ModelChecks(Trial):
    """The store against the model."""

    def test_any_sequence_of_calls_does_what_the_model_does(self) -> None:
        try:
            import hypothesis
            from hypothesis import strategies as st
        except ImportError:
            raise unittest.SkipTest("the model needs Hypothesis: pip install hypothesis") from None
        step = st.builds(
            Step,
            place=st.integers(0, PLACES - 1),
            kind=st.sampled_from(get_args(Kind)),
            aim=st.sampled_from(get_args(Aim)),
            value=st.sampled_from(VALUES),
            look_first=st.booleans(),
        )
        call = st.lists(step, min_size=1, max_size=PLACES, unique_by=lambda step: step.place)
        sequence = st.integers(0, CALLS).flatmap(lambda count: st.lists(call, min_size=count, max_size=count))
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner, self.telling_the_seed():
            store = runner.run(self.open_store())
            places = Places(store)

            @hypothesis.seed(self.dice().randrange(1 << 32))
            @hypothesis.settings(
                max_examples=self.examples,
                deadline=None,
                database=None,
                phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
                print_blob=False,
                report_multiple_bugs=False,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(calls=sequence)
            def does_as_the_model(calls: list[list[Step]]) -> None:
                async def one_sequence() -> None:
                    await follow(store, await places.take(), calls)

                runner.run(self.timed(one_sequence))

            try:
                does_as_the_model()
            finally:
                runner.run(store.aclose())
