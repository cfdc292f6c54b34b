"""Every order in which the steps of several requests can run, over the real lifecycle and a real (in-memory) store.

A request is a generator: it yields before each of its steps, and a step is one operation that the store carries out, or
the moment in which the browser takes the answer's cookie. `orders` runs the same requests again and again, each time
from a fresh store, until every choice of who goes next has been taken once.
"""

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from serverless_session.errors import StoreError, StoreTimeout, StoreUnavailable, WriteUncertain
from serverless_session.records.records import Records
from serverless_session.sessions.cookie import IdMaker, SessionId
from serverless_session.sessions.lifecycle import CookieChange, Rules, Visit
from serverless_session.sessions.lifetime import Lifetime
from serverless_session.sessions.record import Steps
from serverless_session.sessions.session import Session
from serverless_session.shared import SharedState
from serverless_session.stores import Failed, MemoryStore, Operation, Outcome, Read
from serverless_session.testing import ManualClock
from tests.sessions.apps import SECRET

LIFE = 1000.0
RULES = Rules(lifetime=Lifetime(max_age=LIFE))

_T = TypeVar("_T")
Request = Generator[None, None, None]
App = Callable[[Session], None]


UNCERTAIN = WriteUncertain("its answer was lost")


class Fault(Enum):
    """What becomes of an operation that fails."""

    REFUSED = "refused"
    DONE = "done, and the answer is lost"
    NOT_DONE = "not done, and nobody can tell"


@dataclass
class World:
    """One run: a store, a clock, a browser's cookie jar."""

    visit: type[Visit] = Visit
    rules: Rules = RULES
    jar: SessionId | None = None
    fault: Fault | None = None
    fails_at: int = 0
    """The number of the operation, from 1 on, that fails; 0: the next one, and each after it."""
    operations: int = 0
    events: list[str] = field(default_factory=list)
    set_cookies: list[SessionId] = field(default_factory=list)
    confirmed: list[App] = field(default_factory=list)
    """What was answered as done; the answer to anything else was an error."""

    def __post_init__(self) -> None:
        self._known: set[str] = set()
        self.clock = ManualClock(1_000_000.0)
        self.shared = SharedState(MemoryStore(clock=self.clock), secret_key=SECRET, clock=self.clock)
        self.records: Records = self.shared.records("session")
        self.ids = IdMaker(self.shared.key_ring, self.shared.namespace)

    def request(self, app: App, *, cookie: SessionId | None = None) -> Request:
        """A request with the cookie that the jar holds when the browser sends it (now), or another one."""
        return self._request(app, self.jar if cookie is None else cookie)

    def _request(self, app: App, cookie: SessionId | None) -> Request:
        visit = self.visit(self.records, self.ids.new, self.rules)
        try:
            yield from self.steps(visit.load(cookie, now=self.clock.time()))
            app(visit.session)
            answer = yield from self.steps(visit.save(now=self.clock.time()))
        except StoreError:
            return
        self.confirmed.append(app)
        self.events += [name for name, _ in visit.events]
        yield
        if answer is CookieChange.SET:
            assert visit.id is not None
            self.jar = visit.id
            self.set_cookies.append(visit.id)
        elif answer is CookieChange.REMOVE:
            self.jar = None

    def steps(self, steps: Steps[_T]) -> Generator[None, None, _T]:
        """A part of a visit: it stops before each of its operations that another visit could meet."""
        try:
            operation = next(steps)
            while True:
                if operation.key in self._known:  # what happens under a key that nobody else knows may come at any time
                    yield
                self._known.add(operation.key)
                operation = steps.send(self.perform(operation))
        except StopIteration as stop:
            result: _T = stop.value
            return result

    def perform(self, operation: Operation) -> Outcome:
        """What the store does with an operation, or fails to do."""
        self.operations += 1
        fault = self.fault if self.fails_at in (0, self.operations) else None
        if fault is Fault.REFUSED:
            return Failed(StoreUnavailable("it is down"))
        if fault is Fault.NOT_DONE:
            return Failed(StoreTimeout("no answer", seconds=1) if isinstance(operation, Read) else UNCERTAIN)
        (outcome,) = done(self.records.perform(operation))
        return Failed(UNCERTAIN) if fault is Fault.DONE and not isinstance(operation, Read) else outcome

    def passing(self, seconds: float) -> Request:
        """Nobody's request: time passes, at one of the steps."""
        yield
        self.clock.advance(seconds)

    def alone(self, app: App, *, cookie: SessionId | None = None) -> None:
        """One request from its start to its end."""
        for _ in self.request(app, cookie=cookie):
            pass

    def run(self, steps: Steps[_T]) -> _T:
        """A part of a visit, from its first operation to its last."""
        return result_of(self.steps(steps))

    def session(self, cookie: SessionId | None) -> Session:
        """What a request with that cookie would see; nothing fails now."""
        visit, self.fault = Visit(self.records, self.ids.new, self.rules), None
        self.run(visit.load(cookie, now=self.clock.time()))
        return visit.session

    def content(self, cookie: SessionId | None) -> dict[str, Any]:
        """The same, its contents alone."""
        return dict(self.session(cookie))


def result_of(stepping: Generator[None, None, _T]) -> _T:
    """What a generator returns when it has taken all of its steps."""
    while True:
        try:
            next(stepping)
        except StopIteration as stop:
            result: _T = stop.value
            return result


def done(coroutine: Any) -> Any:
    """The result of a coroutine that never waits, as everything over a memory store."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


def orders(begin: Callable[[], tuple[World, Sequence[Request]]]) -> Iterator[World]:
    """Run the requests that `begin` makes in every order of their steps; yields each world after its run."""
    prefix: list[int] = []
    while True:
        world, requests = begin()
        running = list(requests)
        taken: list[tuple[int, int]] = []
        while running:
            choice = prefix[len(taken)] if len(taken) < len(prefix) else 0
            taken.append((choice, len(running)))
            try:
                next(running[choice])
            except StopIteration:
                del running[choice]
        yield world
        while taken and taken[-1][0] + 1 >= taken[-1][1]:
            taken.pop()
        if not taken:
            return
        prefix = [choice for choice, _ in taken[:-1]] + [taken[-1][0] + 1]


def some_orders(begin: Callable[[], tuple[World, Sequence[Request]]], number: int, seed: int) -> Iterator[World]:
    """The same in so many orders, drawn at random: where all of them would take minutes."""
    chance = random.Random(seed)
    for _ in range(number):
        world, requests = begin()
        running = list(requests)
        while running:
            place = chance.randrange(len(running))
            if next(running[place], running) is running:
                del running[place]
        yield world
