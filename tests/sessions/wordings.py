"""Broken wordings of the rules: each is how sessions were, or could have been, written, and each must be caught."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from serverless_session.sessions import lifecycle
from serverless_session.sessions.lifecycle import CookieChange, Visit, _State
from serverless_session.sessions.merge import Merged
from serverless_session.sessions.record import Record, Steps, ask, data_of
from serverless_session.sessions.session import Asked
from serverless_session.stores import ABSENT, ANYTHING, Conflict, Delete, Outcome, Write, Written, new_version


class NeverTakenBack(Visit):
    """A new id stands, whatever became of the old one meanwhile."""

    def _leave_stone(self, old: Record, new: Record, mine: bytes, asked: Asked, now: float) -> Steps[bool]:
        steps = super()._leave_stone(old, new, mine, asked, now)
        outcome = None
        while True:
            try:
                operation = steps.send(outcome) if outcome is not None else next(steps)
            except StopIteration:
                return True
            if isinstance(operation, Delete):
                return True
            outcome = yield operation


class EndingLeavesStones(Visit):
    """An ending that meets a stone ends its successors, and leaves the stone to name one more."""

    def _end(self) -> Steps[CookieChange]:
        steps = super()._end()
        outcome: Outcome | None = None
        stones: set[str] = set()
        while True:
            try:
                operation = steps.send(outcome) if outcome is not None else next(steps)
            except StopIteration:
                return CookieChange.REMOVE
            if isinstance(operation, Delete) and operation.key in stones:
                return CookieChange.REMOVE
            outcome = yield operation
            if isinstance(outcome, Conflict):
                stones.add(operation.key)


class NoStone(Visit):
    """The old record is deleted, so that a logout finds nothing to end."""

    def _leave_stone(self, old: Record, new: Record, mine: bytes, asked: Asked, now: float) -> Steps[bool]:
        yield Delete(old.key, expect=old.version)
        return True


class OrdinaryStone(Visit):
    """What is written after a logout leaves the stone of any new id."""

    def _leave_stone(self, old: Record, new: Record, mine: bytes, asked: Asked, now: float) -> Steps[bool]:
        return super()._leave_stone(old, new, mine, Asked(new_id=True), now)


class EndsItsSiblings(Visit):
    """A new id ends whatever else the old one has become."""

    def _leave_stone(self, old: Record, new: Record, mine: bytes, asked: Asked, now: float) -> Steps[bool]:
        return super()._leave_stone(old, new, mine, Asked(ending=True), now)


class NewSessionInsteadOfADrop(Visit):
    """A change whose session has moved begins a session of its own, with a cookie."""

    def _drop(self, state: _State = _State.GONE) -> CookieChange:
        self._moved_away = True
        return super()._drop(state)

    def _write(self, mine: bytes, asked: Asked, now: float, *, late: bool) -> Steps[CookieChange]:
        self._moved_away = False
        change = yield from super()._write(mine, asked, now, late=late)
        if self._moved_away:
            self._standing = None
            change = yield from self._move(asked, now)
        return change


class LastWriteWins(Visit):
    """A change is written over whatever stands there, as most session stores do."""

    def _write(self, mine: bytes, asked: Asked, now: float, *, late: bool) -> Steps[CookieChange]:
        steps = super()._write(mine, asked, now, late=late)
        outcome: Outcome | None = None
        while True:
            try:
                operation = steps.send(outcome) if outcome is not None else next(steps)
            except StopIteration as stop:
                change: CookieChange = stop.value
                return change
            outcome = yield replace(operation, expect=ANYTHING) if isinstance(operation, Write) else operation


class CookieOfAnEmptySession(Visit):
    """A new id that finds only a stone is given to an empty session."""

    def _nothing_to_move(self, asked: Asked) -> bool:
        return False


class StoneTellsNothing(Visit):
    """A new id that meets another's stone goes by what its own request had loaded."""

    def _with_what_stands(self, mine: bytes, standing: Record, asked: Asked) -> dict[str, Any]:
        if standing.facts is None:
            return data_of(self._vault, mine)
        return super()._with_what_stands(mine, standing, asked)


class DeletionStaysBehind(Visit):
    """What was deleted of a session that moved is forgotten like any other change."""

    def _deleted(self, mine: bytes) -> list[list[str]]:
        return []


class DeletionIsNotNoted(Visit):
    """What was deleted of a session that moved is deleted where it has gone by now, and who comes later never knows."""

    def _write(self, mine: bytes, asked: Asked, now: float, *, late: bool) -> Steps[CookieChange]:
        steps = super()._write(mine, asked, now, late=late)
        outcome: Outcome | None = None
        while True:
            try:
                operation = steps.send(outcome) if outcome is not None else next(steps)
            except StopIteration as stop:
                change: CookieChange = stop.value
                return change
            standing = self._standing
            on_a_stone = standing is not None and standing.facts is None and operation.key == standing.key
            outcome = Written() if on_a_stone else (yield operation)


class SiblingsDoNotJoin(Visit):
    """Two new ids at once know nothing of each other."""

    def _joined(self, siblings: Sequence[str], new: Record, now: float) -> Steps[bool]:
        yield from ()
        return True


class _Merging(Visit):
    """A visit that merges by another rule."""

    def _with_what_stands(self, mine: bytes, standing: Record, asked: Asked) -> dict[str, Any]:
        names = vars(lifecycle)
        real, names["merge"] = names["merge"], self.merge
        try:
            return super()._with_what_stands(mine, standing, asked)
        finally:
            names["merge"] = real

    def merge(self, base: Mapping[str, Any], mine: dict[str, Any], theirs: dict[str, Any], *_: object) -> Merged:
        raise NotImplementedError


class LaterWins(_Merging):
    """A key that both have changed is what the later one makes of it; a deletion is a change like any other."""

    def merge(self, base: Mapping[str, Any], mine: dict[str, Any], theirs: dict[str, Any], *_: object) -> Merged:
        changed = {key for key in base.keys() | mine.keys() if base.get(key, ...) != mine.get(key, ...)}
        kept = {key: value for key, value in theirs.items() if key not in changed}
        return Merged(kept | {key: mine[key] for key in changed if key in mine}, 0)


class NoMerge(_Merging):
    """The later one overwrites all."""

    def merge(self, base: Mapping[str, Any], mine: dict[str, Any], theirs: dict[str, Any], *_: object) -> Merged:
        return Merged(mine, 0)


class Resurrects(Visit):
    """A save that finds nothing writes what it has: an upsert, as most stores of sessions do."""

    def _write(self, mine: bytes, asked: Asked, now: float, *, late: bool) -> Steps[CookieChange]:
        change = yield from super()._write(mine, asked, now, late=late)
        if self._state is _State.GONE and self._standing is not None:
            again = Write(self._standing.key, mine, ttl=100, version=new_version(), expect=ABSENT)
            yield from ask(self._vault, again)
        return change


class RenewsWhatIsGone(Visit):
    """A use writes what it has loaded, if nothing stands there."""

    def _renew(self, now: float, *, late: bool) -> Steps[CookieChange]:
        change = yield from super()._renew(now, late=late)
        if self._state is _State.GONE and self._standing is not None:
            again = Write(self._standing.key, self._standing.packed, ttl=100, version=new_version(), expect=ABSENT)
            yield from ask(self._vault, again)
        return change
