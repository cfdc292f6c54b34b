"""Random orders of the store calls of two requests, through real requests of two copies of an app, on real servers.

`test_lifecycle` takes every order of the rules' steps over a store in memory. Here the same rules run as they are
deployed: middleware, sealed records, and a server's own compare-and-set. The two requests run in two copies, each with
a middleware, a `SharedState` and a connection of its own, because the savers of one copy queue up and would not race.
A store call leaves when it is granted, one at a time, to whom the dice say; the browser takes the answers in an order
of the dice as well. A schedule is named by its seed, and what is wrong is told with it and with the order.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from serverless_session import SessionMiddleware, SharedState
from serverless_session.sessions import middleware
from serverless_session.sessions.lifecycle import Visit
from serverless_session.sessions.session import Session
from serverless_session.stores import MemoryStore, Operation, Outcome, Store
from serverless_session.stores.opening import open_store
from tests.sessions.apps import SECRET
from tests.sessions.wordings import (
    CookieOfAnEmptySession,
    DeletionStaysBehind,
    LastWriteWins,
    NeverTakenBack,
    NewSessionInsteadOfADrop,
    NoStone,
    OrdinaryStone,
)

SCHEDULES = 200

App = Callable[[Session], object]


# --- what the requests do ---------------------------------------------------------------------------------------------


def logout(session: Session) -> None:
    session.logout()


def farewell(session: Session) -> None:
    session.clear()
    session["flash"] = "bye"


def regenerate(session: Session) -> None:
    session.regenerate()


def login(session: Session) -> None:
    session.login("ann")
    session["user"] = {"name": "ann"}


def login_of_old(session: Session) -> None:
    session.regenerate()
    session["user"] = {"name": "ann"}


def write(session: Session) -> None:
    session["poll"] = 1


def pop_user(session: Session) -> bool:
    """Logged out, if somebody was seen to be logged in: after a new id the old one shows nobody."""
    return session.pop("user", None) is not None


def touch_user(session: Session) -> None:
    if "user" in session:
        session["user"]["seen"] = "now"


def add_apple(session: Session) -> None:
    session.setdefault("cart", []).append("apple")
    session["apples"] = 1


def add_bread(session: Session) -> None:
    session.setdefault("cart", []).append("bread")
    session["breads"] = 1


# --- what must hold afterwards ----------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Aftermath:
    """`answers`: what the two apps have returned. `jar`: what the browser's session holds in the end, and `all`: what
    each cookie shows that was ever set."""

    answers: Sequence[Any]
    jar: dict[str, Any]
    all: Sequence[dict[str, Any]]

    @property
    def anybody_logged_in(self) -> bool:
        return any("user" in content or content["user_id"] is not None for content in self.all)


def nobody_is_logged_in(after: Aftermath) -> bool:
    return not after.anybody_logged_in


def nobody_is_logged_in_who_was_seen(after: Aftermath) -> bool:
    """The first of the two deletes."""
    return not (after.answers[0] and after.anybody_logged_in)


def the_jar_is_logged_in(after: Aftermath) -> bool:
    return after.jar.get("user", {}).get("name") == "ann" and after.jar.get("cart") == ["milk"]


def nothing_is_lost(after: Aftermath) -> bool:
    return sorted(after.jar["cart"]) == ["apple", "bread", "milk"] and {"apples", "breads", "user"} <= after.jar.keys()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two requests of one session, and what must hold whatever their order. `data`: what the session holds before."""

    one: App
    other: App
    holds: Callable[[Aftermath], bool]
    data: dict[str, Any] = field(default_factory=lambda: {"user": {"name": "ann"}, "cart": ["milk"]})


PAIRS = {
    "logout against regenerate": Pair(logout, regenerate, nobody_is_logged_in),
    "regenerate against regenerate": Pair(regenerate, regenerate, the_jar_is_logged_in),
    "logout against a write": Pair(logout, write, nobody_is_logged_in),
    "login against a write": Pair(login, write, the_jar_is_logged_in, {"cart": ["milk"]}),
    "login of old against a write": Pair(login_of_old, write, the_jar_is_logged_in, {"cart": ["milk"]}),
    "pop against a nested change": Pair(pop_user, touch_user, nobody_is_logged_in),
    "pop against regenerate": Pair(pop_user, regenerate, nobody_is_logged_in_who_was_seen),
    "append against append": Pair(add_apple, add_bread, nothing_is_lost),
    "farewell against regenerate": Pair(farewell, regenerate, nobody_is_logged_in),
}


# --- two copies of an app, and who of them may go on ------------------------------------------------------------------


class Turns:
    """Grants store calls one at a time. `order`: to whom, so far."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._somebody_stopped = asyncio.Event()
        self.order: list[str] = []

    async def turn(self, name: str) -> None:
        self._waiting[name] = asyncio.get_running_loop().create_future()
        self._somebody_stopped.set()
        await self._waiting[name]

    async def run(self, **work: Awaitable[Any]) -> list[Any]:
        """Carry out all of it, by name; nobody is granted a call before everybody waits for one, or has ended."""
        tasks = {name: asyncio.ensure_future(each) for name, each in work.items()}
        for task in tasks.values():
            task.add_done_callback(lambda _: self._somebody_stopped.set())
        while running := [name for name, task in tasks.items() if not task.done()]:
            if self._waiting.keys() >= set(running):
                name = self._dice.choice(running)
                self.order.append(name)
                self._waiting.pop(name).set_result(None)
            self._somebody_stopped.clear()
            await self._somebody_stopped.wait()
        return [task.result() for task in tasks.values()]


class InTurn(Store):
    """`store`, whose calls wait for their turn where there are `turns`."""

    def __init__(self, name: str, store: Store) -> None:
        self.name = name
        self.turns: Turns | None = None
        self._store = store
        self.limits = store.limits

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        if self.turns is not None:
            await self.turns.turn(self.name)
        return await self._store.perform(*operations)

    async def aclose(self) -> None:
        await self._store.aclose()


class Copy:
    """One copy of an app, which does what its requests bring along."""

    def __init__(self, name: str, store: Store) -> None:
        self.store = InTurn(name, store)
        self.shared = SharedState(self.store, secret_key=SECRET, timeout=60)
        self._app = SessionMiddleware(_run, shared=self.shared)

    async def request(self, app: App, cookie: str | None) -> tuple[Any, list[str]]:
        """What the app has returned, and the cookies of the answer; "null" removes it."""
        sent: list[Any] = []
        headers = [] if cookie is None else [(b"cookie", b"session=" + cookie.encode())]
        scope = {"type": "http", "method": "POST", "path": "/", "scheme": "https", "headers": headers, "do": app}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, _receive, send)
        assert sent[0]["status"] == 200
        cookies = [value.decode() for name, value in sent[0]["headers"] if name == b"set-cookie"]
        return json.loads(sent[1]["body"]), [value.partition("=")[2].partition(";")[0] for value in cookies]


async def _run(scope: Any, receive: Any, send: Any) -> None:
    body = json.dumps(scope["do"](scope["session"])).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


async def _receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


def _content(session: Session) -> dict[str, Any]:
    return {**session, "user_id": session.user_id}


# --- schedules --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Copies:
    one: Copy
    other: Copy
    aside: Copy
    """Out of turn: what is before and after a schedule."""

    async def broken(self, name: str, schedules: int = SCHEDULES) -> list[str]:
        """Seed and order of each schedule after which the pair's promise does not hold."""
        runs = [await self._run(PAIRS[name], f"{name} {number}") for number in range(schedules)]
        return [run for run in runs if run is not None]

    async def _run(self, pair: Pair, seed: str) -> str | None:
        dice = random.Random(seed)
        turns = Turns(dice)
        _, (cookie,) = await self.aside.request(lambda session: session.update(pair.data), None)
        self.one.store.turns = self.other.store.turns = turns
        answers = await turns.run(one=self.one.request(pair.one, cookie), other=self.other.request(pair.other, cookie))
        ever_set = [cookie]
        for _, cookies in sorted(answers, key=lambda _: dice.random()):
            ever_set += cookies
        contents = {each: (await self.aside.request(_content, each))[0] for each in set(ever_set)}
        after = Aftermath(
            answers=[said for said, _ in answers], jar=contents[ever_set[-1]], all=list(contents.values())
        )
        return None if pair.holds(after) else f"seed {seed!r}: {' '.join(turns.order)}"


@asynccontextmanager
async def copies_over(*stores: Store) -> AsyncIterator[Copies]:
    one, other, aside = (Copy(name, store) for name, store in zip(("one", "other", "aside"), stores, strict=True))
    yield Copies(one, other, aside)
    for store in stores:
        await store.aclose()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("server", ["memory", "valkey", "redis7", "memcached"])
async def test_whatever_the_order_the_promise_holds(server: str, name: str, request: pytest.FixtureRequest) -> None:
    """THREATS 1, 2, 11 and 16: who was logged out stays so, a login is not thrown away, nothing is lost."""
    if server == "memory":
        stores: list[Store] = [MemoryStore()] * 3
    else:
        url = request.getfixturevalue(server).url
        stores = [open_store(url) for _ in range(3)]
    async with copies_over(*stores) as copies:
        assert await copies.broken(name) == []


@pytest.mark.parametrize(
    ("wording", "name"),
    [
        (NoStone, "logout against regenerate"),
        (NeverTakenBack, "logout against regenerate"),
        (NoStone, "farewell against regenerate"),
        (OrdinaryStone, "farewell against regenerate"),
        (CookieOfAnEmptySession, "regenerate against regenerate"),
        (LastWriteWins, "logout against a write"),
        (LastWriteWins, "pop against a nested change"),
        (LastWriteWins, "append against append"),
        (NewSessionInsteadOfADrop, "login against a write"),
        (NewSessionInsteadOfADrop, "login of old against a write"),
        (DeletionStaysBehind, "pop against regenerate"),
    ],
)
async def test_the_schedules_catch_a_broken_lifecycle(
    wording: type[Visit], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "Visit", wording)
    async with copies_over(*[MemoryStore()] * 3) as copies:
        assert len(await copies.broken(name)) >= 5


async def test_a_schedule_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "Visit", NoStone)
    async with copies_over(*[MemoryStore()] * 3) as copies:
        first = await copies.broken("logout against regenerate", 20)
        assert first
        assert await copies.broken("logout against regenerate", 20) == first
