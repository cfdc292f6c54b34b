"""The rules of a session's life, sans-I/O: everything that two requests at once could break is decided here.

`Visit` is one request's dealings with one session. `load`, `save` and `end` are generators: they yield operations of
the store contract, are sent the outcomes, and never wait, look at a clock or know where bytes are kept. So a test can
run the steps of several visits in every order.

Where a visit stands:

    NOTHING   no cookie, or one whose record is not there    -> what is written begins a session with a new id
    LIVE      the record was loaded                          -> changes are written by compare-and-set, or merged
    MOVED     a stone was found: the session has a new id    -> plain changes are dropped, no cookie is touched
    GONE      it was ended, moved or forgotten while we ran  -> the same

Rules, each a compare-and-set on the record's version:

1. An ending deletes the record; where it meets a change it deletes that; where it meets a stone it ends the successors,
   then deletes the stone, so that nobody names one more. Where something was written after the ending, it leaves a
   stone that says so and names only the session of that.
2. A new id: first the new record is written, then the old one becomes a *stone*, which names its successors and lives
   as long as the longest request. If the old one was ended in between, the new one is taken back. So whichever of
   ending and new id comes last sees the other.
3. A change that meets another change is merged with it (`merge`); one that meets a stone, or nothing, is dropped.
4. A session emptied key by key is kept, empty, as long as the longest request, so that a change in flight still merges.
5. A change prolongs the life of record and cookie together, once a tenth of it is gone; until then neither is touched.
   A cookie sent at every change could arrive after, and overwrite, the one of a login in another tab.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from serverless_session.errors import DamagedValue, StoreUnavailable, UnknownFormat, ValueNotSerializable
from serverless_session.records.records import Kept
from serverless_session.sessions.cookie import SessionId
from serverless_session.sessions.merge import merge
from serverless_session.sessions.session import Asked, Session
from serverless_session.stores.contract import (
    ABSENT,
    Conflict,
    Delete,
    Deleted,
    Expected,
    Failed,
    Missing,
    Operation,
    Outcome,
    Read,
    Version,
    Write,
    Written,
    new_version,
)

LONGEST_REQUEST: Final = 60.0
"""Seconds that a stone, or a session emptied key by key, stays for the requests that are still running."""

PROLONG_AFTER: Final = 0.1
"""The share of a life that is gone before a change prolongs it."""

if TYPE_CHECKING:

    class Vault(Protocol):
        """The pure part of `Records`."""

        @property
        def pack(self) -> Callable[[object], bytes]: ...
        @property
        def unpack(self) -> Callable[[bytes], Any]: ...
        def key(self, *parts: bytes) -> str: ...


_T = TypeVar("_T")
Steps = Generator[Operation, Outcome, _T]


class CookieChange(Enum):
    """What a save means for the browser's cookie."""

    KEEP = auto()
    SET = auto()
    REMOVE = auto()


class _State(Enum):
    NOTHING = auto()
    LIVE = auto()
    MOVED = auto()
    GONE = auto()


@dataclass(slots=True, repr=False)  # no debugger, log or traceback shows what stands in it
class _Record:
    """A record as it stands in the store, as far as we know."""

    key: str
    version: Version
    packed: bytes
    ends_at: float
    content: dict[str, Any]
    """As it was unpacked. The app's mapping is made of it, so a merge starts from the bytes instead."""

    @property
    def successors(self) -> list[str] | None:
        """The keys that a stone names; None: it is a session."""
        return self.content.get("moved_to")

    @property
    def ended(self) -> bool:
        """A stone that an ending has left, for what was written after it."""
        return bool(self.content.get("ended"))


class Visit:
    """One request's dealings with one session. `life`: seconds a session lives after it was last prolonged."""

    def __init__(self, vault: Vault, new_id: Callable[[], SessionId], *, life: float) -> None:
        self.session = Session()
        self.id: SessionId | None = None
        """The id that the cookie must carry after a save that answered `CookieChange.SET`."""
        self.events: list[str] = []
        """What happened that an operator may want to know: stable names, no contents."""
        self._vault = vault
        self._new_id = new_id
        self._life = life
        self._state = _State.NOTHING
        self._standing: _Record | None = None
        self._created = 0.0
        self._removed = False  # the browser was told to forget the id
        self._seen: bytes | None = None  # what the app's mapping was when it was last in step with the store

    # --- load ---------------------------------------------------------------------------------------------------------

    def load(self, session_id: SessionId | None, *, now: float) -> Steps[None]:
        """Find out where we stand and fill `session`. No id: no trip."""
        found: _Answer = Missing()
        if session_id is not None and self._life > 0:
            found = yield from self._ask(Read(self._vault.key(session_id.secret)))
        if isinstance(found, _Record):
            self._standing = found
            if found.successors is None:
                self.id, self._state, self._seen = session_id, _State.LIVE, found.packed
                self._created = found.content["created_at"]
                self.session = Session(found.content["data"], created=self._created, ends=found.ends_at, is_new=False)
                return
            self._state = _State.MOVED
        self._created = now
        self.session = Session(created=now, ends=now + max(self._life, 0))

    # --- save ---------------------------------------------------------------------------------------------------------

    def needs_cookie(self) -> bool:
        """Would a save now have to hand the browser an id that it does not have?"""
        asked = self.session._asked
        if asked.new_id or asked.ending:
            return asked.new_id or bool(self.session)
        without = self._state is _State.NOTHING or (self._state is _State.LIVE and self._removed)
        return without and bool(self.session)

    def save(self, *, now: float, late: bool = False) -> Steps[CookieChange]:
        """Carry out what the app has asked for and changed. May be called again: it then saves what came since.

        `late`: no cookie can be sent any more, so the record is not prolonged either.
        Raises `ValueNotSerializable`, before anything is yielded, for contents that cannot be kept. What was asked for
        and not carried out because of an exception is asked for again by the next call.
        """
        asked = self.session._take_asked()
        try:
            change = yield from self._save(asked, now, late=late)
            self._removed |= change is CookieChange.REMOVE
            return change
        except BaseException:
            self.session._ask_again(asked)
            raise

    def end(self) -> Steps[CookieChange]:
        """Carry out an ending alone, whatever was written after it: all that a request that raised may still do."""
        asked = self.session._take_asked()
        try:
            return (yield from self._end()) if asked.ending else CookieChange.KEEP
        except BaseException:
            self.session._ask_again(asked)
            raise

    def _save(self, asked: Asked, now: float, *, late: bool) -> Steps[CookieChange]:
        session = self.session
        if asked.ending and not session:
            return (yield from self._end())
        nothing_asked = not (asked.ending or asked.new_id)
        if nothing_asked and not session and self._seen is None:
            return CookieChange.KEEP
        if asked.ending:
            self._created = now  # what was written after it is a session of its own
        mine = packed = self._pack(session)
        if nothing_asked and packed == self._seen:
            return CookieChange.KEEP
        if self._life <= 0:
            return self._only_a_cookie()
        if self._standing is not None and self._state is _State.LIVE and self._standing.packed != self._seen:
            packed = self._merged(mine, self._standing)  # an earlier save has merged in what the app has not seen
        if not nothing_asked:
            change = yield from self._move(mine, packed, now, carry=not asked.ending)
        elif self._state is _State.LIVE:
            change = yield from self._write(mine, packed, now, late=late)
        elif self._state is _State.NOTHING:
            change = yield from self._move(mine, packed, now, carry=True)
        else:
            change = self._drop(self._state)
        self._seen = mine
        return change

    # --- endings ------------------------------------------------------------------------------------------------------

    def _end(self) -> Steps[CookieChange]:
        ended = False
        if self._standing is not None and self._state in (_State.LIVE, _State.MOVED):
            ended = yield from self._end_record(self._standing)
        if self._state is not _State.NOTHING:
            self._state = _State.GONE
        self._seen = None
        return CookieChange.REMOVE if ended else CookieChange.KEEP

    def _end_record(self, record: _Record) -> Steps[bool]:
        """Delete a record by version, a stone after its successors. True: something live was ended."""
        ended = False
        while True:
            ended |= yield from self._end_successors(record.successors or ())
            answer = yield from self._ask(Delete(record.key, expect=record.version))
            match answer:
                case Deleted():
                    return ended or record.successors is None
                case _Record():
                    record = answer
                case _:
                    return ended

    def _end_successors(self, keys: Sequence[str]) -> Steps[bool]:
        ended = False
        for key in keys:
            found = yield from self._ask(Read(key))
            if isinstance(found, _Record):
                ended |= yield from self._end_record(found)
        return ended

    # --- a new id -----------------------------------------------------------------------------------------------------

    def _move(self, mine: bytes, packed: bytes, now: float, *, carry: bool) -> Steps[CookieChange]:
        """Begin a record under a new id, make a stone of the old one; `carry`: merge in what happened to it since."""
        new_id, ends_at = self._new_id(), now + self._life
        new = _Record(self._vault.key(new_id.secret), new_version(), packed, ends_at, content={})
        yield from self._put(new, ABSENT)
        if self._standing is not None and self._state in (_State.LIVE, _State.MOVED):
            stays = yield from self._leave_stone(self._standing, new, mine, carry=carry)
            if not stays:
                return self._drop()
        self.id, self._state, self._standing = new_id, _State.LIVE, new
        self.session._ends = ends_at
        return CookieChange.SET

    def _leave_stone(self, old: _Record, new: _Record, mine: bytes, *, carry: bool) -> Steps[bool]:
        """Make a stone of the old record. False: it was ended meanwhile, and the new one was taken back."""
        ttl = min(LONGEST_REQUEST, self._life)
        while True:
            successors = old.successors or []
            if not carry:  # an ending, which what was written after it outlives, but nothing else
                yield from self._end_successors(successors)
                successors = []
            stone = self._vault.pack({"v": 1, "moved_to": [*successors, new.key], "ended": old.ended or not carry})
            write = Write(old.key, stone, ttl=ttl, version=new_version(), expect=old.version)
            answer = yield from self._ask(write)
            match answer:
                case Written():
                    return True
                case _Record() if carry and answer.ended and self._state is _State.LIVE:
                    yield from self._ask(Delete(new.key, expect=new.version))
                    return False
                case _Record():
                    old = answer
                    if carry and old.successors is None:
                        packed = self._merged(mine, old)
                        if packed != new.packed:
                            expected, new.packed, new.version = new.version, packed, new_version()
                            yield from self._put(new, expected)
                case _ if not carry or self._state is _State.MOVED:
                    return True  # there is nothing left that an ending of it would have to reach
                case _:
                    yield from self._ask(Delete(new.key, expect=new.version))
                    return False

    def _put(self, new: _Record, expect: Expected) -> Steps[None]:
        """Write where nobody else can: under an id that only this request knows."""
        answer = yield from self._ask(Write(new.key, new.packed, ttl=self._life, version=new.version, expect=expect))
        if not isinstance(answer, Written):
            raise StoreUnavailable("the store did not keep a record under a new id")

    # --- a change -----------------------------------------------------------------------------------------------------

    def _write(self, mine: bytes, packed: bytes, now: float, *, late: bool) -> Steps[CookieChange]:
        standing = self._standing
        assert standing is not None
        while packed != standing.packed:
            holds_data = packed != self._pack({})
            new = replace(standing, version=new_version(), packed=packed)
            if not holds_data:
                new.ends_at = now + min(LONGEST_REQUEST, self._life)
            elif not late or standing.ends_at <= now:
                new.ends_at = self._end_of(standing, now)
            write = Write(new.key, packed, ttl=new.ends_at - now, version=new.version, expect=standing.version)
            answer = yield from self._ask(write)
            match answer:
                case Written():
                    self._standing, self.session._ends = new, new.ends_at
                    if not holds_data:
                        return CookieChange.REMOVE
                    return CookieChange.SET if new.ends_at != standing.ends_at else CookieChange.KEEP
                case _Record() if answer.successors is None:
                    self._standing = standing = answer
                    packed = self._merged(mine, standing)
                case _Record():  # a stone: a later ending must still find what it names
                    self._standing = answer
                    return self._drop(_State.MOVED)
                case _:
                    return self._drop()
        return CookieChange.KEEP

    def _end_of(self, standing: _Record, now: float) -> float:
        whole = now + self._life
        return whole if whole - standing.ends_at > self._life * PROLONG_AFTER else standing.ends_at

    def _merged(self, mine: bytes, theirs: _Record) -> bytes:
        """`mine` and `theirs`, both made of what was last seen, as one.

        From the bytes, not from the app's mapping: that may have gone on changing while we waited.
        """
        base = {} if self._seen is None else self._data_of(self._seen)
        merged = merge(base, self._data_of(mine), self._data_of(theirs.packed))
        self.events.append("session.conflict_overridden" if merged.conflicts else "session.conflict_merged")
        return self._pack(merged.data)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _drop(self, state: _State = _State.GONE) -> CookieChange:
        self._state = state
        self.events.append("session.change_dropped")
        return CookieChange.KEEP

    def _only_a_cookie(self) -> CookieChange:
        """A life of no length: Starlette's expired cookie, once, and nothing is stored."""
        if not self.session or self._state is _State.GONE:
            return CookieChange.KEEP
        self.id, self._state = self._new_id(), _State.GONE
        return CookieChange.SET

    def _pack(self, data: dict[str, Any]) -> bytes:
        try:
            return self._vault.pack({"v": 1, "created_at": self._created, "data": dict(data)})
        except ValueNotSerializable as error:
            raise error.below(1, "request.session") from None

    def _data_of(self, packed: bytes) -> dict[str, Any]:
        data: dict[str, Any] = self._vault.unpack(packed)["data"]
        return data

    def _ask(self, operation: Operation) -> Steps[_Answer]:
        """Yield an operation; what stands there comes back as a `_Record`, also out of a conflict.

        Raises what failed. A damaged record counts as none: that session has ended.
        """
        outcome = yield operation
        if isinstance(outcome, Conflict):
            outcome = outcome.stands
        match outcome:
            case Kept(value=packed, version=version, ends_at=ends_at):
                try:
                    content = self._vault.unpack(packed)
                except DamagedValue:
                    return Missing()
                if not isinstance(content, dict) or content.get("v") != 1:
                    raise UnknownFormat("a session was written in a form that this release does not know")
                return _Record(operation.key, version, packed, ends_at, content)
            case Failed(error=DamagedValue()):
                return Missing()
            case Failed(error=error):
                raise error
            case Written() | Deleted() | Missing():
                return outcome
        raise TypeError("records answer with what they have opened")


_Answer = Written | Deleted | Missing | _Record
