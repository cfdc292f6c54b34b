"""A change inside a mapping or a list of a session is saved, however and whenever the app came by it."""

import collections
import contextlib
import copy
import dataclasses
import json
import operator
import types
from collections.abc import Callable
from typing import Any

import jinja2
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from serverless_session import SessionMiddleware, SharedState
from serverless_session.sessions import lifecycle, record
from serverless_session.sessions.lifecycle import Visit
from serverless_session.sessions.session import Session
from serverless_session.stores import MemoryStore
from tests.sessions.apps import SECRET
from tests.sessions.direct import call, scope_of
from tests.sessions.interleaving import World

Way = Callable[[Session], Any]


def fill(session: Session) -> None:
    session.update(user="ann", visits=1, ratio=0.5, cart=["mug"])


def by_match(session: Session) -> Any:
    match session:
        case {"cart": cart}:
            return cart


def by_popping(session: Session) -> Any:
    session["cart"] = cart = session.pop("cart")
    return cart


def by_popping_an_item(session: Session) -> Any:
    key, cart = session.popitem()
    session[key] = cart
    return cart


def by_template(session: Session) -> Any:
    taken: list[Any] = []
    jinja2.Environment().from_string("{{ take(session.cart) }}").render(session=session, take=taken.append)
    return taken[0]


def by_updating(session: Session) -> Any:
    other: dict[str, Any] = {}
    other.update(session)
    return other["cart"]


def by_updating_in_place(session: Session) -> Any:
    other: dict[str, Any] = {}
    other |= session
    return other["cart"]


def keywords(**given: Any) -> dict[str, Any]:
    return given


WAYS: dict[str, Way] = {
    "session[key]": lambda session: session["cart"],
    "get": lambda session: session.get("cart"),
    "setdefault": lambda session: session.setdefault("cart", []),
    "pop, and put back": by_popping,
    "popitem, and put back": by_popping_an_item,
    "values": lambda session: list(session.values())[-1],
    "items": lambda session: list(session.items())[-1][1],
    "dict": lambda session: dict(session)["cart"],
    "{**}": lambda session: {**session}["cart"],
    "f(**)": lambda session: keywords(**session)["cart"],
    "copy()": lambda session: session.copy()["cart"],
    "copy.copy": lambda session: copy.copy(session)["cart"],
    "session | other": lambda session: (session | {"other": 1})["cart"],
    "other | session": lambda session: ({"other": 1} | session)["cart"],
    "update": by_updating,
    "|=": by_updating_in_place,
    "match": by_match,
    "a template": by_template,
    "itemgetter": operator.itemgetter("cart"),
    "ChainMap": lambda session: collections.ChainMap(session)["cart"],
    "a proxy": lambda session: types.MappingProxyType(session)["cart"],
    "OrderedDict": lambda session: collections.OrderedDict(session)["cart"],
    "defaultdict": lambda session: collections.defaultdict(list, session)["cart"],
    "UserDict": lambda session: collections.UserDict(session)["cart"],
    "a namespace": lambda session: types.SimpleNamespace(**session).cart,
    "map": lambda session: dict(zip(session, map(session.get, session), strict=True))["cart"],
}


def filled() -> World:
    world = World()
    world.alone(fill)
    return world


def loaded(world: World) -> Visit:
    visit = Visit(world.records, world.ids.new, world.rules)
    world.run(visit.load(world.jar, now=world.clock.time()))
    return visit


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_change_inside_is_saved_however_the_app_came_by_it(way: Way) -> None:
    world = filled()
    visit = loaded(world)
    assert visit.is_settled()
    way(visit.session).append("cap")
    assert not visit.is_settled()
    world.run(visit.save(now=world.clock.time()))
    assert world.content(world.jar)["cart"] == ["mug", "cap"]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_change_inside_is_saved_after_a_save_of_the_same_request(way: Way) -> None:
    world = filled()
    visit = loaded(world)
    visit.session["visits"] = 2
    world.run(visit.save(now=world.clock.time()))
    assert visit.is_settled()
    way(visit.session).append("cap")
    assert not visit.is_settled()
    world.run(visit.save(now=world.clock.time()))
    assert visit.is_settled()
    assert world.content(world.jar) == {"user": "ann", "visits": 2, "ratio": 0.5, "cart": ["mug", "cap"]}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_change_inside_while_a_save_is_under_way_is_saved_by_the_next(way: Way) -> None:
    world = filled()
    visit = loaded(world)
    visit.session["visits"] = 2
    steps = visit.save(now=world.clock.time())
    operation = next(steps)
    way(visit.session).append("cap")
    with pytest.raises(StopIteration):
        steps.send(world.perform(operation))
    assert not visit.is_settled()
    world.run(visit.save(now=world.clock.time()))
    assert world.content(world.jar)["cart"] == ["mug", "cap"]


def test_a_change_inside_outlives_a_save_that_was_cut_off() -> None:
    world = filled()
    visit = loaded(world)
    visit.session["visits"] = 2
    steps = visit.save(now=world.clock.time())
    next(steps)
    visit.session["cart"].append("cap")
    steps.close()
    visit.session["visits"] = 1
    assert not visit.is_settled()
    world.run(visit.save(now=world.clock.time()))
    assert world.content(world.jar)["cart"] == ["mug", "cap"]


def test_a_change_inside_what_the_app_has_put_in_is_saved() -> None:
    world, own = filled(), ["of the app"]
    visit = loaded(world)
    visit.session["own"] = own
    world.run(visit.save(now=world.clock.time()))
    own.append("more")
    assert not visit.is_settled()
    world.run(visit.save(now=world.clock.time()))
    assert world.content(world.jar)["own"] == ["of the app", "more"]


def test_what_is_written_past_the_sessions_methods_is_noticed() -> None:
    world = filled()
    world.alone(lambda session: dict.__setitem__(session, "visits", 2))
    assert world.content(world.jar)["visits"] == 2


class Cart(pydantic.BaseModel):
    cart: list[Any]


@dataclasses.dataclass
class State:
    cart: list[Any]


PAST_ITS_METHODS: dict[str, Callable[[Any], Any]] = {
    "dict.get": lambda session: dict.get(session, "cart"),
    "dict.items": lambda session: list(dict.items(session))[-1][1],
    "pydantic, a model from attributes": lambda session: Cart.model_validate(session, from_attributes=True).cart,
    "pydantic, a dataclass": lambda session: pydantic.TypeAdapter(State).validate_python(session).cart,
}


@pytest.mark.parametrize("way", PAST_ITS_METHODS.values(), ids=PAST_ITS_METHODS)
async def test_a_change_inside_what_was_read_past_its_methods_is_saved(way: Callable[[Any], Any]) -> None:
    shared = SharedState(MemoryStore(), secret_key=SECRET)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session, body = scope["session"], b""
        if scope["path"] == "/fill":
            session["cart"] = [["mug"]]
        elif scope["path"] == "/change":
            way(session)[0].append("cap")
        else:
            body = json.dumps(session).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    middleware = SessionMiddleware(app, shared=shared)
    cookie = (await call(middleware, scope_of("/fill", None))).cookie
    await call(middleware, scope_of("/change", cookie))
    seen = await call(middleware, scope_of("/", cookie))
    assert json.loads(seen.messages[-1]["body"]) == {"cart": [["mug", "cap"]]}


NESTED = st.recursive(st.integers(0, 2) | st.booleans() | st.sampled_from([0.0, "", "a"]), st.lists, max_leaves=3)
LISTS = st.lists(NESTED, min_size=1, max_size=2)
TAKE = st.tuples(st.just("take"), st.sampled_from("abc"), st.sampled_from(["get", "getitem", "items", "pop", "dict"]))
APPEND = st.tuples(st.just("append"), st.integers(-3, -1), NESTED)
SET = st.tuples(st.just("set"), st.sampled_from("abc"), NESTED | LISTS)
SAVE = st.tuples(st.just("save"), st.booleans(), st.none())
STEPS = st.lists(st.one_of(TAKE, APPEND, TAKE, APPEND, SAVE, SAVE, SET), min_size=2, max_size=12)
"""Mostly what is easily overlooked: something inside is changed, and nothing else since the last save."""


def take(session: Session, key: str, way: str) -> Any:
    match way:
        case "get":
            return session.get(key)
        case "getitem":
            with contextlib.suppress(KeyError):
                return session[key]
            return None
        case "items":
            return next((value for its, value in session.items() if its == key), None)
        case "dict":
            return dict(session).get(key)
        case _:
            if key not in session:
                return None
            session[key] = taken = session.pop(key)
            return taken


@settings(max_examples=400)
@given(began=st.dictionaries(st.sampled_from("abc"), LISTS, min_size=2), steps=STEPS)
def test_whatever_an_app_does_in_whatever_order_is_saved(began: dict[str, Any], steps: list[Any]) -> None:
    world = World()
    world.alone(lambda session: session.update(began))
    visit = loaded(world)
    session, lists = visit.session, list[list[Any]]()

    def do(kind: str, where: Any, what: Any) -> None:
        match kind:
            case "set":
                session[where] = what
            case "take":
                taken = take(session, where, what)
                while isinstance(taken, list):
                    lists.append(taken)
                    taken = taken[0] if taken else None
            case "append" if -where <= len(lists):
                lists[where].append(copy.deepcopy(what))

    waiting: Any = None
    for kind, where, what in [*steps, ("save", False, None)]:
        if kind != "save":
            do(kind, where, what)
            continue
        if waiting is not None:  # what was sent is answered only now, and the app has gone on meanwhile
            saving, operation = waiting
            with pytest.raises(StopIteration):
                saving.send(world.perform(operation))
            waiting = None
        saving = visit.save(now=world.clock.time())
        if where:
            with contextlib.suppress(StopIteration):
                waiting = saving, next(saving)
            continue
        if not visit.is_settled():
            world.run(saving)
    assert visit.is_settled()
    assert repr(world.content(world.jar)) == repr(dict(session))


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask", [lambda session: session.update(visits=2), Session.regenerate], ids=["a change", "a new id"]
)
def test_what_a_thread_changes_while_a_save_packs_is_saved_by_the_next(
    ask: Callable[[Session], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Endpoints that are not async run in threads, and may start more."""
    world = filled()
    visit = loaded(world)
    cart, pack = visit.session["cart"], record.pack_session

    def changed_just_then(vault: Any, facts: Any, data: dict[str, Any]) -> bytes:
        packed = pack(vault, facts, data)
        if len(cart) == 1:
            cart.append("cap")
        return packed

    ask(visit.session)
    monkeypatch.setattr(lifecycle, "pack_session", changed_just_then)
    world.run(visit.save(now=world.clock.time()))
    monkeypatch.undo()
    assert not visit.is_settled()
    world.run(visit.save(now=world.clock.time()))
    assert world.content(visit.id)["cart"] == ["mug", "cap"]
