"""A request that is cancelled at any of its awaits leaves a session that is whole, and nobody waiting for it."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from serverless_session import SessionMiddleware, SharedState
from serverless_session.stores import MemoryStore, Operation, Outcome, Read, Store
from tests.sessions.apps import SECRET
from tests.sessions.direct import PATIENCE, Said, call, scope_of
from tests.sessions.test_everywhere import WHAT


class Yielding(Store):
    """A memory store that gives the loop a turn before and after each operation, and keeps what was begun."""

    def __init__(self) -> None:
        self._store = MemoryStore()
        self.limits = self._store.limits
        self.operations: list[Operation] = []

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        self.operations += operations
        await asyncio.sleep(0)
        outcomes = await self._store.perform(*operations)
        await asyncio.sleep(0)
        return outcomes


class Shop:
    """The middleware around a bare app, over a store that yields; with a look at everything that is in the store."""

    def __init__(self) -> None:
        self.store = Yielding()
        self.shared = SharedState(self.store, secret_key=SECRET, timeout=PATIENCE)
        self.middleware = SessionMiddleware(self._serve, shared=self.shared)
        self.has_run: list[str] = []

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, session = scope["path"], scope["session"]
        if path == "/begin":
            session["user"] = "ann"
        elif path.startswith("/put/"):
            session[path] = 1
        else:
            WHAT[path.strip("/")](session)
        self.has_run.append(path)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def begin(self) -> str:
        cookie = (await call(self.middleware, scope_of("/begin", None))).cookie
        assert cookie is not None
        return cookie

    def request(self, path: str, cookie: str) -> "asyncio.Task[Said]":
        return asyncio.create_task(self._request(path, cookie))

    async def _request(self, path: str, cookie: str) -> Said:
        messages: list[Message] = []

        async def receive() -> Message:
            raise AssertionError

        async def send(message: Message) -> None:
            messages.append(message)

        await self.middleware(scope_of(path, cookie), receive, send)
        return Said(messages, None)

    async def live(self) -> list[dict[str, Any]]:
        """The contents of every session that is not a stone, whoever may know its id."""
        records = self.shared.records("session")
        keys = {operation.key for operation in self.store.operations}
        found = [(await records.perform(Read(key)))[0] for key in sorted(keys)]
        unpacked = [records.unpack(kept.value) for kept in found if hasattr(kept, "value")]
        return [content["data"] for content in unpacked if "moved_to" not in content]


async def cancelled_after(steps: int, task: "asyncio.Task[Said]", *, again: bool) -> bool:
    """Cancel the task after so many steps of the loop, `again`: at each later one as well. False: it was done."""
    for _ in range(steps):
        await asyncio.sleep(0)
    if task.done():
        return False
    task.cancel()
    while again and not task.done():
        await asyncio.sleep(0)
        task.cancel()
    return True


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
@pytest.mark.parametrize("others", [0, 2], ids=["alone", "between two savers"])
async def test_cancelled_at_every_await(what: str, again: bool, others: int) -> None:
    """THREATS 41: never two ids alive at once, or none but by an ending; nobody is logged in after one; no line stays.

    The task is cancelled after every number of the loop's steps until it is done before; with two more requests of the
    same session, one before and one after it, it waits in the queue of savers for some of them.
    """
    for steps in itertools.count():
        assert steps < 500
        shop = Shop()
        cookie = await shop.begin()
        before = [shop.request(f"/put/{number}", cookie) for number in range(others // 2)]
        victim = shop.request(f"/{what}", cookie)
        after = [shop.request(f"/put/{number}", cookie) for number in range(others // 2, others)]
        was_cancelled = await cancelled_after(steps, victim, again=again)
        tasks = [*before, victim, *after]
        done, waiting = await asyncio.wait(tasks, timeout=PATIENCE / 2)
        assert not waiting, "somebody waits for a turn that never comes"
        assert len(asyncio.all_tasks()) == 1, "nothing goes on behind the caller's back"
        assert not shop.middleware._queue._lines
        for task in done - {victim}:
            assert task.exception() is None
        check_invariants(what, await shop.live(), ran=f"/{what}" in shop.has_run, was_cancelled=was_cancelled)
        if not was_cancelled:
            assert steps > 3
            return


def check_invariants(what: str, live: list[dict[str, Any]], *, ran: bool, was_cancelled: bool) -> None:
    if what == "end" and ran:
        assert live == [], "an ending is carried out, wherever the request was cut"
        return
    assert len(live) == 1, "one id, not two and not none"
    assert live[0]["user"] == "ann"
    if not was_cancelled and what == "change":
        assert live[0]["changed"] is True


@pytest.mark.parametrize("what", ["regenerate", "login"])
async def test_an_ending_that_meets_a_new_id_wins_wherever_one_of_them_is_cancelled(what: str) -> None:
    """THREATS 1, THREATS 41: logged out in one tab while the other gets a new id; either is cut at every await."""
    for which in (what, "end"):
        for steps in itertools.count():
            shop = Shop()
            cookie = await shop.begin()
            tasks = {path: shop.request(f"/{path}", cookie) for path in (what, "end")}
            was_cancelled = await cancelled_after(steps, tasks[which], again=False)
            _, waiting = await asyncio.wait(tasks.values(), timeout=PATIENCE / 2)
            assert not waiting
            assert not shop.middleware._queue._lines
            live = await shop.live()
            assert len(live) <= 1
            if "/end" in shop.has_run:
                assert live == []
            if not was_cancelled:
                break
