"""What two requests of one session can do to each other, in every order of their steps."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from serverless_session.errors import StoreUnavailable
from serverless_session.sessions.lifecycle import CookieChange, Rules, Visit
from serverless_session.sessions.lifetime import Facts, Lifetime
from serverless_session.sessions.record import Record, Steps
from serverless_session.sessions.session import Asked, Session
from serverless_session.stores import Conflict, Delete, Failed, Outcome
from tests.sessions.interleaving import LIFE, RULES, App, Request, World, done, orders


def look(session: Session) -> None:
    """A request that only reads."""


def logout(session: Session) -> None:
    session.logout()


def log_in(session: Session) -> None:
    session.regenerate()
    session["user"] = "ann"


def regenerate(session: Session) -> None:
    session.regenerate()


def put(key: str, value: Any = 1) -> App:
    def app(session: Session) -> None:
        session[key] = value

    return app


def append(item: str) -> App:
    def app(session: Session) -> None:
        session.setdefault("cart", []).append(item)

    return app


def starting(
    data: dict[str, Any], *apps: App, visit: type[Visit] = Visit, loaded: bool = False, rules: Rules = RULES
) -> Callable[[], tuple[World, list[Request]]]:
    """A browser with a session that holds `data`, and one request for each app, all sent with its cookie.

    `loaded`: all have loaded the session before the first of them goes on; where there are three, every order of the
    loads as well would take minutes.
    """

    def begin() -> tuple[World, list[Request]]:
        world = World(rules=rules)
        world.alone(lambda session: session.update(data))
        world.visit = visit
        requests = [world.request(app) for app in apps]
        for request in requests if loaded else ():
            next(request)  # up to its load
            next(request)  # up to its first operation after it
        return world, requests

    return begin


def count(begin: Callable[[], tuple[World, Sequence[Request]]], broken: Callable[[World], bool]) -> tuple[int, int]:
    """How many orders there are, and in how many of them the world is broken."""
    verdicts = [broken(world) for world in orders(begin)]
    return len(verdicts), sum(verdicts)


def anybody_logged_in(world: World) -> bool:
    known = {*world.set_cookies, world.jar}
    return any("user" in world.content(cookie) for cookie in known if cookie is not None)


class NeverTakenBack(Visit):
    """The broken wording: a new id stands, whatever became of the old one meanwhile."""

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
    """The broken wording: an ending that meets a stone ends its successors, and leaves the stone to name one more."""

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
    """The broken wording: the old record is deleted, so that a logout finds nothing to end."""

    def _leave_stone(self, old: Record, new: Record, mine: bytes, asked: Asked, now: float) -> Steps[bool]:
        yield Delete(old.key, expect=old.version)
        return True


def test_logout_wins_over_regenerate() -> None:
    """THREATS 1: in whatever order, nobody is logged in after a logout."""
    total, broken = count(starting({"user": "ann"}, logout, regenerate), anybody_logged_in)
    assert total > 100
    assert broken == 0


@pytest.mark.parametrize("wording", [NoStone, NeverTakenBack])
def test_the_enumeration_catches_a_logout_that_loses(wording: type[Visit]) -> None:
    _, broken = count(starting({"user": "ann"}, logout, regenerate, visit=wording), anybody_logged_in)
    assert broken > 5


def test_logout_wins_over_two_regenerates() -> None:
    begin = starting({"user": "ann"}, logout, regenerate, regenerate, loaded=True)
    total, broken = count(begin, anybody_logged_in)
    assert total > 1_000
    assert broken == 0
    begin = starting({"user": "ann"}, logout, regenerate, regenerate, loaded=True, visit=EndingLeavesStones)
    assert count(begin, anybody_logged_in)[1] > 100


def farewell(session: Session) -> None:
    """A logout with a message for the next page, as many apps write it."""
    session.clear()
    session["flash"] = "bye"


@pytest.mark.parametrize("others", [(regenerate,), (regenerate, put("a")), (regenerate, logout)])
def test_a_logout_with_a_farewell_wins_too(others: tuple[App, ...]) -> None:
    begin = starting({"user": "ann"}, farewell, *others, loaded=len(others) > 1)
    total, broken = count(begin, anybody_logged_in)
    assert total > 100
    assert broken == 0


def test_a_login_that_clears_first_stands_though_another_tab_logs_out() -> None:
    def log_in_afresh(session: Session) -> None:
        session.clear()
        session["user"] = "bob"

    def wrong(world: World) -> bool:
        known = {*world.set_cookies, world.jar} - {None}
        return sorted(filter(None, (world.content(cookie).get("user") for cookie in known))) not in ([], ["bob"])

    total, broken = count(starting({"user": "ann"}, logout, log_in_afresh), wrong)
    assert total > 50
    assert broken == 0


def test_the_enumeration_catches_a_farewell_that_leaves_an_ordinary_stone() -> None:
    class OrdinaryStone(Visit):
        def _leave_stone(self, old: Record, new: Record, mine: bytes, asked: Asked, now: float) -> Steps[bool]:
            return super()._leave_stone(old, new, mine, Asked(new_id=True), now)

    _, broken = count(starting({"user": "ann"}, farewell, regenerate, visit=OrdinaryStone), anybody_logged_in)
    assert broken > 100


def test_logout_wins_over_a_concurrent_save() -> None:
    begin = starting({"user": "ann"}, logout, put("seen"), put("cart"), loaded=True)
    total, broken = count(begin, anybody_logged_in)
    assert total > 100
    assert broken == 0


def test_a_logout_written_as_a_deletion_is_not_undone() -> None:
    """THREATS 2: `pop` against a change of something inside what was popped."""

    def pop(session: Session) -> None:
        session.pop("user", None)

    def touch(session: Session) -> None:
        if "user" in session:
            session["user"]["seen"] = "now"

    total, broken = count(starting({"user": {"name": "ann"}, "cart": []}, pop, touch), anybody_logged_in)
    assert total > 20
    assert broken == 0


def test_two_disjoint_changes_are_both_kept() -> None:
    def lost(world: World) -> bool:
        return not {"a", "b", "c"} <= world.content(world.jar).keys()

    total, broken = count(starting({"user": "ann"}, put("a"), put("b"), put("c"), loaded=True), lost)
    assert total > 500
    assert broken == 0


def test_two_appends_are_both_kept() -> None:
    """THREATS 16: nested carts."""

    def lost(world: World) -> bool:
        return sorted(world.content(world.jar)["cart"]) != ["apple", "bread", "milk"]

    total, broken = count(starting({"cart": ["milk"]}, append("apple"), append("bread")), lost)
    assert total > 20
    assert broken == 0


def test_a_change_that_overlaps_a_new_id_never_costs_the_login() -> None:
    """THREATS 11: whatever arrives last, the browser ends with the login's cookie."""

    def lost(world: World) -> bool:
        return world.content(world.jar).get("user") != "ann"

    total, broken = count(starting({"cart": ["milk"]}, log_in, put("poll")), lost)
    assert total > 50
    assert broken == 0


def test_the_enumeration_catches_a_cookie_sent_at_every_change() -> None:
    """Rule 5: with Starlette's cookie at every change, a poll that arrives late would throw the login away."""

    class AtEveryChange(Lifetime):
        def used(self, facts: Facts, now: float, *, changed: bool) -> Facts:
            return replace(facts, kept_until=now + LIFE + 0.001) if changed else facts

    def lost(world: World) -> bool:
        return world.content(world.jar).get("user") != "ann"

    rules = Rules(lifetime=AtEveryChange(max_age=LIFE))
    _, broken = count(starting({"cart": []}, log_in, put("poll"), rules=rules), lost)
    assert broken > 0


def test_after_a_new_id_the_old_one_is_never_followed() -> None:
    """THREATS 12: an id planted before the login is worth nothing after it, at once and later."""
    world = World()
    world.alone(put("cart"))
    planted = world.jar
    world.alone(log_in)
    assert world.jar != planted
    for wait in (0, 30, 120):
        world.clock.advance(wait)
        assert world.content(planted) == {}
    assert world.content(world.jar) == {"cart": 1, "user": "ann"}


def test_clear_and_write_begins_a_session_of_only_that() -> None:
    world = World()
    world.alone(lambda session: session.update(user="ann", cart=[1]))
    before = world.jar

    def change_user(session: Session) -> None:
        session.clear()
        session["user"] = "bob"

    world.alone(change_user)
    assert world.jar != before
    assert world.content(world.jar) == {"user": "bob"}
    assert world.content(before) == {}


def test_emptied_key_by_key_a_change_in_flight_still_merges() -> None:
    """The record keeps the change. (The browser may still get the removal of its cookie last, and forget the id.)"""

    def pop(session: Session) -> None:
        session.pop("flash", None)

    def lost(world: World) -> bool:
        return world.content(world.set_cookies[0]) != {"cart": ["apple"]}

    total, broken = count(starting({"flash": "hello"}, pop, append("apple")), lost)
    assert total > 20
    assert broken == 0


def test_a_change_prolongs_once_a_tenth_is_gone() -> None:
    world = World()
    world.alone(put("a"))
    first = world.jar
    assert len(world.set_cookies) == 1
    world.clock.advance(LIFE * 0.09)
    world.alone(put("b"))
    assert len(world.set_cookies) == 1
    world.clock.advance(LIFE * 0.02)
    world.alone(put("c"))
    assert world.set_cookies == [first, first]
    world.clock.advance(LIFE * 0.99)
    assert world.content(first) == {"a": 1, "b": 1, "c": 1}
    world.clock.advance(LIFE * 0.02)
    assert world.content(first) == {}


def test_an_unknown_id_is_never_adopted() -> None:
    world = World()
    unknown = world.ids.new()
    world.alone(put("a"), cookie=unknown)
    assert world.jar is not None
    assert world.jar != unknown
    assert world.content(unknown) == {}


def visit_in(world: World) -> Visit:
    """A request with the jar's cookie that has loaded its session."""
    visit = Visit(world.records, world.ids.new, RULES)
    world.run(visit.load(world.jar, now=world.clock.time()))
    return visit


def test_a_late_save_prolongs_neither_record_nor_cookie() -> None:
    world = World()
    world.alone(put("a"))
    world.clock.advance(LIFE / 2)
    visit = visit_in(world)
    visit.session["late"] = 1
    assert world.run(visit.save(now=world.clock.time(), late=True)) is CookieChange.KEEP
    world.alone(put("b"))
    assert len(world.set_cookies) == 2, "the next change does both"


def test_after_the_cookie_is_removed_nothing_can_be_put_in() -> None:
    world = World()
    world.alone(put("a"))
    visit = visit_in(world)
    visit.session.pop("a")
    assert world.run(visit.save(now=world.clock.time())) is CookieChange.REMOVE
    assert not visit.needs_cookie()
    visit.session["b"] = 1
    assert visit.needs_cookie()


def test_a_logout_after_a_change_that_was_dropped_ends_the_session_all_the_same() -> None:
    world = World()
    world.alone(put("user"))
    visit = visit_in(world)
    world.alone(regenerate)
    visit.session["a"] = 1
    world.run(visit.save(now=world.clock.time()))
    visit.session.logout()
    world.run(visit.save(now=world.clock.time(), late=True))
    assert not anybody_logged_in(world)


@pytest.mark.parametrize("late", ["change", "regenerate"])
def test_a_later_save_of_the_same_request_does_not_undo_what_was_merged_in(late: str) -> None:
    world = World()
    world.alone(put("a"))
    visit = visit_in(world)
    world.alone(put("theirs"))
    visit.session["early"] = 1
    world.run(visit.save(now=world.clock.time()))
    visit.session["late"] = 1
    if late == "regenerate":
        visit.session.regenerate()
    world.run(visit.save(now=world.clock.time()))
    assert world.content(visit.id) == {"a": 1, "theirs": 1, "early": 1, "late": 1}


def test_what_is_asked_for_while_a_save_waits_is_carried_out_by_the_next() -> None:
    world = World()
    world.alone(put("user"))
    visit = visit_in(world)
    visit.session["a"] = 1
    saving = visit.save(now=world.clock.time())
    operation = next(saving)
    visit.session.logout()
    with pytest.raises(StopIteration):
        saving.send(done(world.records.perform(operation))[0])
    assert world.run(visit.save(now=world.clock.time())) is CookieChange.REMOVE
    assert world.content(world.jar) == {}


def test_what_could_not_be_carried_out_is_asked_for_again() -> None:
    world = World()
    world.alone(put("user"))
    visit = visit_in(world)
    visit.session.logout()
    failing = visit.save(now=world.clock.time())
    next(failing)
    with pytest.raises(StoreUnavailable):
        failing.send(Failed(StoreUnavailable("it is down")))
    assert world.run(visit.end()) is CookieChange.REMOVE
    assert world.content(world.jar) == {}
