"""Every way in which two copies of an operation, their answers and another process's deed can fall, enumerated.

A copy may not leave, be lost, be answered, lose its answer, land late, after the caller has its outcome, or meet a
server that is full and refuses it. Between any two of these somebody else may overwrite or delete what stands there. No
outcome may be contradicted by what landed.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product

import pytest

from serverless_session.errors import StoreTimeout, StoreUnavailable, WriteUncertain
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Expected,
    Failed,
    Found,
    Limits,
    Missing,
    Operation,
    Outcome,
    Read,
    Version,
    Write,
    Written,
    new_version,
    settling,
)
from serverless_session.stores.settling import Attempt, Call, GivenUp, LinkBroken, settle

OLD, NEW = Version(b"old-----"), Version(b"new-----")
LIMITS = Limits(largest_value_bytes=100)

UNSENT, LOST, ANSWERED, ANSWER_LOST, LATE, FULL = "unsent", "lost", "answered", "answer lost", "late", "full"
FATES = [UNSENT, LOST, ANSWERED, ANSWER_LOST, LATE, FULL]
DEEDS = ["nothing", "overwrites", "deletes"]


@dataclass
class Server:
    """One key of a store that keeps the contract. `landed`: at which steps the operation under test changed it."""

    stands: Version | None
    step: int = 0
    landed: list[int] = field(default_factory=list)
    others: list[tuple[int, str]] = field(default_factory=list)

    def do(self, operation: Operation) -> Outcome:
        self.step += 1
        stands = Missing() if self.stands is None else Found(b"", self.stands)
        match operation:
            case Read():
                return stands
            case Write(version=version, expect=expect):
                if stands.meets(expect):
                    self.stands = version
                    self.landed.append(self.step)
                elif not stands.meets(version):
                    return Conflict(stands)
                return Written()
            case Delete(expect=expect):
                if isinstance(stands, Missing):
                    return stands
                if not stands.meets(expect):
                    return Conflict(stands)
                self.stands = None
                self.landed.append(self.step)
                return Deleted()

    def another(self, deed: str) -> None:
        self.step += 1
        if deed == "overwrites":
            self.stands = new_version()
        elif deed == "deletes":
            self.stands = None
        if deed != "nothing":
            self.others.append((self.step, deed))


@dataclass
class Case:
    """How it goes: the fates of the two copies, and what another does between them and after the outcome."""

    operation: Operation
    begins_with: Version | None
    fates: tuple[str, str]
    deeds: tuple[str, str]

    def play(self) -> tuple[Outcome, Server]:
        server = Server(self.begins_with)
        late: list[Operation] = []
        fates = iter(self.fates)

        async def carry(attempt: Attempt, ends: float, again: bool) -> None:
            if again:
                server.another(self.deeds[0])
            fate = next(fates)
            if fate == UNSENT:
                raise LinkBroken("could not be connected")
            attempt.send(0)
            if fate == LATE:
                late.append(attempt.waiting[0])
            if fate == FULL:
                attempt.answer(0, Failed(StoreUnavailable("the server is full")))
                return
            if fate in (LOST, LATE):
                raise LinkBroken("did not answer", timed_out=True)
            outcome = server.do(attempt.waiting[0])
            if fate == ANSWER_LOST:
                raise LinkBroken("broke the connection")
            attempt.answer(0, outcome)

        call = Call(enumerate([self.operation]), LIMITS, server="store", where="here")
        asyncio.run(settle(call, carry, allowed=1.0))
        server.step += 1
        self.answered_at = server.step
        server.another(self.deeds[1])
        for copy in late:
            server.do(copy)
        return call.outcomes[0], server


def cases(*operations: tuple[Operation, Version | None]) -> Iterator[Case]:
    for (operation, begins_with), *fates_and_deeds in product(operations, FATES, FATES, DEEDS, DEEDS):
        first, second, between, after = fates_and_deeds
        yield Case(operation, begins_with, (first, second), (between, after))


def write(expect: Expected) -> Write:
    return Write("a", b"", ttl=1, version=NEW, expect=expect)


SETTLED: list[tuple[Operation, Version | None]] = [
    (write(ABSENT), None),
    (write(ABSENT), OLD),
    (write(OLD), OLD),
    (write(OLD), None),
    (write(OLD), new_version()),
    (Delete("a", expect=OLD), OLD),
    (Delete("a", expect=OLD), None),
    (Delete("a", expect=OLD), new_version()),
]


def contradiction(case: Case, outcome: Outcome, server: Server) -> str | None:
    """What landed, held against what the caller was told."""
    landed = [step for step in server.landed if step <= case.answered_at]
    landed_late = len(server.landed) > len(landed)
    match outcome:
        case Written() | Deleted():
            if not landed:
                return "it was said to be done, and never was"
            overtaken = any(step > landed[-1] for step, _ in server.others)
            if not overtaken and server.stands != (NEW if isinstance(outcome, Written) else None):
                return "it was done, and does not stand"
            if landed_late:
                return "a late copy landed after it had been settled"
        case Conflict(stands=stands):
            if server.landed:
                return "it was said to be refused, and landed"
            if isinstance(stands, Found) and stands.meets(getattr(case.operation, "expect", ABSENT)):
                return "a conflict showed what was expected"
        case Missing():
            if landed_late:
                return "a late copy landed after it had been settled"
        case Failed(error=WriteUncertain()):
            if case.fates[0] == case.fates[1] == UNSENT:
                return "nothing was ever sent"
        case Failed(error=StoreUnavailable()):
            if server.landed:
                return "it was said not to be done, and landed"
        case _:
            return f"{outcome} cannot be"
    return None


def is_the_known_hole(case: Case) -> bool:
    """A late copy of a creation, when what the second copy created has been deleted: the contract's rule 2 names it."""
    return isinstance(case.operation, Write) and case.operation.expect is ABSENT and "deletes" in case.deeds


def contradictions() -> list[str]:
    found = []
    for case in cases(*SETTLED):
        outcome, server = case.play()
        told = contradiction(case, outcome, server)
        if told and not is_the_known_hole(case):
            found.append(f"{case}: {outcome}: {told}")
    return found


def test_no_outcome_is_contradicted_by_what_landed() -> None:
    assert len(list(cases(*SETTLED))) == 8 * 36 * 9
    assert contradictions() == []


def test_only_a_creation_can_come_late_to_a_place_that_was_emptied() -> None:
    """The hole has exactly this form: the first copy is late, the second was done, and then somebody deleted it."""
    holes = []
    for case in cases(*SETTLED):
        outcome, server = case.play()
        if contradiction(case, outcome, server):
            holes.append((case.fates, case.deeds[1], outcome))
    assert holes
    assert {(fates, deed) for fates, deed, _ in holes} == {((LATE, ANSWERED), "deletes")}
    assert {type(outcome) for _, _, outcome in holes} == {Written}


def test_only_a_creation_can_be_done_twice() -> None:
    """The hole's other form: its first answer was lost, somebody deleted it, the second copy creates it anew."""
    twice = []
    for case in cases(*SETTLED):
        _, server = case.play()
        if len([step for step in server.landed if step <= case.answered_at]) > 1:
            twice.append((case.operation, case.fates[0], case.deeds[0]))
    assert {(fate, deed) for _, fate, deed in twice} == {(ANSWER_LOST, "deletes")}
    assert all(isinstance(operation, Write) and operation.expect is ABSENT for operation, _, _ in twice)


def broken_refusals(self: Attempt, place: int, outcome: Outcome) -> None:
    """As if a refusal of the second copy proved something."""
    self._call.outcomes[place] = outcome
    del self._call.waiting[place]
    self._unanswered.discard(place)


def broken_doubt(self: Call, broken: LinkBroken, allowed: float, *, in_doubt: bool) -> StoreUnavailable:
    """As if what was not answered had not been done."""
    return StoreUnavailable("broken")


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [(Attempt, "answer", broken_refusals), (Call, "_failure", broken_doubt)],
    ids=["a refusal after a lost answer is believed", "no answer means not done"],
)
def test_the_enumeration_catches_a_broken_rule(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, broken: Callable[..., object]
) -> None:
    monkeypatch.setattr(owner, name, broken)
    assert len(contradictions()) > 10


def test_the_enumeration_catches_a_second_copy_with_a_version_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fresh(Attempt):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            again = bool(self._in_doubt)
            for place, operation in self.waiting.items():
                if again and isinstance(operation, Write):
                    self.waiting[place] = Write("a", b"", ttl=1, version=new_version(), expect=operation.expect)

    monkeypatch.setattr(settling, "Attempt", Fresh)
    assert len(contradictions()) == 4


@pytest.mark.parametrize("operation", [write(ANYTHING), Delete("a", expect=ANYTHING)])
def test_what_expects_anything_is_sent_once(operation: Operation) -> None:
    """Its late copy would land on whatever stands there then."""
    for case in cases((operation, OLD), (operation, None)):
        outcome, server = case.play()
        if case.fates[0] == ANSWERED:
            assert isinstance(outcome, Written | Deleted | Missing)
        elif case.fates[0] in (UNSENT, FULL):
            assert isinstance(outcome, Failed)
            assert isinstance(outcome.error, StoreUnavailable)
        else:
            assert isinstance(outcome, Failed)
            assert isinstance(outcome.error, WriteUncertain)
            assert len(server.landed) <= 1


def test_a_read_is_read_again_and_then_fails_for_sure() -> None:
    for case in cases((Read("a"), OLD), (Read("a"), None)):
        outcome, _ = case.play()
        assert isinstance(outcome, Found | Missing | Failed)
        if isinstance(outcome, Failed):
            assert ANSWERED not in case.fates[: 1 if case.fates[0] in (UNSENT, FULL) else 2]
            timed_out = case.fates[0] not in (UNSENT, FULL) and case.fates[1] in (LOST, LATE)
            assert type(outcome.error) is (StoreTimeout if timed_out else StoreUnavailable)


def test_what_is_answered_stays_answered_when_the_rest_is_sent_again() -> None:
    operations: list[Operation] = [
        write(ABSENT),
        Read("b"),
        Delete("c", expect=OLD),
        Write("d", b"", ttl=1, version=NEW, expect=OLD),
    ]
    attempts: list[list[int]] = []

    async def carry(attempt: Attempt, ends: float, again: bool) -> None:
        attempts.append(list(attempt.waiting))
        if not again:
            attempt.send(0, 1, 2)
            attempt.answer(0, Conflict(Missing()))
            raise LinkBroken("broke the connection")
        assert [attempt.is_in_doubt(place) for place in range(4)] == [False, False, True, False]
        attempt.send(1, 2, 3)
        attempt.answer(1, Missing())
        attempt.answer(2, Conflict(Missing()))
        attempt.answer(3, Conflict(Missing()))

    call = Call(enumerate(operations), LIMITS, server="store", where="here")
    asyncio.run(settle(call, carry, allowed=1.0))
    assert attempts == [[0, 1, 2, 3], [1, 2, 3]]
    assert (call.outcomes[0], call.outcomes[1]) == (Conflict(Missing()), Missing())
    assert isinstance(call.outcomes[2], Failed)
    assert call.outcomes[3] == Conflict(Missing()), "it had never been sent, so its refusal is one"


def test_an_attempt_that_was_given_up_can_neither_send_nor_answer() -> None:
    """A thread that its caller has left behind must not carry out what the caller was told is not."""
    call = Call(enumerate([write(ABSENT)]), LIMITS, server="store", where="here")
    attempt = call.attempt()
    attempt.give_up()
    uses: list[Callable[[], None]] = [lambda: attempt.send(0), attempt.look, lambda: attempt.answer(0, Written())]
    for use in uses:
        with pytest.raises(GivenUp):
            use()
    call.broke(LinkBroken("did not answer", timed_out=True), 1.0, last=True)
    assert isinstance(call.outcomes[0], Failed)
    assert type(call.outcomes[0].error) is StoreTimeout


def test_what_the_server_refused_as_a_whole_was_not_done() -> None:
    async def carry(attempt: Attempt, ends: float, again: bool) -> None:
        assert not again
        attempt.send(0)
        raise LinkBroken("refused the connection", refused=True)

    call = Call(enumerate([write(ABSENT)]), LIMITS, server="store", where="here")
    asyncio.run(settle(call, carry, allowed=1.0))
    assert isinstance(call.outcomes[0], Failed)
    assert type(call.outcomes[0].error) is StoreUnavailable


@pytest.mark.parametrize("operation", [write(ABSENT), Delete("a", expect=OLD)])
def test_a_failure_of_the_second_copy_says_nothing_of_the_first(operation: Operation) -> None:
    """A primary carries it out and dies; the replica that took over may not write."""

    async def carry(attempt: Attempt, ends: float, again: bool) -> None:
        attempt.send(0)
        if not again:
            raise LinkBroken("broke the connection")
        attempt.answer(0, Failed(StoreUnavailable("refused a command")))

    call = Call(enumerate([operation]), LIMITS, server="store", where="here")
    asyncio.run(settle(call, carry, allowed=1.0))
    assert isinstance(call.outcomes[0], Failed)
    assert type(call.outcomes[0].error) is WriteUncertain


def test_what_is_too_large_is_settled_before_anything_is_sent() -> None:
    async def carry(attempt: Attempt, ends: float, again: bool) -> None:
        raise AssertionError("nothing is left to send")

    large = Write("a", bytes(101), ttl=1, version=NEW, expect=ABSENT)
    call = Call(enumerate([large]), LIMITS, server="store", where="here")
    asyncio.run(settle(call, carry, allowed=1.0))
    assert isinstance(call.outcomes[0], Failed)
