"""Tasks of one request that use its session at the same time, as a socket that is read by one and written by another.

What they do is carried out one after the other: none takes the other for a request of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from serverless_session import Session, SessionMiddleware, SharedState
from serverless_session.stores import Delete, MemoryStore, Operation, Outcome, Read
from tests.sessions.apps import SECRET
from tests.sessions.direct import Said, call, scope_of

Work = Callable[[Session], Awaitable[object]]


class SlowAnswers(MemoryStore):
    """What it is asked is done at once, and answered later: reads last."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[str] = set()

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        self.keys |= {operation.key for operation in operations}
        outcomes = await super().perform(*operations)
        for _ in range(30 if isinstance(operations[0], Read) else 10):
            await asyncio.sleep(0)
        return outcomes


class Visitor:
    """Somebody whose session holds a user, in an app that does what it is told."""

    def __init__(self, store: MemoryStore) -> None:
        self._work: Work
        self._app = SessionMiddleware(self._serve, shared=SharedState(store, secret_key=SECRET))
        self._cookie: str | None = None

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._work(scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def is_served(self, work: Work) -> None:
        """The same as `does`, by whoever calls: it can be cancelled."""

        async def silence(*_: object) -> Any: ...

        self._work = work
        await self._app(scope_of("/", self._cookie), silence, silence)

    async def does(self, work: Work) -> Said:
        self._work = work
        said = await call(self._app, scope_of("/", self._cookie))
        self._cookie = said.cookie or self._cookie
        return said

    async def sees(self) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        async def look(session: Session) -> None:
            seen.update(session)

        await self.does(look)
        return seen


async def sign_in(session: Session) -> None:
    session["user"] = "ann"


async def later_save(session: Session) -> bool:
    await asyncio.sleep(0)
    session["later"] = 1
    return await session.save()


@pytest.mark.parametrize("new_id", [False, True], ids=["a change", "a new id"])
async def test_two_saves_at_once_are_both_kept(new_id: bool) -> None:
    async def save_twice(session: Session) -> None:
        session["now"] = 1
        if new_id:
            session.regenerate()
        assert all(await asyncio.gather(session.save(), later_save(session)))
        session["last"] = 1

    visitor = Visitor(SlowAnswers())
    await visitor.does(sign_in)
    assert (await visitor.does(save_twice)).error is None
    assert await visitor.sees() == {"user": "ann", "now": 1, "later": 1, "last": 1}


async def test_two_first_saves_begin_one_session() -> None:
    async def begin_twice(session: Session) -> None:
        session["now"] = 1
        await asyncio.gather(session.save(), later_save(session))

    store = SlowAnswers()
    visitor = Visitor(store)
    await visitor.does(begin_twice)
    assert await visitor.sees() == {"now": 1, "later": 1}
    assert len(store.keys) == 1


async def test_a_reload_that_is_answered_after_a_save_takes_nothing_back() -> None:
    async def reload_and_save(session: Session) -> None:
        session["now"] = 1
        assert all(await asyncio.gather(session.reload(), later_save(session)))
        assert session == {"user": "ann", "now": 1, "later": 1}

    visitor = Visitor(SlowAnswers())
    await visitor.does(sign_in)
    assert (await visitor.does(reload_and_save)).error is None
    assert await visitor.sees() == {"user": "ann", "now": 1, "later": 1}


@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
async def test_a_logout_that_waits_for_another_task_is_carried_out_though_cancelled(again: bool) -> None:
    """THREATS 41."""
    saving: list[asyncio.Task[bool]] = []
    waits = asyncio.Event()

    async def save_and_log_out(session: Session) -> None:
        session["now"] = 1
        saving.append(asyncio.create_task(session.save()))
        await asyncio.sleep(0)
        session.logout()
        waits.set()
        await session.save()

    visitor = Visitor(SlowAnswers())
    await visitor.does(sign_in)
    request = asyncio.create_task(visitor.is_served(save_and_log_out))
    await waits.wait()
    request.cancel()
    while again and not request.done():
        await asyncio.sleep(0)
        request.cancel()
    await asyncio.wait([request, *saving])
    assert request.cancelled()
    assert await visitor.sees() == {}


class Broken(MemoryStore):
    """It breaks its contract once: a deletion raises."""

    broken = True

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        if isinstance(operations[0], Delete) and self.broken:
            self.broken = False
            raise RuntimeError("no store may raise")
        return await super().perform(*operations)


async def test_a_logout_that_was_cut_off_by_a_broken_store_is_tried_again() -> None:
    async def log_out(session: Session) -> None:
        session.logout()

    visitor = Visitor(Broken())
    await visitor.does(sign_in)
    assert isinstance((await visitor.does(log_out)).error, RuntimeError)
    assert await visitor.sees() == {}
