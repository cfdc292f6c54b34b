"""No id, key, secret, version or value shows in what the package says: in logs, errors, tracebacks and reprs.

One run provokes every event of sessions and stores, and every error that sessions raise, with contents that stand
nowhere else. An event or error that is added and not provoked here fails the tests.
"""

import asyncio
import base64
import gc
import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serverless_session import Session, SharedState, errors, load_session, sum_of_changes
from serverless_session.errors import ConfigurationError, ServerlessSessionError, StoreTimeout, StoreUnavailable
from serverless_session.events import EVENTS
from serverless_session.sessions.lifetime import Facts
from serverless_session.sessions.record import Record
from serverless_session.stores import ANYTHING, Delete, Limits, MemoryStore, Read, Write, new_version
from serverless_session.testing import CountingStore, FaultyStore, ManualClock
from tests.sessions.apps import SECRET, Action, app_over, doing, tabs

OTHER = "x9Tq2mVb7LcZ0hRkWd4NyPfGs6JuEa13"
USER, VALUE, PASSWORD = "user-4711-of-the-shop", "value-0815-of-a-visitor", "pass-2342-word"
BYTES = VALUE.encode()

Provoke = Callable[["Run"], Awaitable[None]]
EVERY: dict[str, Provoke] = {}
"""What provokes each event, by its name, and some errors that come without one."""


def provokes(what: str) -> Callable[[Provoke], Provoke]:
    def keep(provoke: Provoke) -> Provoke:
        EVERY[what] = provoke
        return provoke

    return keep


class Run(logging.Handler):
    """What was said in one run, and what must not stand in it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []
        self.errors: list[BaseException] = []
        self.reprs: set[str] = set()
        self.counters: list[CountingStore] = []
        self.ids: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def shared(self, **options: Any) -> tuple[SharedState, FaultyStore]:
        """A store of its own."""
        counting = CountingStore(MemoryStore(**({"clock": options["clock"]} if "clock" in options else {})))
        self.counters.append(counting)
        store = FaultyStore(counting)
        return SharedState(store, **{"secret_key": SECRET} | options), store

    async def visitor(self, client: httpx2.AsyncClient) -> None:
        """Begin a session that has something to hide."""
        await client.post("/update", json={"value": VALUE, "list": [VALUE], "n": 1})
        self.note_id(client)

    def note_id(self, client: httpx2.AsyncClient) -> None:
        self.ids.update(value for name, value in client.cookies.items() if name == "session" and len(value) == 60)

    async def raises(self, error: type[BaseException], doing: Awaitable[object]) -> None:
        with pytest.raises(error) as caught:
            await doing
        self.errors.append(caught.value)

    @property
    def events(self) -> set[str]:
        return {record.__dict__["event"] for record in self.records if "event" in record.__dict__}

    def said(self) -> Iterator[str]:
        formatter = logging.Formatter("%(name)s %(levelname)s %(message)s %(pathname)s %(funcName)s")
        for record in self.records:
            yield formatter.format(record)
            yield repr({name: value for name, value in record.__dict__.items() if name != "exc_info"})
        for error in self.errors:
            yield "".join(traceback.format_exception(error))
            yield repr((error, error.args, vars(error)))
        yield from self.reprs

    def secrets(self) -> set[str]:
        operations = [operation for counting in self.counters for operation in counting.operations]
        hidden = {SECRET, OTHER, USER, VALUE, PASSWORD, *self.ids}
        raw = [BYTES, SECRET.encode(), OTHER.encode(), *map(base64.urlsafe_b64decode, self.ids)]
        raw += [text[5:37] for text in raw if len(text) == 45]  # the random part of an id
        for operation in operations:
            hidden.add(operation.key.rpartition(":")[2])
            raw += [operation.version, operation.value] if isinstance(operation, Write) else []
        for piece in raw:
            shown = repr(bytes(piece))[2:-1]
            hidden |= {shown, piece.hex(), base64.b64encode(piece).decode(), base64.urlsafe_b64encode(piece).decode()}
        return {text for text in hidden if len(text) > 7}


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Everything that can be provoked, with all loggers open and the loop in its debug mode."""
    run, root = Run(), logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in list(logging.root.manager.loggerDict))]
    levels = [logger.level for logger in loggers]
    root.addHandler(run)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)

    async def everything() -> None:
        for provoke in EVERY.values():
            await provoke(run)

    try:
        asyncio.run(everything(), debug=True)
    finally:
        root.removeHandler(run)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    yield run
    del run.records, run.errors


def hide(session: Session) -> None:
    session["value"] = VALUE + "!"


async def overtaken(run: Run, first: Action, then: Action, **options: Any) -> httpx2.Response:
    """A request that does something after another copy of the app has done something to the same session."""
    here, store = run.shared()
    there = SharedState(store, secret_key=SECRET)
    other = tabs(app_over(there, doing("/first", first)))

    async def endpoint(request: Request) -> Response:
        session = await load_session(request)
        await other.get("/first", headers={"cookie": request.headers["cookie"]})
        then(session)
        return JSONResponse(session)

    async with other, tabs(app_over(here, Route("/then", endpoint), **options)) as client:
        await run.visitor(client)
        return await client.get("/then")


# --- every event ------------------------------------------------------------------------------------------------------


@provokes("session.conflict_merged")
async def conflict_merged(run: Run) -> None:
    strategies = {"n": sum_of_changes}
    first, then = (lambda session: session.update(a=VALUE), lambda session: session.update(b=VALUE, n=2))
    assert (await overtaken(run, first, then, merge=strategies)).status_code == 200


@provokes("session.conflict_overridden")
async def conflict_overridden(run: Run) -> None:
    await overtaken(run, hide, lambda session: session.update(value=VALUE + "?"))


@provokes("session.conflict_refused")
async def conflict_refused(run: Run) -> None:
    answer = await overtaken(run, hide, lambda session: session.update(value=VALUE + "?"), on_conflict="error")
    assert answer.status_code == 409


@provokes("session.ended_elsewhere")
async def ended_elsewhere(run: Run) -> None:
    await overtaken(run, Session.logout, hide)


@provokes("session.too_large")
async def too_large(run: Run) -> None:
    shared, _ = run.shared()
    async with tabs(app_over(shared, doing("/hide", hide), max_session_bytes=10)) as client:
        await run.raises(errors.SessionTooLarge, client.get("/hide"))


@provokes("session.renewal_failed")
async def renewal_failed(run: Run) -> None:
    clock = ManualClock()
    shared, store = run.shared(clock=clock)
    async with tabs(app_over(shared, idle_timeout=100)) as client:
        await run.visitor(client)
        clock.advance(50)
        store.fail(on=Write)
        assert (await client.get("/view")).status_code == 200


@provokes("session.save_failed")
async def save_failed(run: Run) -> None:
    shared, store = run.shared()
    async with tabs(app_over(shared)) as client:
        await run.visitor(client)
        store.delay(0.05, on=Write)
        store.fail(on=Write)
        request = asyncio.ensure_future(client.post("/update", json={"value": VALUE, "n": 2}))
        while not store.injected.delayed:  # noqa: ASYNC110 - the store has no event to wait for
            await asyncio.sleep(0)
        request.cancel()
        await run.raises(asyncio.CancelledError, request)


@provokes("session.ending_failed")
async def ending_failed(run: Run) -> None:
    def end(session: Session) -> None:
        session.logout()
        raise RuntimeError("of the app")

    shared, store = run.shared()
    async with tabs(app_over(shared, doing("/end", end))) as client:
        await run.visitor(client)
        store.fail(on=Delete)
        await run.raises(RuntimeError, client.get("/end"))


@provokes("session.several_ids")
async def several_ids(run: Run) -> None:
    shared, _ = run.shared()
    made = []
    for _ in range(2):
        async with tabs(app_over(shared)) as client:
            await run.visitor(client)
            made.append(client.cookies["session"])
    async with tabs(app_over(shared)) as client:
        answer = await client.get("/view", headers={"cookie": "; ".join(f"session={one}" for one in made)})
        assert answer.json() == {}


@provokes("session.foreign_page")
async def foreign_page(run: Run) -> None:
    async def send(message: Any) -> None:
        """Nobody is there."""

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    shared, _ = run.shared()
    async with tabs(app_over(shared)) as client:
        await run.visitor(client)
        cookie = f"session={client.cookies['session']}".encode()
    headers = [(b"cookie", cookie), (b"host", b"shop.example"), (b"origin", b"https://evil.example")]
    scope = {"type": "websocket", "scheme": "wss", "path": "/", "headers": headers, "query_string": b""}
    await app_over(shared)(scope, receive, send)


@provokes("session.foreign_cookie")
async def foreign_cookie(run: Run) -> None:
    async def set_one(request: Request) -> Response:
        answer = JSONResponse({})
        answer.set_cookie("session", VALUE)
        return answer

    shared, _ = run.shared()
    async with tabs(app_over(shared, Route("/set", set_one))) as client:
        await run.visitor(client)
        await client.get("/set")


@provokes("session.anonymous")
async def anonymous(run: Run) -> None:
    shared, store = run.shared()
    async with tabs(app_over(shared, on_store_failure="anonymous")) as client:
        await run.visitor(client)
        store.fail()
        assert (await client.get("/view")).json() == {}
        assert (await client.post("/update", json={"value": VALUE})).status_code == 503


@provokes("store.unavailable")
async def unavailable(run: Run) -> None:
    shared, store = run.shared()
    async with tabs(app_over(shared)) as client:
        await run.visitor(client)
        for kind in (StoreUnavailable, StoreTimeout):
            store.fail(kind, times=1)
            assert (await client.get("/view")).status_code == 503
        store.lose_answers(on=Write, times=1)
        assert (await client.post("/update", json={"value": VALUE, "n": 2})).status_code == 503


@provokes("store.unreadable")
async def unreadable(run: Run) -> None:
    store = MemoryStore()
    both = SharedState(store, secret_key=OTHER, secret_key_fallbacks=[SECRET])
    async with tabs(app_over(SharedState(store, secret_key=SECRET))) as client:
        await run.visitor(client)
        cookie = {"cookie": f"session={client.cookies['session']}"}
    async with tabs(app_over(both)) as client:
        await client.post("/update", json={"n": 2}, headers=cookie)
    for form, raised in (("503", False), ("raise", True)):
        async with tabs(app_over(SharedState(store, secret_key=SECRET), on_store_failure=form)) as client:
            if raised:
                await run.raises(errors.UnknownKey, client.get("/view", headers=cookie))
            else:
                assert (await client.get("/view", headers=cookie)).status_code == 503


# --- errors that are raised out of the app ----------------------------------------------------------------------------


@provokes("errors of a failing store")
async def errors_of_a_store(run: Run) -> None:
    shared, store = run.shared()
    async with tabs(app_over(shared, on_store_failure="raise")) as client:
        await run.visitor(client)
        for kind in (StoreUnavailable, StoreTimeout):
            store.fail(kind, times=1)
            await run.raises(kind, client.get("/view"))
        store.lose_answers(on=Write, times=1)
        await run.raises(errors.WriteUncertain, client.post("/update", json={"value": VALUE, "n": 2}))


@provokes("errors of a server that is not there")
async def errors_of_a_server(run: Run) -> None:
    for scheme in ("redis", "memcached"):
        user = f"{USER}:{PASSWORD}@" if scheme == "redis" else ""
        shared = SharedState(f"{scheme}://{user}127.0.0.1:1", secret_key=SECRET)
        async with tabs(app_over(shared, doing("/hide", hide), on_store_failure="raise")) as client:
            await run.raises(StoreUnavailable, client.get("/hide"))
        run.reprs.add(repr(shared) + repr(shared.store))
        await shared.aclose()


@provokes("errors of what cannot be kept")
async def errors_of_contents(run: Run) -> None:
    class Shown:
        def __repr__(self) -> str:
            return VALUE

    def keeping(contents: Any) -> Route:
        async def keep(request: Request) -> Response:
            request.session["contents"] = contents
            return JSONResponse({})

        return Route("/keep", keep)

    for contents in (Shown(), [VALUE, Shown()], {"a": {1: VALUE}}, {(VALUE, 1): 1}, iter([VALUE]), bytearray(BYTES)):
        shared, _ = run.shared()
        async with tabs(app_over(shared, keeping(contents))) as client:
            await run.visitor(client)
            await run.raises(errors.ValueNotSerializable, client.get("/keep"))
    shared, store = run.shared()
    store.limits = Limits(largest_value_bytes=1000)
    store.delay(0.0001)
    async with tabs(app_over(shared, keeping(VALUE * 100))) as client:
        await run.visitor(client)
        await run.raises(errors.ValueTooLarge, client.get("/keep"))


@provokes("errors of a newer release")
async def errors_of_a_newer_release(run: Run) -> None:
    shared, store = run.shared()
    async with tabs(app_over(shared, on_store_failure="raise")) as client:
        await run.visitor(client)
        records, (written,) = shared.records("session"), run.counters[-1].operations
        for newer in ({"v": 2, "data": VALUE}, {"data": VALUE}, [VALUE]):
            packed = records.pack(newer)
            write = Write(written.key, packed, ttl=60, version=new_version(), expect=ANYTHING)
            await records.perform(write)
            await run.raises(errors.UnknownFormat, client.get("/view"))
        await store.write(written.key, b"damaged", ttl=60, version=new_version(), expect=ANYTHING)
        assert (await client.get("/view")).json() == {}, "damaged"


@provokes("errors of sessions that are used wrongly")
async def errors_of_use(run: Run) -> None:
    async def late(request: Request) -> Response:
        session = request.session

        async def body() -> Any:
            yield "one"
            session["value"] = VALUE

        return StreamingResponse(body())

    async def assign(request: Request) -> Response:
        request.scope["session"] = {"value": VALUE}
        return JSONResponse({})

    async def use(request: Request) -> Response:
        return JSONResponse(request.session)

    shared, _ = run.shared()
    routes = Route("/late", late), Route("/assign", assign), Route("/use", use)
    async with tabs(app_over(shared, *routes)) as client:
        await run.raises(errors.SessionError, client.get("/late"))
    for options in ({"lazy": True}, {"exempt": ["/*"]}):
        async with tabs(app_over(shared, *routes, **options)) as client:
            for path in ("/assign", "/use"):
                await run.raises(errors.SessionNotLoaded, client.get(path))
    session = Session({"value": VALUE}, Facts(created_at=0, user_id=USER))
    for wrong in (session.save(), session.reload()):
        await run.raises(errors.SessionError, wrong)
    await run.raises(errors.SessionError, load_session(Request({"type": "http", "session": dict(session)})))


@provokes("a conflict that is raised")
async def conflict_raised(run: Run) -> None:
    def streamed(request: Request) -> Response:
        session = request.session

        async def body() -> Any:
            yield "one"
            await other.get("/hide", headers={"cookie": request.headers["cookie"]})
            session["value"] = VALUE + "?"

        return StreamingResponse(body())

    here, store = run.shared()
    other = tabs(app_over(SharedState(store, secret_key=SECRET), doing("/hide", hide)))
    async with other, tabs(app_over(here, Route("/stream", streamed), on_conflict="error")) as client:
        await run.visitor(client)
        await run.raises(errors.SessionConflict, client.get("/stream"))


@provokes("settings that cannot work")
async def settings(run: Run) -> None:
    async def start(store: str, secret_key: str = SECRET, fallbacks: Sequence[str] = (), **options: Any) -> None:
        shared = SharedState(store, secret_key=secret_key, secret_key_fallbacks=fallbacks)
        async with tabs(app_over(shared, **options)) as client:
            await client.get("/view")

    address = f"redis://{USER}:{PASSWORD}@127.0.0.1:1"
    for starting in (
        start("redis://127.0.0.1:1", PASSWORD),
        start(address, fallbacks=[PASSWORD]),
        start(f"mongodb://{USER}:{PASSWORD}@127.0.0.1"),
        start(f"{address}/{VALUE}"),
        start(f"{address}?{VALUE}=1"),
        start(address, max_age=VALUE),
    ):
        await run.raises(ConfigurationError, starting)
    await start("memory://", PASSWORD)  # it warns


# --- what lives while a request runs ----------------------------------------------------------------------------------


def ours(thing: object) -> bool:
    """Is it an object of the package that is no session? A session is a dict, and shows itself as one."""
    kind = type(thing)
    module = str(kind.__module__)  # of a few types in C it is no text
    return module.startswith("serverless_session.") and ".testing" not in module and not issubclass(kind, Session)


@provokes("reprs of everything")
async def reprs(run: Run) -> None:
    async def look(request: Request) -> Response:
        session = await load_session(request)
        await session.change("value", lambda value: VALUE + "!")
        session.login(USER, max_age=60)
        found = [thing for thing in gc.get_objects() if ours(thing)]
        run.reprs.update(map(repr, found))
        kinds.update(type(thing).__name__ for thing in found)
        return JSONResponse({})

    kinds: set[str] = set()
    shared, _ = run.shared()
    async with tabs(app_over(shared, Route("/look", look), lazy=True, merge={"n": sum_of_changes})) as client:
        await client.get("/look")
        await client.get("/look")
        run.note_id(client)
    wanted = {"SharedState", "SessionMiddleware", "Visit", "Answer", "SessionId", "Settings", "CookieSettings", "Rules"}
    wanted |= {
        "Facts",
        "Asked",
        "Login",
        "Changed",
        "KeyRing",
        "Records",
        "IdMaker",
        "NotLoaded",
        "MemoryStore",
        "Record",
    }
    assert wanted <= kinds, wanted - kinds


# --- and nothing of it shows ------------------------------------------------------------------------------------------


def test_every_event_was_provoked(run: Run) -> None:
    wanted = {name for name in EVENTS if name.startswith(("session.", "store."))}
    assert wanted - run.events == set()
    assert wanted - EVERY.keys() == set(), "each has something here that bears its name"


def test_every_error_was_raised(run: Run) -> None:
    all_of_them = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    kinds = {kind for kind in all_of_them if issubclass(kind, ServerlessSessionError)}
    roots = {ServerlessSessionError, errors.StoreError, errors.CodecError, errors.UnreadableValue}
    never = {errors.DamagedValue, errors.ComputationTimeout}  # the one counts as missing, the other is of caches
    assert kinds - roots - never == {type(error) for error in run.errors if isinstance(error, ServerlessSessionError)}


def test_what_is_said_shows_nothing_of_what_is_kept(run: Run) -> None:
    secrets, said = run.secrets(), list(run.said())
    assert len(secrets) > 100
    assert len(said) > 100
    everything = "\n".join(said)
    found = [secret for secret in secrets if secret in everything]
    places = [text[:2000] for text in said if any(secret in text for secret in found)]
    assert found == [], places


def test_what_is_said_would_have_been_seen(run: Run) -> None:
    """The search finds each kind of secret where there is one."""
    secrets = run.secrets()
    assert {SECRET, VALUE, USER, PASSWORD, *run.ids} <= secrets
    assert len(run.ids) > 10
    counting = next(counting for counting in run.counters if counting.writes)
    write = next(operation for operation in counting.operations if isinstance(operation, Write))
    assert {write.key.rpartition(":")[2], write.version.hex(), repr(write.version)[2:-1]} <= secrets


def test_other_libraries_were_listened_to(run: Run) -> None:
    assert {"asyncio", "httpx2"} & {record.name.partition(".")[0] for record in run.records}


def test_store_keys_and_values_show_nothing_of_what_is_kept(run: Run) -> None:
    hidden = [text.encode() for text in (SECRET, OTHER, USER, VALUE, PASSWORD, *run.ids)]
    for made in run.ids:
        decoded = base64.urlsafe_b64decode(made)
        hidden += [decoded, decoded[5:37]]
    operations = [operation for counting in run.counters for operation in counting.operations]
    assert {type(operation) for operation in operations} == {Read, Write, Delete}
    for operation in operations:
        assert re.fullmatch(r"app:session:[A-Za-z0-9_-]{43}", operation.key)
        told = operation.key.encode() + (operation.value if isinstance(operation, Write) else b"")
        assert not [secret for secret in hidden if secret in told]


def test_a_record_shows_nothing() -> None:
    record = Record("app:session:key", new_version(), BYTES, 1.0, Facts(created_at=0, user_id=USER), {"a": VALUE})
    for text in (VALUE, USER, "app:session", repr(record.version)):
        assert text not in repr(record)
