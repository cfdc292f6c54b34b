"""Broken wordings of the rules: each is how sessions were, or could have been, written, and each must be caught."""

from collections.abc import Mapping
from typing import Any

from serverless_session.sessions import lifecycle
from serverless_session.sessions.lifecycle import CookieChange, Visit
from serverless_session.sessions.merge import Merged
from serverless_session.sessions.record import Record, Steps, ask
from serverless_session.sessions.session import Asked
from serverless_session.stores import ABSENT, Conflict, Delete, Outcome, Read, Write, new_version


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

    def _end_record(self, record: Record) -> Steps[bool]:
        steps = super()._end_record(record)
        outcome: Outcome | None = None
        stones: set[str] = set()
        while True:
            try:
                operation = steps.send(outcome) if outcome is not None else next(steps)
            except StopIteration as stop:
                return bool(stop.value)
            if isinstance(operation, Delete) and operation.key in stones:
                return True
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


class BeginsAgain(Visit):
    """Who finds no session to save to begins one, with a cookie, as most session middleware does."""

    def _drop(self, state: Any = None) -> CookieChange:
        self.id = self._new_id()
        return self._set(self._facts, 0.0)


class DeletionStaysBehind(Visit):
    """What was deleted of a session that moved is forgotten like any other change."""

    def _deleted(self, mine: bytes) -> list[list[str]]:
        return []


class DeletionIsNotNoted(Visit):
    """What was deleted of a session that moved is deleted where it has gone by now, and who comes later never knows."""

    def _delete_elsewhere(self, record: Record, paths: list[list[str]], now: float) -> Steps[None]:
        if record.facts is None:
            for key in record.successors if not record.ended else ():
                found = yield from ask(self._vault, Read(key))
                if isinstance(found, Record):
                    yield from self._delete_elsewhere(found, paths, now)
        else:
            yield from super()._delete_elsewhere(record, paths, now)


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
        if self._state is lifecycle._State.GONE and self._standing is not None:
            again = Write(self._standing.key, mine, ttl=100, version=new_version(), expect=ABSENT)
            yield from ask(self._vault, again)
        return change


class RenewsWhatIsGone(Visit):
    """A use writes what it has loaded, if nothing stands there."""

    def _renew(self, now: float, *, late: bool) -> Steps[CookieChange]:
        change = yield from super()._renew(now, late=late)
        if self._state is lifecycle._State.GONE and self._standing is not None:
            again = Write(self._standing.key, self._standing.packed, ttl=100, version=new_version(), expect=ABSENT)
            yield from ask(self._vault, again)
        return change
