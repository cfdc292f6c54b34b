"""What is known of each operation while a call is on its way: sent once, and once more where the answer was lost.

No I/O here. A store over a network makes a `Call` of its operations and carries it out in at most two *attempts*, each
over one connection. Within an attempt an operation is `send`t and then `answer`ed. What an attempt that broke leaves:

| operation | what is known | second attempt |
|---|---|---|
| answered | its outcome | |
| not sent | nothing was done | as if it were the first |
| read, sent | nothing | read again |
| write or delete, sent | it may stand: *in doubt* | the same operation, with the same version, again |
| the same with `expect=ANYTHING` | it may stand, and a copy of it could overwrite somebody: `WriteUncertain` | none |

Why a second copy settles what is in doubt: its success moves the version, so the first copy, if it still comes, is
refused. Where it finds its own version, the first has landed: `Written`. A refusal proves nothing then (the first may
have landed and have been overtaken, or never), nor does a failure (a replica that took over may hold what its primary
wrote): `WriteUncertain`. Whatever is in doubt after the second attempt is
`WriteUncertain` too; what was sent in neither failed for sure.

Attempts may run in threads: what happens to a call, happens under its lock, and an attempt that its caller has given up
can neither send nor answer any more.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable

from serverless_session.errors import StoreTimeout, StoreUnavailable, WriteUncertain
from serverless_session.stores.contract import (
    ANYTHING,
    Conflict,
    Failed,
    Limits,
    Operation,
    Outcome,
    Read,
    Write,
)


class LinkBroken(Exception):
    """An attempt was not carried out to its end. `timed_out`: time ran out; `refused`: by the server, unexecuted."""

    def __init__(self, what: str, *, timed_out: bool = False, refused: bool = False) -> None:
        super().__init__(what)
        self.timed_out = timed_out
        self.refused = refused


class GivenUp(Exception):
    """The caller of this attempt no longer waits for it."""


class Call:
    """The operations of one call to one server, and what is known of each.

    `limits`: what is too large for them is settled at once. `server`, `where`: for errors, as "redis", "host:6379".
    """

    def __init__(self, operations: Iterable[tuple[int, Operation]], limits: Limits, *, server: str, where: str) -> None:
        self.waiting: dict[int, Operation] = {}
        self.outcomes: dict[int, Outcome] = {}
        self._in_doubt: set[int] = set()
        self._lock = threading.Lock()
        self._server, self._where = server, where
        for place, operation in operations:
            too_large = limits.refuse(operation.value) if isinstance(operation, Write) else None
            if too_large:
                self.outcomes[place] = too_large
            else:
                self.waiting[place] = operation

    def attempt(self) -> Attempt:
        """Another attempt at what waits. Whoever makes it gives it up in the end."""
        return Attempt(self, self._lock, self._in_doubt)

    def broke(self, broken: LinkBroken, allowed: float, *, last: bool) -> None:
        """An attempt broke; unless it was the `last`, leave waiting what may be sent (again). `allowed`: seconds."""
        for place, operation in list(self.waiting.items()):
            in_doubt = place in self._in_doubt
            if last or (in_doubt and not isinstance(operation, Read) and operation.expect is ANYTHING):
                self.outcomes[place] = Failed(self._failure(broken, allowed, in_doubt=in_doubt))
                del self.waiting[place]

    def _failure(self, broken: LinkBroken, allowed: float, *, in_doubt: bool) -> StoreUnavailable | WriteUncertain:
        what = f"{self._server} {broken}"
        if in_doubt:
            may_stand = f"a write was sent, but {what} within {allowed:.2f} s: it may or may not stand"
            return WriteUncertain(may_stand, looked_at=self._where)
        if broken.timed_out:
            return StoreTimeout(what, seconds=allowed, looked_at=self._where)
        return StoreUnavailable(what, looked_at=self._where)


class Attempt:
    """One copy of what waits, over one connection."""

    def __init__(self, call: Call, lock: threading.Lock, in_doubt: set[int]) -> None:
        self._call = call
        self._lock = lock
        self._in_doubt = in_doubt
        self._unanswered: set[int] = set()
        self._is_open = True
        self.waiting = dict(call.waiting)
        self.is_used = False

    def give_up(self) -> None:
        """Nobody waits for it any more. What it sent and was not answered is in doubt."""
        with self._lock:
            self._is_open = False
            self._in_doubt |= self._unanswered

    def send(self, *places: int) -> None:
        """From here on these may be carried out. Raises `GivenUp` if nobody waits for them any more."""
        with self._lock:
            self._must_be_open()
            self.is_used = True
            self._unanswered.update([place for place in places if not isinstance(self.waiting[place], Read)])

    def look(self) -> None:
        """Something is about to be read on the way to sending. Raises `GivenUp` as `send` does."""
        with self._lock:
            self._must_be_open()
            self.is_used = True

    def nothing_was_done(self) -> None:
        """The server refused what was sent and not answered."""
        with self._lock:
            self._unanswered.clear()

    def is_in_doubt(self, place: int) -> bool:
        """May an earlier copy have been carried out?"""
        return place in self._in_doubt

    def answer(self, place: int, outcome: Outcome) -> None:
        """What the server's answer means. After an earlier copy in doubt, a refusal or failure proves nothing."""
        with self._lock:
            self._must_be_open()
            if isinstance(outcome, Conflict) and place in self._in_doubt:
                outcome = Failed(
                    WriteUncertain("a write was sent twice, and neither it nor what it expected stands there now")
                )
            elif isinstance(outcome, Failed) and place in self._in_doubt:
                outcome = Failed(WriteUncertain("a write was sent twice: no answer came, and then the server refused"))
            self._call.outcomes[place] = outcome
            del self._call.waiting[place]
            self._unanswered.discard(place)

    def _must_be_open(self) -> None:
        if not self._is_open:
            raise GivenUp


async def settle(call: Call, carry: Callable[[Attempt, float, bool], Awaitable[None]], *, allowed: float) -> None:
    """Give every operation of `call` an outcome within `allowed` seconds.

    `carry(attempt, ends, again)` sends what waits over one connection, a new one if `again`, until `ends` on the loop's
    clock, or raises `LinkBroken`.
    """
    ends = asyncio.get_running_loop().time() + allowed
    for again in (False, True):
        if not call.waiting:
            return
        attempt = call.attempt()
        try:
            await carry(attempt, ends, again)
        except LinkBroken as error:
            broken = error
            if broken.refused:
                attempt.nothing_was_done()
        else:
            return
        finally:
            attempt.give_up()
        # What was never sent, or refused as a whole, will not fare better now.
        call.broke(broken, allowed, last=again or broken.refused or not attempt.is_used)
