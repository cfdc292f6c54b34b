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
   then deletes the stone, so that nobody names one more.
2. A new id: first the new record is written, then the old one becomes a *stone*, which names its successors and lives
   as long as the longest request. If the old one was ended in between, the new one is taken back. So whichever of
   logout and new id comes last sees the other.
3. A change that meets another change is merged with it (`merge`); one that meets a stone, or nothing, is dropped.
4. A session emptied key by key is kept, empty, as long as the longest request, so that a change in flight still merges.
5. A change prolongs the life of record and cookie together, once a tenth of it is gone; until then neither is touched.
   A cookie sent at every change could arrive after, and overwrite, the one of a login in another tab.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from serverless_session.errors import DamagedValue, StoreUnavailable, UnknownFormat, ValueNotSerializable
from serverless_session.records.records import Kept
from serverless_session.sessions.cookie import SessionId
from serverless_session.sessions.merge import merge
from serverless_session.sessions.session import Session
from serverless_session.stores.contract import (
    ABSENT,
    Conflict,
    Delete,
    Deleted,
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


class Cookie(Enum):
    """What a save means for the browser's cookie."""

    KEEP = auto()
    SET = auto()
    REMOVE = auto()


class _State(Enum):
    NOTHING = auto()
    LIVE = auto()
    MOVED = auto()
    GONE = auto()


@dataclass(slots=True)
class _Standing:
    """The record as it stands in the store, as far as we know."""

    key: str
    version: Version
    packed: bytes
    ends_at: float


class Visit:
    """One request's dealings with one session. `life`: seconds a session lives after it was last prolonged."""

    def __init__(self, vault: Vault, new_id: Callable[[], SessionId], *, life: float) -> None:
        self.session = Session()
        self.id: SessionId | None = None
        """The id that the cookie must carry after a save that answered `Cookie.SET`."""
        self.events: list[str] = []
        """What happened that an operator may want to know: stable names, no contents."""
        self._vault = vault
        self._new_id = new_id
        self._life = life
        self._state = _State.NOTHING
        self._standing: _Standing | None = None
        self._successors: list[str] = []
        self._created = 0.0
        self._seen = b""  # the record that the app's mapping was, when it and the store last agreed

    # --- load ---------------------------------------------------------------------------------------------------------

    def load(self, session_id: SessionId | None, *, now: float) -> Steps[None]:
        """Find out where we stand and fill `session`. No id: no trip."""
        found: Outcome = Missing()
        if session_id is not None and self._life > 0:
            found = yield from _ask(Read(self._vault.key(session_id.secret)))
        if session_id is None or not isinstance(found, Kept):
            self._begin(now)
            return
        record = self._vault.unpack(found.value)
        self._standing = _Standing(self._vault.key(session_id.secret), found.version, found.value, found.ends_at)
        if (successors := _successors_of(record)) is not None:
            self._begin(now)
            self._state, self._successors = _State.MOVED, successors
            return
        data, self._created = _session_of(record)
        self.id, self._state, self._seen = session_id, _State.LIVE, found.value
        self.session = Session(data, created=self._created, ends=found.ends_at, is_new=False)

    def _begin(self, now: float) -> None:
        self._created = now
        self.session = Session(created=now, ends=now + max(self._life, 0))
        self._seen = self._pack({})

    # --- save ---------------------------------------------------------------------------------------------------------

    def needs_cookie(self) -> bool:
        """Would a save now have to hand the browser a new id?"""
        session = self.session
        if session._cleared or session._regenerated:
            return session._regenerated or bool(session)
        return self._state is _State.NOTHING and bool(session)

    def save(self, *, now: float) -> Steps[Cookie]:
        """Carry out what the app has asked for and changed. May be called again: it then saves what came since.

        Raises `ValueNotSerializable`, before anything is yielded, for contents that cannot be kept.
        """
        session = self.session
        cleared, regenerated = session._cleared, session._regenerated
        packed = self._pack(session)
        if cleared and not session:
            return (yield from self.end())
        if not cleared and not regenerated and packed == self._seen:
            return Cookie.KEEP
        if self._life <= 0:
            return self._only_a_cookie()
        if cleared or regenerated:
            cookie = yield from self._move(packed, now, carry=not cleared)
        elif self._state is _State.LIVE:
            cookie = yield from self._write(packed, now)
        elif self._state is _State.NOTHING:
            cookie = (yield from self._move(packed, now, carry=True)) if session else Cookie.KEEP
        else:
            cookie = self._drop()
        session._cleared = session._regenerated = False
        self._seen = packed
        return cookie

    def end(self) -> Steps[Cookie]:
        """Carry out an ending alone: what is left to do when the request ended in an exception."""
        session, standing, ended = self.session, self._standing, False
        if not session._cleared:
            return Cookie.KEEP
        if standing is not None and self._state in (_State.LIVE, _State.MOVED):
            stands = Kept(standing.packed, standing.version, ends_at=standing.ends_at)
            ended = yield from self._end_what_stands(standing.key, stands)
        if self._state is not _State.NOTHING:
            self._state = _State.GONE
        session._cleared = session._regenerated = False
        self._seen = self._pack({})
        return Cookie.REMOVE if ended else Cookie.KEEP

    # --- endings ------------------------------------------------------------------------------------------------------

    def _end_what_stands(self, key: str, stands: Kept) -> Steps[bool]:
        """Delete a record by version, a stone after its successors. True: something live was ended."""
        ended = False
        while True:
            successors = _successors_of(self._vault.unpack(stands.value))
            for successor in successors or ():
                found = yield from _ask(Read(successor))
                if isinstance(found, Kept):
                    ended |= yield from self._end_what_stands(successor, found)
            outcome = yield from _ask(Delete(key, expect=stands.version))
            match outcome:
                case Deleted():
                    return ended or successors is None
                case Conflict(stands=Kept() as newer):
                    stands = newer
                case _:
                    return ended

    # --- a new id -----------------------------------------------------------------------------------------------------

    def _move(self, packed: bytes, now: float, *, carry: bool) -> Steps[Cookie]:
        """Begin a record under a new id, make a stone of the old one; `carry`: merge in what happened to it since."""
        new_id = self._new_id()
        if not carry:
            self._created = now
            packed = self._pack(self.session)
        new = _Standing(self._vault.key(new_id.secret), new_version(), packed, now + self._life)
        yield from _put(new, ABSENT, ttl=self._life)
        if self._standing is not None and self._state is not _State.GONE:
            taken_back = yield from self._leave_stone(self._standing, new, carry=carry)
            if taken_back:
                return self._drop()
        self.id, self._state, self._standing = new_id, _State.LIVE, new
        self.session._ends = new.ends_at
        return Cookie.SET

    def _leave_stone(self, old: _Standing, new: _Standing, *, carry: bool) -> Steps[bool]:
        """Make a stone of the old record. True: it was ended meanwhile, and the new one was taken back."""
        successors = self._successors
        while True:
            stone = self._vault.pack({"v": 1, "moved_to": [*successors, new.key]})
            ttl, version = min(LONGEST_REQUEST, self._life), new_version()
            outcome = yield from _ask(Write(old.key, stone, ttl=ttl, version=version, expect=old.version))
            match outcome:
                case Written():
                    return False
                case Conflict(stands=Kept() as stands):
                    old.version = stands.version
                    record = self._vault.unpack(stands.value)
                    others = _successors_of(record)
                    if others is not None:
                        successors = others
                    elif carry:
                        yield from self._carry_over(_session_of(record)[0], new)
                case _ if self._state is _State.MOVED:
                    return False  # the stone's time is over; nobody comes with the old id any more
                case _:
                    yield from _ask(Delete(new.key, expect=new.version))
                    return True

    def _carry_over(self, theirs: dict[str, Any], new: _Standing) -> Steps[None]:
        packed = self._pack(self._merged_with(theirs))
        if packed != new.packed:
            version, expected = new_version(), new.version
            new.packed, new.version = packed, version
            yield from _put(new, expected, ttl=self._life)

    # --- a change -----------------------------------------------------------------------------------------------------

    def _write(self, packed: bytes, now: float) -> Steps[Cookie]:
        standing = self._standing
        assert standing is not None
        if standing.packed != self._seen:  # an earlier save of this request has merged in what the app has not seen
            packed = self._pack(self._merged_with(_session_of(self._vault.unpack(standing.packed))[0]))
        while packed != standing.packed:
            ends_at = self._end_of(packed, standing.ends_at, now)
            version = new_version()
            write = Write(standing.key, packed, ttl=ends_at - now, version=version, expect=standing.version)
            outcome = yield from _ask(write)
            match outcome:
                case Written():
                    prolonged = ends_at != standing.ends_at
                    self._standing = _Standing(standing.key, version, packed, ends_at)
                    self.session._ends = ends_at
                    if not self._holds_data(packed):
                        return Cookie.REMOVE
                    return Cookie.SET if prolonged else Cookie.KEEP
                case Conflict(stands=Kept() as stands):
                    record = self._vault.unpack(stands.value)
                    if _successors_of(record) is not None:
                        return self._drop()
                    self._standing = standing = _Standing(standing.key, stands.version, stands.value, stands.ends_at)
                    packed = self._pack(self._merged_with(_session_of(record)[0]))
                case _:
                    return self._drop()
        return Cookie.KEEP

    def _end_of(self, packed: bytes, ends_at: float, now: float) -> float:
        if not self._holds_data(packed):
            return now + min(LONGEST_REQUEST, self._life)
        whole = now + self._life
        return whole if whole - ends_at > self._life * PROLONG_AFTER else ends_at

    def _holds_data(self, packed: bytes) -> bool:
        return packed != self._pack({})

    def _merged_with(self, theirs: dict[str, Any]) -> dict[str, Any]:
        base, _ = _session_of(self._vault.unpack(self._seen))
        merged = merge(base, self.session, theirs)
        self.events.append("session.conflict_overridden" if merged.conflicts else "session.conflict_merged")
        return merged.data

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _drop(self) -> Cookie:
        self._state = _State.GONE
        self.events.append("session.change_dropped")
        return Cookie.KEEP

    def _only_a_cookie(self) -> Cookie:
        """A life of no length: Starlette's expired cookie, once, and nothing is stored."""
        if not self.session or self._state is _State.GONE:
            return Cookie.KEEP
        self.id, self._state = self._new_id(), _State.GONE
        return Cookie.SET

    def _pack(self, data: dict[str, Any]) -> bytes:
        try:
            return self._vault.pack({"v": 1, "created_at": self._created, "data": dict(data)})
        except ValueNotSerializable as error:
            raise error.below(1, "request.session") from None


def _ask(operation: Operation) -> Steps[Outcome]:
    """Yield an operation; raise what failed. A damaged record counts as none: that session has ended."""
    outcome = yield operation
    match outcome:
        case Failed(error=DamagedValue()):
            return Missing() if isinstance(operation, Read) else Conflict(Missing())
        case Failed(error=error):
            raise error
    return outcome


def _put(new: _Standing, expect: Any, *, ttl: float) -> Steps[None]:
    """Write where nobody else can: under an id that only this request knows."""
    outcome = yield from _ask(Write(new.key, new.packed, ttl=ttl, version=new.version, expect=expect))
    if not isinstance(outcome, Written):
        raise StoreUnavailable("the store did not keep a record under a new id")


def _successors_of(record: Any) -> list[str] | None:
    """The keys that a stone names; None if the record is no stone."""
    if not isinstance(record, dict) or record.get("v") != 1:
        raise UnknownFormat("a session was written in a form that this release does not know")
    successors: list[str] | None = record.get("moved_to")
    return successors


def _session_of(record: dict[str, Any]) -> tuple[dict[str, Any], float]:
    return record["data"], record["created_at"]
