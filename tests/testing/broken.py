"""Stores that break the contract, each in one way, beside those that keep it.

`ExactStore` keeps it, step by step: what stands there, what is decided, what is kept. A broken store replaces one step
with what somebody has written, or a server has done, at some time. `LinkedStore` is another that keeps it, with a
connection shared by its callers.
"""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import ClassVar

from serverless_session.deadline import time_left
from serverless_session.errors import StoreTimeout, StoreUnavailable, ValueTooLarge
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Failed,
    Found,
    Limits,
    Missing,
    Operation,
    Outcome,
    Read,
    Store,
    Version,
    Write,
    Written,
    refuse_repeated_keys,
)

Kept = dict[str, tuple[Found, float]]
"""By key: what stands there, and when it ends."""


class ExactStore(Store):
    """Keeps the contract. A call waits once, as for a network, and decides all at once afterwards."""

    limits = Limits(largest_value_bytes=100_000, one_process=True)

    def __init__(self, kept: Kept | None = None) -> None:
        self.kept: Kept = {} if kept is None else kept

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        refuse_repeated_keys(operations)
        await asyncio.sleep(0)
        return [await self.one(operation) for operation in operations]

    async def one(self, operation: Operation) -> Outcome:
        match operation:
            case Read(key=key):
                return self.stands(key)
            case Write():
                return self.limits.refuse(operation.value) or await self.write_one(operation)
            case Delete():
                return await self.delete_one(operation)

    async def write_one(self, operation: Write) -> Outcome:
        stands = self.stands(operation.key)
        if not self.may(operation, stands):
            return Conflict(stands)
        self.put(operation)
        return Written()

    async def delete_one(self, operation: Delete) -> Outcome:
        stands = self.stands(operation.key)
        if isinstance(stands, Missing):
            return stands
        if not stands.meets(operation.expect):
            return Conflict(stands)
        self.drop(operation.key)
        return Deleted()

    def may(self, operation: Write, stands: Found | Missing) -> bool:
        return stands.meets(operation.expect) or stands.meets(operation.version)

    def stands(self, key: str) -> Found | Missing:
        found, ends = self.kept.get(key, (None, 0.0))
        return found if found is not None and not self.is_over(ends) else Missing()

    def put(self, operation: Write) -> None:
        self.kept[operation.key] = Found(operation.value, operation.version), self.end(operation.ttl)

    def drop(self, key: str) -> None:
        self.kept.pop(key, None)

    def end(self, ttl: float) -> float:
        return time.time() + ttl

    def is_over(self, ends: float) -> bool:
        return ends <= time.time()


class SharedStore(ExactStore):
    """Keeps the contract; all its objects see the same, as if in several processes."""

    limits = Limits(largest_value_bytes=100_000)
    everything: ClassVar[Kept] = {}

    def __init__(self) -> None:
        super().__init__(self.everything)


# --- versions ---------------------------------------------------------------------------------------------------------


class KnowsNoOwnVersion(ExactStore):
    """A write that is sent again meets itself, and is refused."""

    def may(self, operation: Write, stands: Found | Missing) -> bool:
        return stands.meets(operation.expect)


class TakesEveryCopy(ExactStore):
    """A write that was carried out once may be so again, whatever stands there by now."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = set[Version]()

    def may(self, operation: Write, stands: Found | Missing) -> bool:
        may = super().may(operation, stands) or operation.version in self.seen
        if may:
            self.seen.add(operation.version)
        return may


class RemembersWhatItWrote(ExactStore):
    """A write that is sent again after a delete is told Written, and nothing stands there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = set[Version]()

    async def write_one(self, operation: Write) -> Outcome:
        if operation.version in self.seen and self.stands(operation.key) == Missing():
            return Written()
        outcome = await super().write_one(operation)
        if outcome == Written():
            self.seen.add(operation.version)
        return outcome


class EqualBytesKeepTheVersion(ExactStore):
    """What does not change is not written."""

    def put(self, operation: Write) -> None:
        stands = self.stands(operation.key)
        if not isinstance(stands, Found) or stands.value != operation.value:
            super().put(operation)


class ComparesCounters(ExactStore):
    """Compares the server's counter instead of the version; it begins anew when a key does."""

    def __init__(self) -> None:
        super().__init__()
        self.counter_of = dict[bytes, int]()
        self.counters = dict[str, int]()

    def may(self, operation: Write, stands: Found | Missing) -> bool:
        if isinstance(stands, Found) and isinstance(operation.expect, bytes):
            known = self.counter_of.get(operation.expect)
            return known == self.counters[operation.key] or stands.meets(operation.version)
        return super().may(operation, stands)

    def put(self, operation: Write) -> None:
        super().put(operation)
        self.counters[operation.key] = self.counters.get(operation.key, 0) + 1
        self.counter_of[operation.version] = self.counters[operation.key]

    def drop(self, key: str) -> None:
        super().drop(key)
        self.counters[key] = 0


class _Hinted(bytes):
    """A version with something attached to it."""


class KnowsOnlyItsOwnObjects(ExactStore):
    """Compares what it attached to the version it returned; a version that comes as bytes has nothing attached."""

    def __init__(self) -> None:
        super().__init__()
        self.returned = set[bytes]()

    def stands(self, key: str) -> Found | Missing:
        stands = super().stands(key)
        return Found(stands.value, Version(_Hinted(stands.version))) if isinstance(stands, Found) else stands

    def may(self, operation: Write, stands: Found | Missing) -> bool:
        if type(operation.expect) is bytes and operation.expect in self.returned:
            return stands.meets(operation.version)
        return super().may(operation, stands)

    async def one(self, operation: Operation) -> Outcome:
        outcome = await super().one(operation)
        if isinstance(outcome, Found):
            self.returned.add(bytes(outcome.version))
        return outcome


class TrustsWhatItRead(SharedStore):
    """Decides by what it last saw under a key, without asking again: right, as long as nobody else writes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = dict[str, Found | Missing]()

    async def one(self, operation: Operation) -> Outcome:
        outcome = await super().one(operation)
        self.seen[operation.key] = super().stands(operation.key)
        return outcome

    def may(self, operation: Write, stands: Found | Missing) -> bool:
        return super().may(operation, self.seen.get(operation.key, stands))


class VersionEndsAtAZero(ExactStore):
    """Handles versions as C does strings."""

    def put(self, operation: Write) -> None:
        version = Version(operation.version.split(b"\0")[0].ljust(8, b"\0"))
        self.kept[operation.key] = Found(operation.value, version), self.end(operation.ttl)


# --- outcomes ---------------------------------------------------------------------------------------------------------


class ConflictShowsASnapshot(ExactStore):
    """Decides now, and shows what stood there when the statement began: PostgreSQL, without a second look."""

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        snapshots = [self.stands(operation.key) for operation in operations]
        outcomes = await super().perform(*operations)
        return [
            Conflict(snapshot) if isinstance(outcome, Conflict) else outcome
            for snapshot, outcome in zip(snapshots, outcomes, strict=True)
        ]


class ConflictShowsNothing(ExactStore):
    """Knows that it was refused, and not by what."""

    async def write_one(self, operation: Write) -> Outcome:
        outcome = await super().write_one(operation)
        return Conflict(Missing()) if isinstance(outcome, Conflict) else outcome


class AbsenceIsNotAsked(ExactStore):
    """A write that expects nothing overwrites what stands there."""

    def may(self, operation: Write, stands: Found | Missing) -> bool:
        return operation.expect is ABSENT or super().may(operation, stands)


class NoReply(ExactStore):
    """Does what is right and never asks how it went: pymemcache's default."""

    async def write_one(self, operation: Write) -> Outcome:
        await super().write_one(operation)
        return Written()


class LookFirstDecides(ExactStore):
    """With `look_first` the look decides, and the write that follows it has no condition."""

    async def write_one(self, operation: Write) -> Outcome:
        if not operation.look_first:
            return await super().write_one(operation)
        stands = self.stands(operation.key)
        if not self.may(operation, stands):
            return Conflict(stands)
        await asyncio.sleep(0)
        self.put(operation)
        return Written()


class DeleteAsksNoVersion(ExactStore):
    """Deletes whatever stands there."""

    async def delete_one(self, operation: Delete) -> Outcome:
        if self.stands(operation.key) == Missing():
            return Missing()
        self.drop(operation.key)
        return Deleted()


class DeletesInWordsOnly(ExactStore):
    """Marks what it deletes, and goes on reading it."""

    def drop(self, key: str) -> None:
        return


class DeleteShowsWhatHasExpired(ExactStore):
    """Is refused by what has expired, and shows it."""

    async def delete_one(self, operation: Delete) -> Outcome:
        found, _ = self.kept.get(operation.key, (None, 0.0))
        if found is not None and not found.meets(operation.expect):
            return Conflict(found)
        return await super().delete_one(operation)


class DeleteWantsAVersion(ExactStore):
    """Has no unconditional delete."""

    async def delete_one(self, operation: Delete) -> Outcome:
        if operation.expect is ANYTHING and self.stands(operation.key) != Missing():
            return Conflict(self.stands(operation.key))
        return await super().delete_one(operation)


class AnythingIsSomething(ExactStore):
    """An UPDATE finds no row where nothing stands."""

    def may(self, operation: Write, stands: Found | Missing) -> bool:
        if operation.expect is ANYTHING:
            return isinstance(stands, Found)
        return super().may(operation, stands)


class BringsBack(ExactStore):
    """A write that expects a version lands where that was deleted."""

    def may(self, operation: Write, stands: Found | Missing) -> bool:
        return stands == Missing() or super().may(operation, stands)


class NothingIsEmpty(ExactStore):
    """Takes the empty string for nothing, and nothing for the empty string."""

    async def one(self, operation: Operation) -> Outcome:
        outcome = await super().one(operation)
        nothing = isinstance(operation, Read) and outcome == Missing()
        return Found(b"", Version(bytes(8))) if nothing else outcome


class ReadsOnce(ExactStore):
    """Reading takes it away."""

    async def one(self, operation: Operation) -> Outcome:
        outcome = await super().one(operation)
        if isinstance(operation, Read):
            self.drop(operation.key)
        return outcome


class ReadsAReplica(ExactStore):
    """Reads are one call behind."""

    def __init__(self) -> None:
        super().__init__()
        self.replica: Kept = {}

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        behind = {key: found for key, (found, ends) in self.replica.items() if not self.is_over(ends)}
        self.replica = dict(self.kept)
        outcomes = await super().perform(*operations)
        return [
            behind.get(operation.key, Missing()) if isinstance(operation, Read) else outcome
            for operation, outcome in zip(operations, outcomes, strict=True)
        ]


class ConveniencesSwallow(ExactStore):
    """Its conveniences know no failure."""

    async def _only(self, operation: Operation) -> Outcome:
        (outcome,) = await self.perform(operation)
        return Conflict(Missing()) if isinstance(outcome, Failed) else outcome


# --- expiry -----------------------------------------------------------------------------------------------------------


class FloorsTheTtl(ExactStore):
    """Whole seconds, rounded the wrong way."""

    def end(self, ttl: float) -> float:
        return time.time() + math.floor(ttl)


class TicksInSeconds(ExactStore):
    """Rounds up, but by a clock that stands still for a second and then jumps: Memcached, with a ttl of ceil(ttl)."""

    def end(self, ttl: float) -> float:
        return math.floor(time.time()) + math.ceil(ttl)

    def is_over(self, ends: float) -> bool:
        return ends <= math.floor(time.time())


class NeverExpires(ExactStore):
    def is_over(self, ends: float) -> bool:
        return False


class ExpiresLate(ExactStore):
    """Once in five seconds, as a sweeper does."""

    def is_over(self, ends: float) -> bool:
        return ends + 5 <= time.time()


class ReadsWhatHasExpired(ExactStore):
    """Asks for the end in conditions and forgets it in reads: a table whose rows are deleted some time later."""

    async def one(self, operation: Operation) -> Outcome:
        if isinstance(operation, Read) and operation.key in self.kept:
            return self.kept[operation.key][0]
        return await super().one(operation)


class ExpiredIsInTheWay(ExactStore):
    """Asks for the end in reads and forgets it in conditions."""

    def may(self, operation: Write, stands: Found | Missing) -> bool:
        if operation.expect is ABSENT and operation.key in self.kept:
            return operation.version == self.kept[operation.key][0].version
        return super().may(operation, stands)


class MonthsAreDates(ExactStore):
    """A ttl above 30 days is a moment in 1970: Memcached."""

    def end(self, ttl: float) -> float:
        return ttl if ttl > 30 * 86_400 else super().end(ttl)


class MillisecondsIn32Bits(ExactStore):
    def end(self, ttl: float) -> float:
        return super().end(ttl if ttl * 1000 < 2**31 else -1)


class KeepsTheFirstEnd(ExactStore):
    """A value that is replaced hands its end on."""

    def put(self, operation: Write) -> None:
        stands, (_, ends) = self.stands(operation.key), self.kept.get(operation.key, (None, 0.0))
        super().put(operation)
        if isinstance(stands, Found):
            self.kept[operation.key] = self.kept[operation.key][0], ends


# --- races ------------------------------------------------------------------------------------------------------------


class ReadsThenWrites(ExactStore):
    """Nothing keeps others out between the look and the write."""

    async def write_one(self, operation: Write) -> Outcome:
        stands = self.stands(operation.key)
        await asyncio.sleep(0)
        if not self.may(operation, stands):
            return Conflict(stands)
        self.put(operation)
        return Written()


class TakesOverTwice(ExactStore):
    """What has expired is removed first, and whoever removed it is told that the key was free."""

    async def write_one(self, operation: Write) -> Outcome:
        if operation.key in self.kept and self.stands(operation.key) == Missing():
            await asyncio.sleep(0)
            self.put(operation)
            return Written()
        return await super().write_one(operation)


class DeletesTwice(ExactStore):
    async def delete_one(self, operation: Delete) -> Outcome:
        stands = self.stands(operation.key)
        await asyncio.sleep(0)
        if isinstance(stands, Missing):
            return stands
        if not stands.meets(operation.expect):
            return Conflict(stands)
        self.drop(operation.key)
        return Deleted()


# --- calls ------------------------------------------------------------------------------------------------------------


class ReadsComeFirst(ExactStore):
    """Sends reads in one batch and the rest in another, and forgets to put the answers back in order."""

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        return await super().perform(*sorted(operations, key=lambda operation: not isinstance(operation, Read)))


class OneFailureRaises(ExactStore):
    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        outcomes = await super().perform(*operations)
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                raise outcome.error
        return outcomes


class OneFailureEndsTheCall(ExactStore):
    """A pipeline that is given up at the first error."""

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        refuse_repeated_keys(operations)
        outcomes: list[Outcome] = []
        for operation in operations:
            if outcomes and isinstance(outcomes[-1], Failed):
                outcomes.append(Failed(StoreUnavailable("the pipeline was given up")))
            else:
                outcomes.append(await self.one(operation))
        return outcomes


class ACallIsATransaction(ExactStore):
    """A conflict undoes what stands beside it."""

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        before = dict(self.kept)
        outcomes = await super().perform(*operations)
        if any(isinstance(outcome, Conflict) for outcome in outcomes):
            self.kept.clear()
            self.kept.update(before)
        return outcomes


class NothingToDoIsAnError(ExactStore):
    """A batch of nothing is refused by the server: DynamoDB."""

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        if not operations:
            raise ValueError("at least one item is needed")
        return await super().perform(*operations)


class TakesKeysTwice(ExactStore):
    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        await asyncio.sleep(0)
        return [await self.one(operation) for operation in operations]


class LosesTheLastOfMany(ExactStore):
    """A batch holds 25, and nobody made a second one."""

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        return await super().perform(*operations[:25])


class TimesOutAndWrites(ExactStore):
    """Says that it did not even send what it has written."""

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        late = time_left() <= 0
        outcomes = await super().perform(*operations)
        return [Failed(StoreTimeout("no answer", seconds=0)) for _ in outcomes] if late else outcomes


class ClosesForGood(ExactStore):
    closed = False

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        if self.closed:
            raise RuntimeError("the client is closed")
        return await super().perform(*operations)

    async def aclose(self) -> None:
        self.closed = True


class BelongsToItsFirstLoop(ExactStore):
    loop: asyncio.AbstractEventLoop | None = None

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        self.loop = self.loop or asyncio.get_running_loop()
        if self.loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")
        return await super().perform(*operations)


# --- values, keys, sizes ----------------------------------------------------------------------------------------------


class _Changed(ExactStore):
    """Keeps something else than what it was given."""

    def changed(self, value: bytes) -> bytes:
        raise NotImplementedError

    def put(self, operation: Write) -> None:
        super().put(operation)
        found, ends = self.kept[operation.key]
        self.kept[operation.key] = Found(self.changed(found.value), found.version), ends


class EndsAtAZero(_Changed):
    def changed(self, value: bytes) -> bytes:
        return value.split(b"\0")[0]


class EndsAtALineEnd(_Changed):
    def changed(self, value: bytes) -> bytes:
        return value.split(b"\r\n")[0]


class _OtherKeys(ExactStore):
    """Takes different keys for one."""

    def name(self, key: str) -> str:
        raise NotImplementedError

    async def one(self, operation: Operation) -> Outcome:
        name = self.name(operation.key)
        match operation:
            case Read():
                return await super().one(Read(name))
            case Write(value=value, ttl=ttl, version=version, expect=expect, look_first=look):
                renamed = Write(name, value, ttl=ttl, version=version, expect=expect, look_first=look)
                return await super().one(renamed)
            case Delete(expect=expect):
                return await super().one(Delete(name, expect=expect))


class FoldsCase(_OtherKeys):
    """A column whose collation ignores case."""

    def name(self, key: str) -> str:
        return key.lower()


class CutsKeys(_OtherKeys):
    """A column of 128 characters."""

    def name(self, key: str) -> str:
        return key[:128]


class TooLargeDeletes(ExactStore):
    """The server decides, and the old value is gone: Memcached."""

    async def one(self, operation: Operation) -> Outcome:
        outcome = await super().one(operation)
        if isinstance(outcome, Failed) and isinstance(outcome.error, ValueTooLarge):
            self.drop(operation.key)
        return outcome


class SendsWhatIsTooLarge(ExactStore):
    """Leaves it to the server, which has a larger limit."""

    async def one(self, operation: Operation) -> Outcome:
        return await (self.write_one(operation) if isinstance(operation, Write) else super().one(operation))


class LargestIsOneLess(ExactStore):
    async def one(self, operation: Operation) -> Outcome:
        largest = self.limits.largest_value_bytes
        if isinstance(operation, Write) and len(operation.value) == largest:
            return Failed(ValueTooLarge(largest, largest))
        return await super().one(operation)


# --- a connection -----------------------------------------------------------------------------------------------------


class Link:
    """A connection to a server: answers come in the order of the requests, a moment later, to whoever reads next."""

    def __init__(self, server: ExactStore) -> None:
        self._server = server
        self._answers = deque[Outcome]()
        self._arrived = asyncio.Event()
        self._requests = asyncio.Queue[Sequence[Operation]]()
        self._serving = asyncio.ensure_future(self._serve())

    def send(self, operations: Sequence[Operation]) -> None:
        self._requests.put_nowait(operations)

    async def answer(self) -> Outcome:
        while not self._answers:
            self._arrived.clear()
            await self._arrived.wait()
        return self._answers.popleft()

    async def close(self) -> None:
        self._serving.cancel()
        await asyncio.wait([self._serving])

    async def _serve(self) -> None:
        while True:
            for operation in await self._requests.get():
                await asyncio.sleep(0.0001)
                self._answers.append(await self._server.one(operation))
                self._arrived.set()


class LinkedStore(Store):
    """Keeps the contract over one connection, which is dropped with the call that was cancelled on it."""

    limits = Limits(largest_value_bytes=100_000, one_process=True)

    def __init__(self) -> None:
        self._server = ExactStore()
        self._link: Link | None = None
        self._free = asyncio.Lock()

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        refuse_repeated_keys(operations)
        async with self._free:
            if self._link is None:
                self._link = Link(self._server)
            self._link.send(operations)
            try:
                return [await self._link.answer() for _ in operations]
            except BaseException:
                await self.cancelled()
                raise

    async def cancelled(self) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._link is not None:
            link, self._link = self._link, None
            await link.close()


class LeavesTheAnswerForTheNext(LinkedStore):
    """A cancelled call leaves its answer in the connection, and the next caller takes it for its own."""

    async def cancelled(self) -> None:
        return


class KeepsCancellationToItself(LinkedStore):
    """Answers although it was cancelled."""

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        with contextlib.suppress(asyncio.CancelledError):
            return await super().perform(*operations)
        return await super().perform(*operations)
