"""The rules of a session's life, sans-I/O: everything that two requests at once could break is decided here.

`Visit` is one request's dealings with one session. `load`, `save`, `reload` and `end` are generators: they yield
operations of the store contract, are sent the outcomes, and never wait, look at a clock or know where bytes are kept.
So a test can run the steps of several visits in every order.

Where a visit stands:

    NOTHING   no cookie, one whose record is not there,      -> what is written begins a session with a new id
              or we have ended it
    LIVE      the record was loaded                          -> changes are written by compare-and-set, or merged
    MOVED     a stone was found: the session has a new id    -> plain changes are dropped, no cookie is touched
    GONE      it was ended, moved or forgotten while we ran  -> the same

Rules, each a compare-and-set on the record's version:

1. An ending deletes the record; where it meets a change it deletes that; where it meets a stone it ends the successors,
   then deletes the stone, so that nobody names one more. Where something was written after the ending, it leaves a
   stone that says so and names only the session of that.
2. A new id: first the new record is written, then the old one becomes a *stone*, which names its successors and lives
   as long as the longest request. If the old one was ended in between, the new one is taken back. So whichever of
   ending and new id comes last sees the other. Two new ids at once live on as siblings (`family`).
3. A change that meets another change is merged with it (`merge`); one that meets a stone, or nothing, is dropped. But
   what it deleted is deleted on the stone, for who adds a successor later, and then in the successors: a logout may be
   written as a deletion. Nothing else crosses a new id, in neither direction: who has only the old one may be anybody.
4. A session emptied key by key is kept, empty, as long as the longest request, so that a change in flight still merges.
   One that somebody is logged in to is never empty.
5. A change prolongs the life of record and cookie together, and so may a use (`lifetime`). A use that cannot be written
   costs nothing but itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from serverless_session.errors import SessionConflict, SessionTooLarge, StoreError, StoreUnavailable
from serverless_session.sessions.cookie import SessionId
from serverless_session.sessions.family import delete_in, delete_in_all, end_all, end_record, join, siblings_of, union
from serverless_session.sessions.lifetime import Facts, Lifetime
from serverless_session.sessions.merge import (
    NO_RULES,
    FunctionRaised,
    MergeRules,
    deleted_paths,
    merge,
    without,
)
from serverless_session.sessions.record import Record, Steps, ask, data_of, holds, mark_of, pack_session, pack_stone
from serverless_session.sessions.session import Asked, Session
from serverless_session.stores.contract import (
    ABSENT,
    Delete,
    Expected,
    Read,
    Write,
    Written,
    new_version,
)

if TYPE_CHECKING:
    from serverless_session.records.records import Vault

LONGEST_REQUEST: Final = 60.0
"""Seconds that a stone, or a session emptied key by key, stays for the requests that are still running."""


_NOTHING_ASKED: Final = Asked()


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


class Rules(NamedTuple):
    """What a middleware's settings say about every visit."""

    lifetime: Lifetime = Lifetime()
    merge: MergeRules = NO_RULES
    refuse_conflicts: bool = False
    """Where the later change would win, raise `SessionConflict` instead."""
    largest_bytes: int = 65_536


class Visit:
    """One request's dealings with one session."""

    def __init__(self, vault: Vault, new_id: Callable[[], SessionId], rules: Rules) -> None:
        self.session = Session()
        self.id: SessionId | None = None
        """The id that the cookie must carry after a save that answered `CookieChange.SET`."""
        self.cookie_age: int | None = None
        """And the Max-Age that it must have; None: it ends with the browser."""
        self.events: list[tuple[str, dict[str, int | str]]] = []
        """What happened that an operator may want to know: names and fields of `events`, no contents."""
        self._vault = vault
        self._new_id = new_id
        self._rules = rules
        self._lifetime = rules.lifetime
        self._state = _State.NOTHING
        self._standing: Record | None = None
        self._facts = Facts(created_at=0.0)
        self._removed = False  # the browser was told to forget the id
        self._renewal_failed = False
        self._has_saved = False  # or tried to
        self._has_merged = False  # what a save keeps is more than the app has made
        self._seen: bytes | None = None  # contents and `_facts` when the app's mapping was last in step with the store
        self._mark: bytes | None = None  # what tells that it still is, if it does; None: that must be looked up

    # --- load ---------------------------------------------------------------------------------------------------------

    def load(self, session_id: SessionId | None, *, now: float) -> Steps[None]:
        """Find out where we stand and fill `session`. No id: no trip."""
        found: Record | object = None
        if session_id is not None and self._lifetime.stores:
            found = yield from ask(self._vault, Read(self._vault.key(session_id.secret)))
        if isinstance(found, Record):
            self._standing = found
            if found.facts is not None:
                self.id, self._state = session_id, _State.LIVE
                self._facts, self._seen = found.facts, found.packed
                self._mark = mark_of(found.data)
                self.session = Session(found.data, found.facts, ends=found.ends_at, is_new=False)
                return
            self._state = _State.MOVED
        self._facts = Facts(created_at=now)
        ends = self._lifetime.end(self._lifetime.begun(self._facts, now), now)
        self.session = Session(facts=self._facts, ends=max(ends, now))

    def reload(self) -> Steps[bool]:
        """Look again: what others have changed comes into `session`, what the app has changed stays in it, unsaved.

        False: the session was ended, moved or forgotten meanwhile, and is empty now; or it has not begun, as what the
        app has written after an ending of its own. Nothing of the session that it ends may come into that.
        """
        if self._state is not _State.LIVE or self._standing is None or self.session._asked.ending:
            return False
        found = yield from ask(self._vault, Read(self._standing.key))
        if isinstance(found, Record) and found.facts is not None:
            mine = self._pack(self._facts, self.session)
            self.session._replace(self._with_what_stands(mine, found, self.session._asked))
            self._standing, self._facts, self._seen, self._mark = found, found.facts, found.packed, None
            self.session._ends = found.ends_at
            return True
        self._state = _State.GONE
        if isinstance(found, Record):
            self._standing, self._state = found, _State.MOVED
        self.forget()
        return False

    def forget(self) -> None:
        """What was loaded is over: the app's mapping shows nothing of it any more, and nothing of it can be saved."""
        self._facts, self._seen, self._mark = Facts(created_at=self._facts.created_at), None, None
        self.session._replace({})
        self.session._keep(self._facts, ends=self.session._ends)

    # --- save ---------------------------------------------------------------------------------------------------------

    @property
    def standing_key(self) -> str | None:
        """The key under which others may be saving this session at the same time."""
        return self._standing.key if self._standing is not None else None

    @property
    def over(self) -> bool:
        """The session that was loaded is known to have ended, or to have another id now."""
        return self._lifetime.stores and self._state in (_State.MOVED, _State.GONE)

    def is_settled(self) -> bool:
        """Is it certain that a save now has nothing to do? Most requests only read, and look three times."""
        session = self.session
        if self._removed or session._asked != _NOTHING_ASKED or self._lifetime.renews_on_use:
            return False
        if session.modified and not self._has_saved:  # a look would most likely find a change, and the save look again
            return False
        if self._state is _State.LIVE:
            return self._mark is not None and mark_of(session) == self._mark
        return self._state is _State.NOTHING and not session

    def needs_cookie(self) -> bool:
        """Would a save now have to hand the browser an id that it does not have?"""
        asked, holds = self.session._asked, bool(self.session) or self.session._asked.login is not None
        if asked.ending or self._state is not _State.LIVE:
            return holds and (asked.ending or asked.new_id or self._state is _State.NOTHING)
        return asked.new_id or (self._removed and holds)

    def save(self, *, now: float, late: bool = False) -> Steps[CookieChange]:
        """Carry out what the app has asked for and changed. May be called again: it then saves what came since.

        `late`: no cookie can be sent any more, so what a cookie would have to follow is not prolonged either.
        Raises `ValueNotSerializable`, `SessionTooLarge` and `SessionConflict` for changes that cannot be kept, and what
        a function raises that runs again; what is stored stays as it is. What was asked for and not carried out because
        of an exception is asked for again by the next call, but for that function.
        """
        asked = self.session._take_asked()
        self._has_saved, self._has_merged = True, False
        try:
            change = yield from self._save(asked, now, late=late)
            if change is not CookieChange.KEEP and not late:
                self._removed = change is CookieChange.REMOVE
            return change
        except FunctionRaised as raised:
            left = {key: changed for key, changed in asked.changed.items() if key != raised.key}
            self.session._ask_again(asked._replace(changed=left))
            raise raised.error from None
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
        if asked.ending and not asked.new_id and not session:
            return (yield from self._end())
        if self._nothing_to_move(asked):
            return CookieChange.KEEP
        if asked.ending or asked.new_id or self._state is _State.NOTHING:
            return (yield from self._move(asked, now))
        mark = mark_of(session)  # before it is packed: a thread of the app may change it meanwhile, and must be noticed
        if mark is not None and mark == self._mark:
            return (yield from self._renew(now, late=late))
        mine = self._pack(self._facts, session)
        if mine == self._seen:
            self._mark = mark
            return (yield from self._renew(now, late=late))
        if not self._lifetime.stores:
            return CookieChange.KEEP
        if self._state is _State.LIVE:
            change = yield from self._write(mine, asked, now, late=late)
        else:
            change = self._drop(self._state)
        self._catch_up(mine, mark)
        return change

    def _nothing_to_move(self, asked: Asked) -> bool:
        """A new id for nothing, where there was nothing: its cookie could throw a successor's away."""
        return self._state is not _State.LIVE and not self.session and asked.login is None

    # --- endings ------------------------------------------------------------------------------------------------------

    def _end(self) -> Steps[CookieChange]:
        ended = False
        if self._standing is not None and self._state in (_State.LIVE, _State.MOVED):
            ended = yield from end_record(self._vault, self._standing)
        self._state, self._seen, self._mark = _State.NOTHING, None, None  # what is written after it begins a session
        return CookieChange.REMOVE if ended else CookieChange.KEEP

    # --- a new id -----------------------------------------------------------------------------------------------------

    def _move(self, asked: Asked, now: float) -> Steps[CookieChange]:
        """Begin a record under a new id, and make a stone of the old one. What was ended is not carried along."""
        facts, mark = self._facts_after(asked, now), mark_of(self.session)
        mine = self._pack(facts, self.session)
        if not self._lifetime.stores:
            return self._only_a_cookie(facts, now)
        ends_at = self._lifetime.end(facts, now)
        if ends_at <= now:
            return self._drop()  # a new id does not start the absolute time-out anew
        old = self._standing if self._state in (_State.LIVE, _State.MOVED) else None
        if old is not None and not asked.ending:  # an earlier save may have met siblings
            facts = facts._replace(siblings=union(facts.siblings or (), siblings_of(old)))
        new_id, packed = self._new_id(), mine
        if old is not None:
            # An earlier save may have merged in what the app has not seen.
            others = old.facts is not None and not asked.ending
            data = self._with_what_stands(mine, old, asked) if others else data_of(self._vault, mine)
            packed = self._pack(facts, data)
        self._refuse_too_large(packed, old)
        new = Record(self._vault.key(new_id.secret), new_version(), packed, ends_at, facts, holds=True)
        yield from self._put(new, ABSENT, now)
        if old is not None:
            try:
                stays = yield from self._leave_stone(old, new, mine, asked, now)
            except StoreError:
                raise
            except Exception:  # the two could not be merged
                yield from ask(self._vault, Delete(new.key, expect=new.version))
                raise
            if not stays:
                return self._drop()
        self.id, self._state, self._standing = new_id, _State.LIVE, new
        self._facts = facts
        self._catch_up(mine, mark)
        self.session._keep(self._facts, ends=new.ends_at)
        return self._set(facts, now)

    def _facts_after(self, asked: Asked, now: float) -> Facts:
        """The facts of the session under its new id."""
        facts = Facts(created_at=now) if asked.ending or self._state is _State.NOTHING else self._facts
        if asked.login is not None:
            user_id, max_age, at = asked.login
            facts = facts._replace(user_id=user_id, authenticated_at=at, max_age=max_age)
        return self._lifetime.begun(facts, now)

    def _leave_stone(self, old: Record, new: Record, mine: bytes, asked: Asked, now: float) -> Steps[bool]:
        """Make a stone of the old record. False: it was ended meanwhile, and the new one was taken back."""
        carry, ttl = not asked.ending, min(LONGEST_REQUEST, new.ends_at - now)
        deleted = self._deleted(mine) if carry else []
        while True:
            successors, left = list(old.successors), without(data_of(self._vault, old.packed), deleted)
            if not carry:  # an ending, which what was written after it outlives, but nothing else
                yield from end_all(self._vault, [*successors, *siblings_of(old)])
                successors, left = [], {}
            stone = pack_stone(self._vault, [*successors, new.key], left, ended=old.ended or not carry)
            write = Write(old.key, stone, ttl=ttl, version=new_version(), expect=old.version)
            answer = yield from ask(self._vault, write)
            match answer:
                case Written() if carry and self._state is _State.LIVE:
                    for sibling in siblings_of(old):  # one that has ended has ended `old`, or will find the stone
                        yield from join(self._vault, sibling, new.key, now, in_place_of=old.key)
                    return (yield from self._joined(successors, new, now))
                case Written():
                    return True
                case Record() if carry and answer.ended and self._state is _State.LIVE:
                    return (yield from self._taken_back(new))
                case Record():
                    old = answer
                    if carry and self._state is _State.LIVE and new.facts is not None:
                        siblings = union(siblings_of(new), siblings_of(old), old.successors)
                        new.facts = new.facts._replace(siblings=siblings)
                        packed = self._pack(new.facts, self._with_what_stands(mine, old, asked))
                        self._refuse_too_large(packed, old)
                        yield from self._put_again(new, packed, now)
                case _ if not carry or self._state is _State.MOVED:
                    return True  # there is nothing left that an ending of it would have to reach
                case _:
                    return (yield from self._taken_back(new))

    def _joined(self, siblings: Sequence[str], new: Record, now: float) -> Steps[bool]:
        """Let what others have made of the old id at the same time name the new one. False: that has ended already."""
        assert new.facts is not None
        base = {} if self._seen is None else data_of(self._vault, self._seen)
        for key in siblings:
            held = yield from join(self._vault, key, new.key, now)
            if held is None:
                return (yield from self._taken_back(new))
            paths = [path for data in held for path in deleted_paths(base, data)]
            left = without(data_of(self._vault, new.packed), paths)
            yield from self._put_again(new, self._pack(new.facts, left), now)
        return True

    def _taken_back(self, new: Record) -> Steps[bool]:
        yield from ask(self._vault, Delete(new.key, expect=new.version))
        return False

    def _put(self, new: Record, expect: Expected, now: float) -> Steps[None]:
        """Write where nobody else can: under an id that only this request knows."""
        write = Write(new.key, new.packed, ttl=new.ends_at - now, version=new.version, expect=expect)
        answer = yield from ask(self._vault, write)
        if not isinstance(answer, Written):
            raise StoreUnavailable("the store did not keep a record under a new id")

    def _put_again(self, new: Record, packed: bytes, now: float) -> Steps[None]:
        if packed != new.packed:
            expected, new.packed, new.version = new.version, packed, new_version()
            yield from self._put(new, expected, now)

    def _only_a_cookie(self, facts: Facts, now: float) -> CookieChange:
        """A life of no length: Starlette's expired cookie, once, and nothing is stored."""
        if not self.session or self._state is _State.GONE:
            return CookieChange.KEEP
        self.id, self._state = self._new_id(), _State.GONE
        return self._set(facts, now)

    # --- a change -----------------------------------------------------------------------------------------------------

    def _write(self, mine: bytes, asked: Asked, now: float, *, late: bool) -> Steps[CookieChange]:
        standing, mine_has_contents = self._standing, bool(self.session)
        assert standing is not None
        while True:
            assert standing.facts is not None
            data = None if standing.packed == self._seen else self._with_what_stands(mine, standing, asked)
            has_contents = bool(data) if data is not None else mine_has_contents
            facts, ends_at = self._prolonged(standing, now, has_contents=has_contents, late=late)
            if ends_at <= now:
                return self._drop()  # its time was over before it could be saved
            packed = mine  # mostly nobody else wrote and no fact changes: it is packed already (35 us for 1 KiB)
            if data is not None or facts != self._facts:
                packed = self._pack(facts, data_of(self._vault, mine) if data is None else data)
            if packed == standing.packed:
                return CookieChange.KEEP
            self._refuse_too_large(packed, standing)
            new = Record(standing.key, new_version(), packed, ends_at, facts, holds=holds(has_contents, facts))
            write = Write(new.key, packed, ttl=ends_at - now, version=new.version, expect=standing.version)
            answer = yield from ask(self._vault, write)
            match answer:
                case Written():
                    self._standing, self.session._ends = new, ends_at
                    yield from self._delete_in_siblings(new, mine, now)
                    if not new.holds:
                        return CookieChange.REMOVE
                    return (
                        self._set(facts, now) if self._cookie_is_due(standing, facts, late=late) else CookieChange.KEEP
                    )
                case Record() if answer.facts is not None:
                    self._standing = standing = answer
                case Record():  # a later ending must still find what the stone names
                    self._standing = answer
                    if deleted := self._deleted(mine):
                        yield from delete_in(self._vault, answer, deleted, now)
                    return self._drop(_State.MOVED)
                case _:
                    return self._drop()

    def _prolonged(self, standing: Record, now: float, *, has_contents: bool, late: bool) -> tuple[Facts, float]:
        """The facts, and the end, of a session that is changed now. `late`: no cookie can follow any more."""
        facts = standing.facts
        assert facts is not None
        if not holds(has_contents, facts):
            return facts, min(self._lifetime.end(facts, now), now + LONGEST_REQUEST)
        if not late:
            lifetime = self._lifetime
            facts = lifetime.used(facts, now, changed=True) if standing.holds else lifetime.begun(facts, now)
        return facts, self._lifetime.end(facts, now)

    def _cookie_is_due(self, old: Record, facts: Facts, *, late: bool) -> bool:
        assert old.facts is not None
        if late:
            return False
        if self._removed or not old.holds:
            return True
        return facts.kept_until != old.facts.kept_until and self._lifetime.cookie_age(facts, 0.0) is not None

    def _deleted(self, mine: bytes) -> list[list[str]]:
        base = {} if self._seen is None else data_of(self._vault, self._seen)
        return deleted_paths(base, data_of(self._vault, mine))

    def _delete_in_siblings(self, record: Record, mine: bytes, now: float) -> Steps[None]:
        if siblings_of(record) and (deleted := self._deleted(mine)):
            yield from delete_in_all(self._vault, siblings_of(record), deleted, now)

    # --- a use --------------------------------------------------------------------------------------------------------

    def _renew(self, now: float, *, late: bool) -> Steps[CookieChange]:
        """A use that changed nothing: does it prolong the session by enough to be worth a trip?"""
        while self._state is _State.LIVE and self._lifetime.renews_on_use and not self._renewal_failed:
            standing = self._standing
            assert standing is not None
            assert standing.facts is not None
            facts = standing.facts if late else self._lifetime.used(standing.facts, now, changed=False)
            ends_at = self._lifetime.end(facts, now)
            worth = self._lifetime.worth_writing(facts, new_end=ends_at, old_end=standing.ends_at)
            if not worth or not standing.holds or ends_at <= now:  # the last: it ran down while the request did
                break
            packed = self._pack(facts, data_of(self._vault, standing.packed))
            new = Record(standing.key, new_version(), packed, ends_at, facts, holds=True)
            write = Write(new.key, new.packed, ttl=ends_at - now, version=new.version, expect=standing.version)
            try:
                answer = yield from ask(self._vault, write)
            except StoreError as error:
                self._renewal_failed = True
                self.events.append(("session.renewal_failed", {"error": error.code}))
                break
            match answer:
                case Written():
                    self._standing, self.session._ends = new, ends_at
                    return (
                        self._set(facts, now) if self._cookie_is_due(standing, facts, late=late) else CookieChange.KEEP
                    )
                case Record():
                    self._standing = answer
                    self._state = _State.MOVED if answer.facts is None else _State.LIVE
                case _:
                    self._state = _State.GONE
        return CookieChange.KEEP

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _with_what_stands(self, mine: bytes, standing: Record, asked: Asked) -> dict[str, Any]:
        """What the app has made of the session, and what others have, who began with the same, as one.

        From the bytes, not from the app's mapping: that may have gone on changing while we waited.
        """
        changed = data_of(self._vault, mine)
        if standing.packed == self._seen:
            return changed
        base = {} if self._seen is None else data_of(self._vault, self._seen)
        theirs = data_of(self._vault, standing.packed)
        if theirs == base:
            return changed
        try:
            merged = merge(base, changed, theirs, self._rules.merge, asked.functions_for(changed))
        except FunctionRaised as raised:
            self.session._withdraw(raised.key, theirs)
            raise
        self._has_merged = True
        if merged.conflicts == 0:
            self.events.append(("session.conflict_merged", {}))
        elif self._rules.refuse_conflicts:
            self.events.append(("session.conflict_refused", {"places": merged.conflicts}))
            raise SessionConflict(merged.conflicts)
        else:
            self.events.append(("session.conflict_overridden", {"places": merged.conflicts}))
        return merged.data

    def _catch_up(self, mine: bytes, mark: bytes | None) -> None:
        """Bring what was merged into the app's mapping, which may have gone on changing while we waited."""
        self._seen, self._mark = mine, mark
        if self._has_merged and self._state is _State.LIVE and self._standing is not None:
            stands = data_of(self._vault, self._standing.packed)
            self.session._replace(merge(data_of(self._vault, mine), dict(self.session), stands).data)
            assert self._standing.facts is not None
            self._facts, self._seen, self._mark = self._standing.facts, self._standing.packed, None

    def _drop(self, state: _State = _State.GONE) -> CookieChange:
        self._state = state
        self.events.append(("session.ended_elsewhere", {}))
        return CookieChange.KEEP

    def _set(self, facts: Facts, now: float) -> CookieChange:
        self.cookie_age = self._lifetime.cookie_age(facts, now)
        return CookieChange.SET

    def _refuse_too_large(self, packed: bytes, standing: Record | None) -> None:
        """Raise `SessionTooLarge` for more than fits, unless what stands is no smaller: it may become smaller still."""
        largest = self._rules.largest_bytes
        if len(packed) > largest and (standing is None or len(packed) > len(standing.packed)):
            self.events.append(("session.too_large", {"size_bytes": len(packed), "limit_bytes": largest}))
            raise SessionTooLarge(len(packed), largest)

    def _pack(self, facts: Facts, data: dict[str, Any]) -> bytes:
        return pack_session(self._vault, facts, data)
