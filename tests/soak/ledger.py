"""What must be true of every answer of a store, from the moment that it was given, and why.

The ledger is told of each operation before it is sent and again when it was answered, by one thread that counts: so
"known before this was sent" is a comparison of two numbers, and holds whatever the network did meanwhile. A version is
new at every write (promise 1 of `stores/contract.py`), so it names its *writing* for ever: its bytes, its task, and the
writing it replaced. Writings form a chain, from a creation (`expect=ABSENT`) to a deletion; a chain is a *life* of its
key. From the contract follows, for every value and every conflict shown, every `Written` and every `Deleted`:

- **A version shows the bytes written with it, under its key** (1). Every value counts one task's increments on top of
  the one that it replaced, so what stands holds exactly the increments of its chain.
- **A writing is replaced, or deleted, once.** Compare-and-set: two that expected the same version and stood both mean
  that one of them is lost. So an acknowledged increment is in the chain of everything that stands later.
- **What was replaced or deleted is never shown again** to who asked after that was known (5: acknowledged; or shown to
  somebody, which no compare-and-set can take back).
- **A life ends by a deletion of its last version, or not at all** (4: an hour was asked for). If another life stands,
  or nothing does, that was known to stand before the question and that nobody may have deleted, it is lost; and if the
  other was created meanwhile, a key was claimed by two.
- **`Conflict`, `StoreUnavailable`, `StoreTimeout`: that writing never stands** (2, 3, 9), nor did it ever. After
  `WriteUncertain`, or a cancellation, both may be; for a delete, `Missing` too may mean that it was its own.
- **A conflict shows neither what was expected nor the refused writing itself** (3, 2).

**The hole.** A creation of which two copies were sent may stand twice, because it expects nothing, and nothing stands
there again once its record is deleted. Either the first copy is delayed on its way, the second acknowledged, the record
deleted, and then the first lands; or the first lands, its answer is lost, somebody deletes what it wrote, and then the
second creates it anew and is acknowledged. In both the version, the record as it was created, and whoever still expects
that version are back after an acknowledged deletion. (Any other second copy is refused: the version that it expects is
gone for ever.) The contract does not exclude it, so "sending again is safe" is not true of creations. It is counted
apart (`returned`), once a creation, and only if the wire carried two copies of it; what then follows is held to the
same rules, as a life of its own. Everything else that comes back is a violation.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Self

from serverless_session.errors import StoreUnavailable, WriteUncertain
from serverless_session.stores import (
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Failed,
    Found,
    Missing,
    Operation,
    Outcome,
    Read,
    Write,
    Written,
)

NAME_BYTES = 8
"""In front of every value: the name of its life."""


class Told(Enum):
    """What a writing's caller was told."""

    NOTHING = "nothing"
    """It is on its way, or uncertain, or was cancelled."""
    WRITTEN = "written"
    REFUSED = "refused"


@dataclass(slots=True, eq=False)
class Writing:
    """A write that was sent, known by its version."""

    key: str
    kept: bytes
    """How what is kept begins: the version and the name in front of the value. Only copies of the write carry both."""
    task: int
    digest: int
    replaces: Self | None
    life: "Life | None" = None
    told: Told = Told.NOTHING
    told_at: int = 0
    stood: bool = False
    ended: int | None = None
    """When it was known to be replaced or deleted."""
    deletions: int = 0
    """Those sent that may have removed it, and did not say so."""
    returned: bool = False


@dataclass(slots=True, eq=False)
class Life:
    """What stood under a key from a creation to a deletion; `last` is the newest writing known to have stood."""

    first: Writing
    last: Writing
    known: int
    ended: int | None = None

    def ended_before(self, moment: int) -> bool:
        return self.ended is not None and self.ended < moment


@dataclass(slots=True, eq=False)
class Sent:
    """An operation on its way: when it was sent, and the writing that it makes or would delete."""

    operation: Operation
    task: int
    at: int
    writing: Writing | None


class Ledger:
    """`was_sent_twice`: did the wire carry two copies of a write that has these bytes in it?"""

    def __init__(self, was_sent_twice: Callable[[bytes], bool]) -> None:
        self.violations: Counter[str] = Counter()
        self.first_trail: list[str] = []
        self.returned: Counter[str] = Counter()
        self._was_sent_twice = was_sent_twice
        self._now = 0
        self._writings: dict[bytes, Writing] = {}
        self._living: defaultdict[str, list[Life]] = defaultdict(list)
        self._trail: defaultdict[str, deque[tuple[int, Sent, Outcome | None]]] = defaultdict(lambda: deque(maxlen=40))

    def sent(self, task: int, operation: Operation) -> Sent:
        """About to be sent."""
        self._now += 1
        writing = None
        if not isinstance(operation, Read):
            expected = self._writings[operation.expect] if isinstance(operation.expect, bytes) else None
            if isinstance(operation, Delete):
                assert expected is not None, "with ANYTHING nothing can be known"
                expected.deletions += 1
                writing = expected
            else:
                assert operation.expect is not ANYTHING, "with ANYTHING nothing can be known"
                kept = operation.version + operation.value[:NAME_BYTES]
                writing = Writing(operation.key, kept, task, hash(operation.value), expected)
                self._writings[operation.version] = writing
        return Sent(operation, task, self._now, writing)

    def answered(self, sent: Sent, outcome: Outcome | None) -> Found | Missing | None:
        """What came of it (None: it was cancelled). What stood there then, for all that its caller can know."""
        self._now += 1
        operation = sent.operation
        self._trail[operation.key].append((self._now, sent, outcome))
        match operation, outcome:
            case (_, None) | ((Write() | Delete()), Failed(error=WriteUncertain())):
                return None
            case _, Failed(error=StoreUnavailable()):
                self._refused(sent)
                return None
            case Read(), Found() | Missing():
                return self._shown(sent, outcome)
            case Write(value=value, version=version), Written():
                assert sent.writing is not None
                sent.writing.told, sent.writing.told_at = Told.WRITTEN, self._now
                return self._shown(sent, Found(value, version))
            case Delete(), Deleted():
                self._deleted(sent)
                return Missing()
            case Delete(), Missing():
                return self._shown(sent, outcome)
            case Write() | Delete(), Conflict(stands=stands):
                self._refused(sent)
                if stands.meets(operation.expect):
                    self._violated(operation.key, "a conflict shows what was expected")
                elif isinstance(operation, Write) and stands.meets(operation.version):
                    self._violated(operation.key, "a write is in conflict with itself")
                return self._shown(sent, stands)
        self._violated(operation.key, f"a {type(operation).__name__} was answered by {type(outcome).__name__}")
        return None

    def close(self, standing: Mapping[str, tuple[Found | Missing, list[int]]]) -> int:
        """At the end, when all is quiet: what stands holds each task's increments exactly. How many there are."""
        counted = 0
        for key, (stands, increments) in standing.items():
            if isinstance(stands, Found) and (last := self._writings.get(stands.version)) is not None:
                life, made = last.life, Counter[int]()
                for writing in self._writings.values():
                    if writing.life is life and writing.replaces is not None and writing.stood:
                        made[writing.task] += 1
                if life is not None and life.first.replaces is None:
                    counted += sum(increments)
                    if increments != [made[task] for task in range(len(increments))]:
                        self._violated(key, "increments are missing, or were made up, at the end")
        return counted

    def uncertain(self) -> tuple[int, int]:
        """Of how many writings nobody was told what became of them, and how many of those were seen to stand."""
        open_ones = [writing.stood for writing in self._writings.values() if writing.told is Told.NOTHING]
        return len(open_ones), sum(open_ones)

    def _shown(self, sent: Sent, stands: Found | Missing) -> Found | Missing | None:
        """`stands` stood there at some moment between the question and now."""
        key = sent.operation.key
        if isinstance(stands, Missing):
            self._stood_alone(sent, None)
            return stands
        writing = self._writings.get(stands.version)
        if writing is None or writing.key != key:
            self._violated(key, "a version that nobody wrote there")
            return None
        if hash(stands.value) != writing.digest:
            self._violated(key, "a version with other bytes than were written")
            return None
        self._stood(sent, writing)
        return stands

    def _stood(self, sent: Sent, writing: Writing) -> None:
        if writing.life is not None and (
            (writing.ended is not None and writing.ended < sent.at) or writing.life.ended_before(sent.at)
        ):
            self._came_back(writing, "what had been replaced or deleted was shown again")
        if not writing.stood:
            self._join(writing)
        self._stood_alone(sent, writing.life)

    def _join(self, newest: Writing) -> None:
        """It stood, so all stood on which it was built, each replaced by the next alone."""
        chain = [newest]
        while (before := chain[-1].replaces) is not None and not before.stood:
            chain.append(before)
        if before is None:
            life = Life(chain[-1], newest, self._now)
            self._living[newest.key].append(life)
        else:
            assert before.life is not None
            if before.ended is not None or before.life.ended is not None:
                self._came_back(before, "what had been replaced or deleted was replaced (again)")
            life = before.life
        for writing in chain:
            if writing.told is Told.REFUSED:
                self._violated(writing.key, "a write stands that was said not to be done")
            writing.stood, writing.life = True, life
            if writing.replaces is not None:
                writing.replaces.ended = self._now
        life.last = newest

    def _stood_alone(self, sent: Sent, life: Life | None) -> None:
        """So whatever else was known to stand before the question has ended since."""
        for other in [one for one in self._living[sent.operation.key] if one is not life and one.known < sent.at]:
            if not other.last.deletions:
                claimed = life is not None and life.first is sent.writing and not isinstance(sent.operation, Delete)
                self._violated(sent.operation.key, "claimed by two" if claimed else "lost, and nobody deleted it")
            self._end(other)

    def _deleted(self, sent: Sent) -> None:
        writing = sent.writing
        assert writing is not None
        writing.deletions -= 1
        self._stood(sent, writing)
        if writing.ended is not None:
            self._came_back(writing, "what had been replaced or deleted was deleted (again)")
        assert writing.life is not None
        writing.ended = self._now
        self._end(writing.life)

    def _end(self, life: Life) -> None:
        if life.ended is None:
            life.ended = self._now
            self._living[life.first.key].remove(life)

    def _refused(self, sent: Sent) -> None:
        writing = sent.writing
        if writing is not None and isinstance(sent.operation, Delete):
            writing.deletions -= 1
        elif writing is not None:
            writing.told = Told.REFUSED
            if writing.stood:
                self._violated(writing.key, "a write stands that was said not to be done")

    def _came_back(self, writing: Writing, how: str) -> None:
        if self._may_come_back(writing):
            assert writing.life is not None
            deleted = writing.life.ended if writing.life.ended is not None else self._now
            told = writing.told is Told.WRITTEN and writing.told_at < deleted
            self.returned["after it was acknowledged" if told else "before it was acknowledged"] += 1
        else:
            self._violated(writing.key, how)
        writing.returned, writing.ended = True, None
        writing.life = Life(writing, writing, self._now)
        self._living[writing.key].append(writing.life)

    def _may_come_back(self, writing: Writing) -> bool:
        """A second copy lands where nothing stands, or on what came back itself."""
        if writing.returned or not self._was_sent_twice(writing.kept):
            return False
        return writing.replaces is None or writing.replaces.returned or self._may_come_back(writing.replaces)

    def _violated(self, key: str, what: str) -> None:
        if not self.violations:
            self.first_trail = [_line(*entry) for entry in self._trail[key]]
        self.violations[what] += 1


def _line(now: int, sent: Sent, outcome: Outcome | None) -> str:
    """For the trail that leads to a violation: versions are random and worth nothing, so their beginnings are shown."""

    def mark(version: object) -> str:
        return version[:3].hex() if isinstance(version, bytes) else str(version).rpartition(".")[2]

    operation = sent.operation
    asked = type(operation).__name__.lower()
    if not isinstance(operation, Read):
        asked += f" {mark(operation.expect)}"
    if isinstance(operation, Write):
        asked += f" -> {mark(operation.version)}"
    stands = outcome.stands if isinstance(outcome, Conflict) else outcome
    shown = f" {mark(stands.version)}" if isinstance(stands, Found) else ""
    told = type(outcome.error if isinstance(outcome, Failed) else outcome).__name__ if outcome else "cancelled"
    return f"{sent.at:>9}-{now:<9} task {sent.task:<3} {asked:<26} {told}{shown}"
