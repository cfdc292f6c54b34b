"""The mapping that an app sees as `request.session`.

A real `dict` with JSON-like values, so everything that takes a dict takes it; as Starlette's, it notes that it was
accessed or modified. Nested changes need no note: the lifecycle compares contents. Our own facts about the session are
attributes in slots, never keys, and a mistyped attribute is an error instead of lost data.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from serverless_session.deadline import Duration, seconds
from serverless_session.errors import SessionError, StoreError
from serverless_session.sessions.lifetime import LONGEST, Facts

if TYPE_CHECKING:
    from typing import Protocol

    class Keeper(Protocol):
        """Saves and reloads a session while its request runs."""

        async def save(self) -> bool: ...
        async def reload(self) -> bool: ...
        def can_send_cookie(self) -> bool: ...


class Login(NamedTuple):
    """`max_age`: seconds that this session is kept, None: as the middleware says. `at`: seconds since 1970."""

    user_id: str
    max_age: float | None
    at: float

    def __repr__(self) -> str:
        return "Login()"  # no debugger, log or traceback shows whose it is


class Changed(NamedTuple):
    """A key that was changed by functions, one after the other, and what they made of it."""

    functions: tuple[Callable[[Any], Any], ...]
    result: Any

    def __repr__(self) -> str:
        return "Changed()"

    def made(self, value: Any) -> bool:
        """Is that still what they made of it?"""
        from serverless_session.codec.serializers import first_difference  # with the cipher, for who only names Session

        return first_difference(value, self.result) is None

    def again(self, value: Any) -> Any:
        for function in self.functions:
            value = function(value)
        return value


class Asked(NamedTuple):
    """What the app has asked for beside its changes: an ending, a new id, a login, and functions to run again."""

    ending: bool = False
    new_id: bool = False
    login: Login | None = None
    changed: Mapping[str, Changed] = MappingProxyType({})

    def __repr__(self) -> str:
        return "Asked()"

    def functions_for(self, data: Mapping[str, Any]) -> dict[str, Callable[[Any], Any]]:
        """Of the keys that still hold what functions made of them: what came after them counts more."""
        return {key: one.again for key, one in self.changed.items() if key in data and one.made(data[key])}


_NO_FACTS = Facts(created_at=0.0)


class Session(dict[str, Any]):
    """What one visitor's requests remember.

    Written back when the response starts, and once more before its last chunk and when the app returns, each time only
    if its contents have changed. What other requests have changed meanwhile is merged in, and is in this mapping after.
    `accessed`, `modified` and `mark_accessed()` are as Starlette's.
    """

    __slots__ = ("_asked", "_ends", "_facts", "_is_new", "_keeper", "_time", "_unavailable", "accessed", "modified")

    accessed: bool
    modified: bool

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        /,
        facts: Facts = _NO_FACTS,
        *,
        ends: float = 0.0,
        is_new: bool = True,
    ) -> None:
        super().__init__(data or {})
        self.accessed = False
        self.modified = False
        self._asked = Asked()
        self._facts = facts
        self._ends = ends
        self._is_new = is_new
        self._time: Callable[[], float] = time.time
        self._keeper: Keeper | None = None
        self._unavailable: StoreError | None = None  # the store that holds it failed: it is empty, and raises this

    @property
    def is_new(self) -> bool:
        """Nothing was stored for this visitor when the request came."""
        return self._is_new

    @property
    def created_at(self) -> datetime:
        """When the session began: aware, UTC. A new id leaves it as it is."""
        return datetime.fromtimestamp(self._facts.created_at, UTC)

    @property
    def expires_at(self) -> datetime:
        """When it ends unless it is prolonged: aware, UTC. What prolongs it, once a tenth of its life is gone: a
        change; with `rolling` or an `idle_timeout` each request that loads it."""
        return datetime.fromtimestamp(self._ends, UTC)

    @property
    def user_id(self) -> str | None:
        """Who is logged in, by `login()`."""
        return self._facts.user_id

    def authenticated_within(self, age: Duration) -> bool:
        """Was the last `login()` at most this long ago (seconds or `timedelta`)? For what needs a fresh password."""
        at = self._facts.authenticated_at
        return at is not None and self._time() - at <= seconds(age)

    def login(self, user_id: str | int, *, max_age: Duration | None = None) -> None:
        """Somebody has proved who they are: a new id, keeping the data; the old id is never followed.

        `user_id` is `session.user_id` from now on, a `str`. If somebody else was logged in, the session begins empty:
        nobody sees another's data. `max_age`: seconds or `timedelta` that this session and its cookie are kept,
        "remember me"; by default as the middleware says, whose idle and absolute time-outs apply all the same.
        `absolute_timeout` counts from here.

        Carried out when the response starts; after that it raises `SessionError` (session-too-late), because no cookie
        can follow. If another request ended the session meanwhile, it stays ended and no cookie is set. Raises
        `TypeError` and `ValueError` for a user id that is none, or a `max_age` not above 0.
        """
        if isinstance(user_id, bool) or not isinstance(user_id, str | int):
            raise TypeError(f"a user id is a str or an int, not of type {type(user_id).__name__}")
        if user_id == "":
            raise ValueError("a user id is not empty")
        kept = None if max_age is None else seconds(max_age)
        if kept is not None and not 0 < kept <= LONGEST:
            raise ValueError("max_age is a span of time above 0 and of at most 10 years, or None")
        self._refuse_too_late()
        self.mark_modified()
        login = Login(str(user_id), kept, self._time())
        if self.user_id not in (None, login.user_id):
            self.clear()
        self._asked = self._asked._replace(new_id=True, login=login)
        self._facts = self._facts._replace(user_id=login.user_id, authenticated_at=login.at)

    def logout(self) -> None:
        """End the session: its record is deleted and its cookie removed, and nothing brings it back.

        What is written afterwards, before the response starts, begins a new session with a new id and only that. The
        ending is carried out when the response starts, and also if the request ends in an exception. The same as
        `clear()`. Where the store fails, the answer is a 503 and the session may still stand.
        """
        self.clear()

    def regenerate(self) -> None:
        """Give the session a new id, keeping its data; the old id is never followed. For where rights change.

        Carried out when the response starts; after that it raises `SessionError` (session-too-late), because no cookie
        can follow. If another request ended the session meanwhile, it stays ended and no cookie is set.
        """
        self._refuse_too_late()
        self.mark_modified()
        self._asked = self._asked._replace(new_id=True)

    async def change(self, key: str, fn: Callable[[Any], Any]) -> Any:
        """Change the value under `key` by a function that may run again: for counters, points, anything computed from
        what was there.

        `fn` takes the value (None where there is none) and returns the new one; what it returns now is in the session,
        and is the result. If another request has changed the key by the time the session is saved, `fn` runs again on
        what that has left, until what it returned stands. So it must do nothing else, and the result may not be the
        last word: that is in the session after `await session.save()`. A key that another request has deleted stays
        deleted.

        What `fn` raises then is raised by `save()`, or else where the response starts, which is too late for another
        answer; nothing is saved, and the key is what the other request has made of it. Raises `TypeError` for a
        function that is async, or that returns None for what was there, as one that changes its argument does.
        """
        before_it = self.get(key)
        value = fn(copy.deepcopy(before_it))
        if isinstance(value, Coroutine):
            value.close()
            raise TypeError("the function of a change runs again when the session is saved: it cannot be async")
        if value is None and before_it is not None:
            raise TypeError("the function of a change returned None: it must return the new value")
        before = self._asked.changed.get(key)
        went_on = before is not None and before.made(self.get(key))  # or it was assigned to since
        functions = (*before.functions, fn) if before is not None and went_on else (fn,)
        self[key] = value
        changed = {**self._asked.changed, key: Changed(functions, copy.deepcopy(value))}
        self._asked = self._asked._replace(changed=changed)
        return value

    async def save(self) -> bool:
        """Save now what has changed, without waiting for the end of the request: for WebSockets and long streams.

        What other requests have changed meanwhile is in the session afterwards. False: the session was ended, or got a
        new id, in another request, and is empty now; or it is never kept, because a page of another site opened the
        WebSocket. Raises what saving raises: `StoreError`, `ValueNotSerializable`, what a function of `change` raises,
        and `SessionError` where a cookie would have to follow and can not.
        """
        return await self._kept_by().save()

    async def reload(self) -> bool:
        """Look into the store again: what other requests have changed is merged in, for WebSockets and long streams.

        What was changed here stays, unsaved. False: the session was ended, or got a new id, in another request, and is
        empty now; or it has not begun yet, as what is written after a logout; or it is never kept, as of `save()`.
        Raises `StoreError`.
        """
        return await self._kept_by().reload()

    def mark_accessed(self) -> None:
        """Note that the session was looked at, so that the response varies with the cookie."""
        self.accessed = True

    def mark_modified(self) -> None:
        """Note that the session was changed."""
        if self._unavailable is not None:
            raise self._unavailable
        self.accessed = True
        self.modified = True

    def __setitem__(self, key: str, value: Any) -> None:
        self.mark_modified()
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self.mark_modified()
        super().__delitem__(key)

    def clear(self) -> None:
        """Empty the session and end it, as `logout()`."""
        self.mark_modified()
        self._asked = Asked(ending=True)
        self._facts = self._facts._replace(user_id=None, authenticated_at=None)
        super().clear()

    def pop(self, key: str, *default: Any) -> Any:
        if key in self:
            self.mark_modified()
        return super().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        item = super().popitem()
        self.mark_modified()
        return item

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self.mark_modified()
        return super().setdefault(key, default)

    def update(self, *others: Any, **items: Any) -> None:
        self.mark_modified()
        super().update(*others, **items)

    def __ior__(self, other: Any, /) -> Session:  # type: ignore[override,misc]
        self.mark_modified()
        super().update(other)
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return dict, (dict(self),)  # a copy is one of the contents: nobody would save it

    # --- for the lifecycle --------------------------------------------------------------------------------------------

    def _take_asked(self) -> Asked:
        """What was asked for since it was last taken."""
        asked, self._asked = self._asked, Asked()
        return asked

    def _ask_again(self, asked: Asked) -> None:
        """It could not be carried out."""
        since = self._asked
        if not since.ending:
            self._asked = Asked(
                asked.ending,
                since.new_id or asked.new_id,
                since.login or asked.login,
                {**asked.changed, **since.changed},
            )

    def _keep(self, facts: Facts, *, ends: float) -> None:
        self._facts, self._ends = facts, ends

    def _replace(self, data: dict[str, Any]) -> None:
        """Other contents, which the app has not made; functions that were run on the old ones have run on these."""
        again = self._asked.functions_for(self)
        contents = {key: _put_into(self.get(key), value) for key, value in data.items()}
        super().clear()
        super().update(contents)
        changed = {
            key: Changed(before.functions, copy.deepcopy(data[key]))
            for key, before in self._asked.changed.items()
            if key in again and key in data
        }
        self._asked = self._asked._replace(changed=changed)

    def _withdraw(self, key: str, stands: dict[str, Any]) -> None:
        """A change of `key` that will not be made: it is again what stands."""
        if key in stands:
            super().__setitem__(key, stands[key])
        else:
            super().pop(key, None)

    def _refuse_too_late(self) -> None:
        if self._keeper is not None and not self._keeper.can_send_cookie():
            raise too_late()

    def _kept_by(self) -> Keeper:
        if self._keeper is None:
            raise SessionError(
                "no-keeper",
                "this session belongs to no request",
                mend="session.save() and session.reload() on the session of a request, while it runs",
            )
        return self._keeper

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        """So that FastAPI takes it in an annotation."""
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)


def too_late() -> SessionError:
    """A cookie would have to follow, and the response has started."""
    return SessionError(
        "session-too-late",
        "a session was begun, or its id changed, after the response had started: no cookie can follow any more",
        mend="to request.session before the response starts; later only change a session that there was",
    )


def _put_into(old: Any, new: Any) -> Any:
    """`new`, in the mappings and lists of `old`, where they are at the same places: the app may hold on to them."""
    if type(old) is dict and type(new) is dict:
        contents = {key: _put_into(old.get(key), value) for key, value in new.items()}
        old.clear()
        old.update(contents)
        return old
    if type(old) is list and type(new) is list:
        from serverless_session.codec.serializers import first_difference  # as above

        pairs = zip(old, new, strict=False)
        old[:] = [*(was if first_difference(was, now) is None else now for was, now in pairs), *new[len(old) :]]
        return old
    return new
