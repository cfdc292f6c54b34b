"""What requests of one session can do to each other, in every order of their steps; and what one visit does alone."""

import pytest

from serverless_session.errors import StoreUnavailable
from serverless_session.sessions.cookie import SessionId
from serverless_session.sessions.lifecycle import CookieChange, Visit
from serverless_session.sessions.session import Session
from serverless_session.stores import Failed
from tests.sessions import scenarios
from tests.sessions.interleaving import LIFE, RULES, App, World, done
from tests.sessions.scenarios import Scenario, anybody_logged_in, log_in, put, regenerate


def proven(scenario: Scenario) -> None:
    """No order breaks it, and each of the broken wordings is caught."""
    if scenario.long:
        assert scenario.count_some() == 0
    else:
        total, broken = scenario.count()
        assert total >= scenario.at_least
        assert broken == 0
    for wording in scenario.wordings:
        assert scenario.catches(wording), wording


def test_logout_wins_over_regenerate() -> None:
    """THREATS 1: in whatever order, nobody is logged in after a logout."""
    proven(scenarios.LOGOUT_AND_NEW_ID)


def test_logout_wins_over_a_login_that_was_already_running() -> None:
    proven(scenarios.LOGOUT_AND_LOGIN)


def test_logout_wins_over_two_regenerates() -> None:
    proven(scenarios.LOGOUT_AND_TWO_NEW_IDS)


def test_logout_wins_over_a_concurrent_save() -> None:
    proven(scenarios.LOGOUT_AND_CHANGES)


def test_logout_wins_over_a_use_that_prolongs() -> None:
    proven(scenarios.LOGOUT_AND_USE)


@pytest.mark.parametrize(
    "scenario",
    [
        scenarios.FAREWELL_AND_NEW_ID,
        scenarios.FAREWELL_NEW_ID_AND_CHANGE,
        scenarios.FAREWELL_NEW_ID_AND_LOGOUT,
    ],
    ids=lambda scenario: scenario.name,
)
def test_a_logout_with_a_farewell_wins_too(scenario: Scenario) -> None:
    proven(scenario)


def test_a_login_that_clears_first_stands_though_another_tab_logs_out() -> None:
    proven(scenarios.LOGOUT_AND_LOGIN_AFRESH)


def test_of_two_new_ids_the_browsers_is_alive() -> None:
    proven(scenarios.TWO_NEW_IDS)


@pytest.mark.parametrize(
    "scenario",
    [
        scenarios.LOGOUT_OF_A_SIBLING,
        scenarios.FAREWELL_OF_A_SIBLING,
        scenarios.POP_IN_A_SIBLING,
        scenarios.LOGOUT_OF_A_SIBLING_THAT_MOVES,
    ],
    ids=lambda scenario: scenario.name,
)
def test_of_two_new_ids_at_once_an_ending_ends_both(scenario: Scenario) -> None:
    """THREATS 1: also one whose request was still running when the other's visitor logged out."""
    proven(scenario)


def test_a_logout_written_as_a_deletion_is_not_undone() -> None:
    """THREATS 2: `pop` against a change of something inside what was popped."""
    proven(scenarios.POP_AND_CHANGE_INSIDE)


@pytest.mark.parametrize(
    "scenario", [scenarios.POP_AND_NEW_ID, scenarios.POP_AND_TWO_NEW_IDS], ids=lambda scenario: scenario.name
)
def test_a_logout_written_as_a_deletion_follows_a_session_that_gets_a_new_id(scenario: Scenario) -> None:
    """THREATS 2, and DESIGN's rule that plain changes are dropped there: a deletion is not."""
    proven(scenario)


def test_disjoint_changes_are_all_kept() -> None:
    proven(scenarios.THREE_CHANGES)


def test_two_appends_are_both_kept() -> None:
    """THREATS 16: nested carts."""
    proven(scenarios.TWO_APPENDS)


def test_a_change_that_overlaps_a_new_id_never_costs_the_login() -> None:
    """THREATS 11: whatever arrives last, the browser ends with the login's cookie."""
    proven(scenarios.LOGIN_AND_CHANGE)


def test_emptied_key_by_key_a_change_in_flight_still_merges() -> None:
    """The record keeps the change. (The browser may still get the removal of its cookie last, and forget the id.)"""
    proven(scenarios.EMPTIED_AND_APPEND)


def test_what_ends_while_a_request_runs_stays_ended() -> None:
    proven(scenarios.CHANGE_AND_END_OF_LIFE)
    proven(scenarios.NEW_ID_AND_END_OF_LIFE)


@pytest.mark.parametrize(
    "scenario",
    [scenario for scenario in scenarios.ALL if scenario.at_least < 500 and not scenario.long],
    ids=lambda scenario: scenario.name,
)
def test_a_store_that_fails_at_any_step_breaks_nothing_that_was_confirmed(scenario: Scenario) -> None:
    """Refused, done without an answer, or neither: at each operation in each order."""
    total, broken = scenario.count_with_faults()
    assert total > scenario.at_least
    assert broken == 0


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


def test_a_merge_never_touches_what_we_know_of_a_session() -> None:
    """Nor can an app's keys of the same names."""
    world = World()
    world.alone(lambda session: session.login("ann", max_age=LIFE / 2))
    begun = world.session(world.jar)
    first, second = visit_in(world), visit_in(world)
    world.clock.advance(LIFE / 4)
    for visit, key in ((first, "one"), (second, "two")):
        visit.session.update({key: 1, "user_id": "eve", "created_at": 0, "max_age": 1e9, "v": 2})
        world.run(visit.save(now=world.clock.time()))
    after = world.session(world.jar)
    assert {"one", "two"} <= after.keys()
    assert (after.user_id, after.created_at) == ("ann", begun.created_at)
    assert after._facts.max_age == LIFE / 2
    assert after.authenticated_within(LIFE)


# --- siblings ---------------------------------------------------------------------------------------------------------


def two_siblings(world: World) -> tuple[SessionId, SessionId]:
    """The ids that two requests at once have given one session."""
    world.alone(put("user"))
    visits = visit_in(world), visit_in(world)
    for visit in visits:
        visit.session.regenerate()
        world.run(visit.save(now=world.clock.time()))
    first, second = (visit.id for visit in visits)
    assert first is not None
    assert second is not None
    return first, second


@pytest.mark.parametrize("mover", [0, 1])
@pytest.mark.parametrize("again", [1, 3])
@pytest.mark.parametrize("end", [Session.logout, lambda session: session.pop("user")], ids=["logout", "pop"])
def test_an_ending_reaches_a_sibling_whose_stone_is_gone(end: App, again: int, mover: int) -> None:
    """THREATS 1: a sibling that gets a new id leaves a stone, which lasts for a minute, and the other for days."""
    world = World()
    siblings = two_siblings(world)
    moved = siblings[mover]
    for _ in range(again):
        world.alone(regenerate, cookie=moved)
        assert world.jar is not None
        moved = world.jar
        world.clock.advance(61)
    other = siblings[1 - mover]
    assert len(world.session(other)._facts.siblings or ()) == 1, "who has moved on is named no more"
    world.alone(end, cookie=other)
    assert world.content(moved) == {}


def test_a_sibling_that_has_ended_by_time_costs_nobody_a_new_id() -> None:
    world = World()
    first, second = two_siblings(world)
    world.clock.advance(LIFE / 2)
    world.alone(put("a"), cookie=first)
    world.clock.advance(LIFE / 2 + 1)
    assert world.content(second) == {}
    world.alone(regenerate, cookie=first)
    assert world.jar != first
    assert world.content(world.jar) == {"user": 1, "a": 1}


def test_a_sibling_that_a_save_of_the_same_request_has_met_is_not_forgotten_by_a_new_id() -> None:
    """THREATS 1."""
    world = World()
    world.alone(put("user"))
    visit = visit_in(world)
    world.alone(regenerate)
    running = visit_in(world)
    visit.session.regenerate()
    world.run(visit.save(now=world.clock.time()))  # joins the one that `running` has loaded
    running.session["a"] = 1
    world.run(running.save(now=world.clock.time()))
    running.session.regenerate()
    world.run(running.save(now=world.clock.time()))
    world.alone(Session.logout, cookie=running.id)
    assert world.content(visit.id) == {}
