"""Many sandboxes and few visitors: `python -m tests.aws.many_sandboxes --sandboxes 50` shows that nothing is lost.

Each visitor goes through a life of its own, drawn from a seed before it begins: log in, count, add to a list, two tabs
at once, log out, and log in again. Every request goes to a sandbox that was drawn with it, and after it that sandbox
may be frozen until somebody needs it, have its connection cut while it is frozen, or be reaped. No request of a sandbox
is on its way when its connection is cut, so every answer must be 200. What a visitor was told must be what every later
answer shows, on whichever sandbox; what was left behind, by a logout or by the new id of a login, must never show
anybody again. How requests of different visitors overlap is left to the machine: nothing depends on it.
"""

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeVar

from redis import Redis

from tests import servers
from tests.aws.sandboxes import LIMIT, LambdaSandbox, over
from tests.aws.visitors import Visitor
from tests.servers import LOOPBACK, Server

T = TypeVar("T")

VISITORS: Final = 20
STARTING: Final = 4
"""Sandboxes that start at once."""


class Act(Enum):
    """What a visitor does."""

    LOG_IN = "log in"
    COUNT = "count"
    ADD = "add"
    TWO_TABS = "two tabs"
    """Count in one, add in the other, at once."""
    LOOK = "look"
    LOG_OUT = "log out"
    LOG_OUT_BESIDE = "log out beside a count"
    """In two tabs, at once."""
    COPY = "use a copied cookie"
    """One that a logout or login has left behind."""


class Then(Enum):
    """What becomes of the sandbox that has served."""

    STAYS = "stayed"
    FROZEN = "frozen"
    CUT = "frozen and cut"
    REAPED = "reaped"


LOGGED_IN: Final = {
    Act.COUNT: 6,
    Act.ADD: 4,
    Act.TWO_TABS: 3,
    Act.LOOK: 2,
    Act.LOG_IN: 1,
    Act.LOG_OUT: 2,
    Act.LOG_OUT_BESIDE: 1,
    Act.COPY: 1,
}
LOGGED_OUT: Final = {Act.LOG_IN: 4, Act.LOOK: 1, Act.COPY: 2}
AFTERWARDS: Final = {Then.STAYS: 50, Then.FROZEN: 35, Then.CUT: 14, Then.REAPED: 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One act, on which sandboxes, and what becomes of the first. `dice`: from 0 to 1, for what else is to choose."""

    act: Act
    places: tuple[int, int]
    then: Then
    dice: float


def life_of(name: str, *, seed: int, steps: int, sandboxes: int) -> Iterator[Step]:
    """What one visitor does."""
    drawn = random.Random(f"{seed} {name}")
    logged_in = False
    for _ in range(steps):
        odds = LOGGED_IN if logged_in else LOGGED_OUT
        (act,) = drawn.choices(list(odds), list(odds.values()))
        (then,) = drawn.choices(list(AFTERWARDS), list(AFTERWARDS.values()))
        first, second = drawn.sample(range(sandboxes), 2)
        yield Step(act=act, places=(first, second), then=then, dice=drawn.random())
        if act is Act.LOG_IN:
            logged_in = True
        elif act in (Act.LOG_OUT, Act.LOG_OUT_BESIDE):
            logged_in = False


class Function:
    """All sandboxes over one store. Each serves one event at a time; who comes to one that is busy, waits."""

    def __init__(self, server: Server, sandboxes: Sequence[LambdaSandbox]) -> None:
        self.happened: Counter[str] = Counter()
        self._server = server
        self._sandboxes = sandboxes
        self._turns = [threading.Lock() for _ in sandboxes]
        self._counting = threading.Lock()

    def serve(self, place: int, event: Any, then: Then = Then.STAYS) -> Any:
        """The answer of the sandbox at `place`, with which afterwards is done what `then` says."""
        sandbox = self._sandboxes[place]
        with self._turns[place]:
            answer = sandbox.invoke(event)
            if then is Then.REAPED:
                sandbox.kill()
            elif then is not Then.STAYS:
                sandbox.freeze()
                if then is Then.CUT:
                    self._cut(sandbox)
        with self._counting:
            self.happened.update(("requests", then.value))
        return answer

    def _cut(self, sandbox: LambdaSandbox) -> None:
        with Redis(port=self._server.port) as client:
            for port in sandbox.sockets(self._server.port).values():
                client.client_kill_filter(addr=f"{LOOPBACK}:{port}", skipme=True)

    def connections(self) -> int:
        """How many the server knows of, but for the one that asks."""
        with Redis(port=self._server.port) as client:
            return len(client.client_list()) - 1


@dataclass
class Customer:
    """A visitor who knows what must be in the session."""

    name: str
    function: Function
    tabs: ThreadPoolExecutor
    browser: Visitor = field(default_factory=Visitor)
    told: dict[str, Any] = field(default_factory=dict)
    left_behind: list[dict[str, str]] = field(default_factory=list)

    def live(self, steps: Sequence[Step]) -> None:
        for number, step in enumerate(steps):
            try:
                self._do(step)
            except AssertionError as wrong:
                raise AssertionError(f"{self.name}, step {number}, {step.act.value}: {wrong}") from None

    def _do(self, step: Step) -> None:
        here, there = step.places
        before = dict(self.browser.cookies)
        match step.act:
            case Act.LOG_IN:
                self.told = {**self.told, "user": self.name}
                self._expect(step, "/login", self.name)
            case Act.COUNT:
                self.told["count"] = self.told.get("count", 0) + 1
                self._expect(step, "/count")
            case Act.ADD:
                self.told["items"] = [*self.told.get("items", ()), step.dice]
                self._expect(step, "/add", step.dice)
            case Act.TWO_TABS:
                self.told["count"] = self.told.get("count", 0) + 1
                self.told["items"] = [*self.told.get("items", ()), step.dice]
                self._at_once(
                    (here, self.browser.event("POST", "/count"), step.then),
                    (there, self.browser.event("POST", "/add", body=step.dice), Then.STAYS),
                )
                self.look(here)
            case Act.LOG_OUT:
                self.told = {}
                self._expect(step, "/logout")
            case Act.LOG_OUT_BESIDE:
                self.told = {}
                self._at_once(
                    (here, self.browser.event("POST", "/count"), step.then),
                    (there, self.browser.event("POST", "/logout"), Then.STAYS),
                )
                self.browser.cookies = {}  # a count that came last has begun another session, of nobody
            case Act.COPY if self.left_behind:
                self.try_copy(self.left_behind[int(step.dice * len(self.left_behind))], here, step.then)
            case Act.LOOK | Act.COPY:
                self.look(here, step.then)
        if before and before != self.browser.cookies:
            self.left_behind.append(before)

    def _expect(self, step: Step, path: str, body: Any = None) -> None:
        event = self.browser.event("POST", path, body=body)
        shown = self.browser.take(self.function.serve(step.places[0], event, step.then))
        assert shown == self.told, f"{shown} in place of {self.told}"

    def _at_once(self, *requests: tuple[int, Any, Then]) -> None:
        for answer in ended([self.tabs.submit(self.function.serve, *request) for request in requests]):
            self.browser.take(answer)

    def look(self, place: int, then: Then = Then.STAYS) -> None:
        """What the visitor was told must be what stands."""
        shown = self.browser.take(self.function.serve(place, self.browser.event("GET", "/view"), then))
        assert shown == self.told, f"{shown} in place of {self.told}"

    def try_copy(self, cookies: dict[str, str], place: int, then: Then = Then.STAYS) -> None:
        """What was left behind must show nobody."""
        thief = Visitor()
        thief.cookies = dict(cookies)
        shown = thief.take(self.function.serve(place, thief.event("GET", "/view"), then))
        assert shown == {}, f"{shown} after a logout or a login"


def ended(running: Sequence[Future[T]]) -> list[T]:
    """What they return, once all have ended: no sandbox must be started by one after another has failed."""
    wait(running)
    return [one.result() for one in running]


def run(*, sandboxes: int, steps: int, seed: int) -> dict[str, int]:
    """All lives, and a last look at everything; what happened, by name. Raises `AssertionError` where one is wrong."""
    with ExitStack() as stack:
        server = stack.enter_context(servers.valkey())
        # The kernel ends a process with the thread that started it: these threads outlive the sandboxes.
        visits = stack.enter_context(ThreadPoolExecutor(VISITORS))
        tabs = stack.enter_context(ThreadPoolExecutor(2 * VISITORS))
        fleet = [LambdaSandbox("tests.aws.shop.handler", over(server.url)) for _ in range(sandboxes)]
        gate = threading.Semaphore(STARTING)

        def start(sandbox: LambdaSandbox) -> None:
            with gate:
                sandbox.__enter__()
            stack.push(sandbox)

        ended([visits.submit(start, sandbox) for sandbox in fleet])
        function = Function(server, fleet)
        customers = [Customer(f"visitor {number}", function, tabs) for number in range(VISITORS)]
        lives = [list(life_of(one.name, seed=seed, steps=steps, sandboxes=sandboxes)) for one in customers]
        ended([visits.submit(one.live, life) for one, life in zip(customers, lives, strict=True)])
        for number, customer in enumerate(customers):
            customer.look(number % sandboxes)
            for cookies in customer.left_behind:
                customer.try_copy(cookies, number % sandboxes)
        function.happened["left behind"] = sum(len(customer.left_behind) for customer in customers)
        function.happened["connections at the end"] = connections = function.connections()
        assert 0 < connections <= sandboxes, f"{connections} connections of {sandboxes} sandboxes"
        for sandbox in fleet:
            sandbox.kill()
        give_up_at = time.monotonic() + LIMIT
        while leaked := function.connections():
            assert time.monotonic() < give_up_at, f"{leaked} connections outlive their sandboxes"
            time.sleep(0.02)
        return dict(function.happened)


def table(happened: dict[str, int], *, sandboxes: int, seed: int, seconds: float) -> str:
    lines = [f"{sandboxes} sandboxes, {VISITORS} visitors, seed {seed}, {seconds:.0f} s"]
    return "\n".join([*lines, *(f"  {name:<24} {times:>8,}" for name, times in sorted(happened.items()))])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.aws.many_sandboxes", description=__doc__)
    parser.add_argument("--sandboxes", type=int, default=50)
    parser.add_argument("--steps", type=int, default=200, help="of each visitor")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="default: random")
    asked = parser.parse_args()
    print(f"seed {asked.seed}", file=sys.stderr)
    begun = time.monotonic()
    happened = run(sandboxes=asked.sandboxes, steps=asked.steps, seed=asked.seed)
    print(table(happened, sandboxes=asked.sandboxes, seed=asked.seed, seconds=time.monotonic() - begun))
    return 0


if __name__ == "__main__":
    sys.exit(main())
