"""Every order in which readers of one value, writers of its source and invalidations can run, over a real store.

A reader finds the value or computes it from the source, and keeps it; a step is one operation of the store, or the look
at the source. `orders` of `tests.sessions.interleaving` takes each choice of who goes next once.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from serverless_session.records import leases, tags
from serverless_session.records.leases import Computed, Ends, Entry, Lease, Place, Terms
from serverless_session.records.steps import Ask, Pause, Steps, Told
from serverless_session.shared import SharedState
from serverless_session.stores import MemoryStore, Operation, Outcome
from serverless_session.testing import ManualClock
from tests.sessions.apps import SECRET
from tests.sessions.interleaving import done, orders, result_of, some_orders

_T = TypeVar("_T")
Task = Generator[None, None, None]

LEASE = 10.0
FRESH, STALE, ERROR = 100.0, 200.0, 300.0


@dataclass
class World:
    """One run: a store, a clock, and the source that values are computed from."""

    backwards: bool = False
    """The operations of one call run in the opposite order: a store may take any."""
    source: int = 1
    must_be: int = 1
    """What nobody who asks from now on may be shown less than: an invalidation was confirmed."""
    shown: list[tuple[int, int]] = field(default_factory=list)
    """What a reader was shown, and what it had to be at least."""
    computed: int = 0
    find: Callable[..., Steps[leases.Found]] = leases.find
    keep: Callable[..., Steps[bool]] = leases.keep
    late: Callable[..., Steps[Any]] = tags.late
    invalidate: Callable[..., Steps[None]] = leases.invalidate

    def __post_init__(self) -> None:
        self.clock = ManualClock(1_000_000.0)
        self.store = MemoryStore(clock=self.clock)
        shared = SharedState(self.store, secret_key=SECRET, clock=self.clock)
        self.records = shared.records("cache")
        self.place = Place(self.records.key(b"value"))
        self.tag = self.records.key(b"tag", b"menu")
        self.watch = self.records.key(b"watch")
        self.tagged = self.place._replace(tags=[self.tag])

    def steps(self, steps: Steps[_T], begins: Callable[[], None] = lambda: None) -> Generator[None, None, _T]:
        try:
            asked = next(steps)
            while True:
                match asked:
                    case Ask(operations):
                        outcomes: dict[int, Outcome] = {}
                        places = list(range(len(operations)))
                        for place in reversed(places) if self.backwards else places:
                            yield
                            begins()
                            outcomes[place] = self._perform(operations[place])
                        asked = steps.send(Told([outcomes[place] for place in places], self.clock.time()))
                    case Pause():
                        yield
                        asked = steps.send(Told((), self.clock.time()))
        except StopIteration as stop:
            result: _T = stop.value
            return result

    def run(self, steps: Steps[_T]) -> _T:
        """All of it at once."""
        return result_of(self.steps(steps))

    def load(self, packed: bytes, is_error: bool) -> Any:
        return self.records.unpack(packed)

    def _perform(self, operation: Operation) -> Outcome:
        (outcome,) = done(self.records.perform(operation))
        kept: Outcome = outcome
        return kept

    # --- who takes part -----------------------------------------------------------------------------------------------

    def reader(
        self,
        place: Place,
        terms: Terms | None = None,
        *,
        fails: bool = False,
        dies: bool = False,
        late: Sequence[str] = (),
    ) -> Task:
        """He asks with the first operation, looks at the source, and keeps what he has made of it.

        `late`: tags that he gives the value once it is computed.
        """
        must_be = 0
        given = terms or Terms(lease=LEASE, patience=0.0)

        def asks() -> None:
            nonlocal must_be
            must_be = must_be or self.must_be

        found = yield from self.steps(self.find(place, given, self.load, self.clock.time()), asks)
        if isinstance(found, Entry):
            self.shown.append((found.value, must_be))
            return
        assert isinstance(found, Lease)
        if dies:
            return
        watch = (yield from self.steps(tags.watched(self.watch))) if late else None
        yield
        value = self.source
        self.computed += 1
        if fails:
            yield from self.steps(leases.give_back(found))
            return
        self.shown.append((value, must_be))
        stamps = yield from self.steps(self.late(late, found.stamps, self.watch, watch))
        if stamps is None:
            yield from self.steps(leases.give_back(found))
            return
        now = self.clock.time()
        computed = Computed(self.records.pack(value), Ends(now + FRESH, now + STALE, now + ERROR), 0.1)
        yield from self.steps(self.keep(found, computed, stamps, now))

    def change(self, how: Callable[[], Steps[None]]) -> Task:
        """The source changes, and the value is invalidated; once that is confirmed, nobody may be shown the old one."""
        yield
        self.source = 2
        yield from self.steps(how())
        self.must_be = 2

    def change_nothing(self) -> Task:
        """The watch and the tag have stamps already."""
        yield from self.steps(tags.invalidate_tags([self.tag], self.watch))

    def passing(self, seconds: float) -> Task:
        yield
        self.clock.advance(seconds)

    def evicting(self, key: str) -> Task:
        """The store forgets an entry."""
        yield
        self.store._drop(key)

    def alone(self, task: Task) -> None:
        for _ in task:
            pass

    def stale(self) -> bool:
        """Was anybody shown what had been invalidated before he asked, or would be now?"""
        self.alone(self.reader(self.place if not self._tags_used else self.tagged))
        return any(value < must_be for value, must_be in self.shown)

    _tags_used: bool = False


def each(begin: Callable[[bool], tuple[World, Sequence[Task]]], number: int | None = None) -> Iterator[World]:
    """After each order, or after so many orders that are drawn at random; the operations of a call both ways round."""
    for backwards in (False, True):

        def start(backwards: bool = backwards) -> Any:
            return begin(backwards)

        yield from orders(start) if number is None else some_orders(start, number, seed=number)  # type: ignore[misc]


def count(begin: Callable[[bool], tuple[World, Sequence[Task]]], number: int | None = None) -> tuple[int, int]:
    """How many orders there are, and in how many of them somebody is shown what is no longer true."""
    verdicts = [world.stale() for world in each(begin, number)]
    return len(verdicts), sum(verdicts)
