"""A change inside a mapping or a list of a session is noticed, however the app came by it; and who takes none out pays
for no look."""

import collections
import contextlib
import copy
import marshal
import operator
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from threading import Event
from typing import Any
from uuid import UUID

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serverless_session.sessions import mark
from serverless_session.sessions.lifecycle import Visit
from serverless_session.sessions.mark import Mark
from serverless_session.sessions.session import Session
from tests.sessions.interleaving import World

Way = Callable[[Session], Any]

PRICE, ORDER = Decimal("9.90"), UUID(int=7)
WHEN = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


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
    world.alone(lambda session: way(session).append("cap"))
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
    world.run(visit.save(now=world.clock.time()))
    assert world.content(world.jar)["own"] == ["of the app", "more"]


def test_what_is_written_past_the_sessions_methods_is_noticed() -> None:
    world = filled()
    world.alone(lambda session: dict.__setitem__(session, "visits", 2))
    assert world.content(world.jar)["visits"] == 2


def test_what_is_read_past_them_is_not_watched() -> None:
    """The limit, as docs/reference/sessions.md says."""
    world = filled()
    world.alone(lambda session: dict.__getitem__(session, "cart").append("cap"))
    assert world.content(world.jar)["cart"] == ["mug"]


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
    assert repr(world.content(world.jar)) == repr(dict(session))


# --- who asks for nothing that could change, pays for no look into it -------------------------------------------------

FLAT_WAYS: dict[str, Callable[[Session], object]] = {
    "nothing": lambda session: None,
    "a text": lambda session: session["user"],
    "get": lambda session: session.get("nothing"),
    "a date": lambda session: session["at"],
    "a price": lambda session: session.get("price"),
    "a UUID": lambda session: session["order"],
    "keys": lambda session: [*session, *session.keys(), "cart" in session, len(session)],
    "a change": lambda session: session.update(visits=2),
    "a key less": lambda session: session.pop("visits"),
}


@pytest.mark.parametrize("way", FLAT_WAYS.values(), ids=FLAT_WAYS)
def test_nothing_is_looked_into_that_the_app_has_not_had(
    way: Callable[[Session], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, looks = filled(), 0
    world.alone(lambda session: session.update(at=WHEN, price=PRICE, order=ORDER))

    def dumps(*given: Any) -> bytes:
        nonlocal looks
        looks += 1
        return marshal.dumps(*given)

    monkeypatch.setattr(mark, "marshal", types.SimpleNamespace(dumps=dumps))
    visit = loaded(world)
    way(visit.session)
    world.run(visit.save(now=world.clock.time()))
    assert visit.is_settled()
    assert visit.is_settled()
    assert looks == 0


# --- threads ----------------------------------------------------------------------------------------------------------


def test_of_two_threads_that_take_a_list_at_once_no_change_is_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoints that are not async run in threads, and may start more."""
    visit, is_looking, has_changed = loaded(filled()), Event(), Event()

    def slow(data: dict[str, Any]) -> bytes:
        if not is_looking.is_set():  # the one who reads: the other one is faster
            is_looking.set()
            assert has_changed.wait(5.0)
        return marshal.dumps(data, 2)

    def change() -> None:
        assert is_looking.wait(5.0)
        visit.session["cart"].append("cap")
        has_changed.set()

    monkeypatch.setattr(mark, "_marshalled", slow)
    with ThreadPoolExecutor(2) as threads:
        for thread in [threads.submit(visit.session.get, "cart"), threads.submit(change)]:
            thread.result()
    assert not visit.is_settled()


def test_what_a_thread_takes_and_changes_while_it_is_packed_is_saved_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = filled()
    visit = loaded(world)
    covers = Mark.covers

    def taken_just_then(self: Mark, data: dict[str, Any]) -> bool:
        answer = covers(self, data)
        visit.session["cart"].append("cap")
        return answer

    monkeypatch.setattr(Mark, "covers", taken_just_then)
    visit.session["visits"] = 2
    world.run(visit.save(now=world.clock.time()))
    monkeypatch.undo()
    world.run(visit.save(now=world.clock.time()))
    assert world.content(world.jar)["cart"] == ["mug", "cap"]


# --- the mark alone ---------------------------------------------------------------------------------------------------

NO_NUMBER = float("nan")

SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"a": "x" * 1000}, {"a": "x" * 999 + "x"}),
    ({"a": 10**20, "b": b"y" * 500}, {"a": 10**20, "b": b"y" * 500}),
    ({"a": NO_NUMBER}, {"a": NO_NUMBER}),
    ({"a": WHEN, "b": PRICE, "c": ORDER}, {"a": WHEN, "b": PRICE, "c": ORDER}),
]
OTHERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"a": None}),
    ({"a": 1}, {"a": True}),
    ({"a": 1}, {"a": 1.0}),
    ({"a": 0.0}, {"a": -0.0}),
    ({"a": None}, {"b": None}),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"a": "1"}, {"a": b"1"}),
    ({"a": 1}, {}),
]


@pytest.mark.parametrize("is_lent", [True, False])
@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_is_still_the_same(one: dict[str, Any], other: dict[str, Any], is_lent: bool) -> None:
    assert Mark(one, is_lent=is_lent).is_still(other)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("is_lent", [True, False])
@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_what_differs_in_value_type_or_order_is_not_the_same(
    one: dict[str, Any], other: dict[str, Any], is_lent: bool, nested: bool
) -> None:
    if nested:
        one, other = {"in": [one]}, {"in": [other]}
    assert not Mark(one, is_lent=is_lent).is_still(other)


def test_what_marshal_does_not_know_cannot_be_told_once_it_is_lent() -> None:
    data = {"visits": [WHEN]}
    assert Mark(data, is_lent=False).is_still(data)
    assert not Mark(data, is_lent=True).is_still(data)
