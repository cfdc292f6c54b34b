"""What people may expect of their sessions, whatever their tabs, the network, the clock and the store do meanwhile.

Hypothesis draws a *story*: several browsers begin requests, requests in flight make their next step, answers arrive or
get lost, the clock moves, and the store fails. A step is one operation of the real lifecycle over a store in memory. An
operation may fail, or be carried out or not and be reported as uncertain; a request in which one did is answered with
503 and no cookie, as the middleware does. A request that runs longer than `LONGEST_REQUEST` is cut off. Each value is
written once, so that it tells who wrote it.

One request *found* a session live, or as a stone (it had been given a new id), or it found nothing. An id *descends*
from another if it was set by a `regenerate()` or a `login()` that found the other live. Two requests *overlap* unless
one was over (answered or cut off) before the other began. A *new id* is what `regenerate()` and `login()` ask for, an
*ending* a logout or clear-and-write. What anybody may expect:

1. **An ending is final.** After one that was answered with 200, its id and those that descend from it show nobody who
   is logged in, though their requests go on; as far as the stones on the way lived until it was answered.
2. **A change stands.** What a request wrote that was answered with 200, and whose answer has arrived, is there for the
   next request of that browser. Unless: an ending, or a request that deletes all key by key, overlapped or came later;
   the request had found a stone, so that its change was dropped; another cookie arrived while it was under way; a new
   id overlapped, or came later and was not answered, did not arrive, had not found the session live, or another cookie
   arrived while it was under way; nine tenths of a life have gone since; the session expired while the request ran; or,
   for a key of its own, somebody wrote or deleted that key in a request that overlapped or came later. What was
   appended to a list stands though others append.
3. **A deletion stands.** A key that a request found and deleted, answered with 200, is gone from its id and from those
   that descend from it. Unless somebody put it in who loaded the session later; or who was at it and had found no such
   key, and so created it.
4. **One browser never sees another's data**, nor another's login.
5. **Nobody's login is thrown away.** After a login whose answer has arrived, the browser is logged in. Unless: an
   ending overlapped or came later; another cookie arrived while it was under way (each of them by right: 6); another
   new id overlapped, or came later and went wrong as in 2; nine tenths of a life have gone; the session expired while
   the request ran.
6. **A cookie leaves only by right**: it is set by a request that found nothing, by one that asked for a new id or ended
   the session and wrote, or again where a tenth of its life is gone or somebody had emptied it; it is removed by an
   ending or by who left the session empty. A `regenerate()` that found a stone sets none.
7. **What is over is over.** An id that nobody used for longer than a life shows nothing.

Not promised, and so not expected: two new ids that are asked for at once make two sessions of one, and an ending or a
deletion in one of them does not reach the other (`test_lifecycle` has it as a failure that is expected). And a cookie
that leaves again because a tenth of its life is gone may arrive after that of a new id, and throw it away: a browser
keeps what arrives last.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from serverless_session.errors import StoreError
from serverless_session.records.records import Kept
from serverless_session.sessions.cookie import SessionId
from serverless_session.sessions.lifecycle import LONGEST_REQUEST, CookieChange, Visit
from serverless_session.sessions.session import Session
from serverless_session.stores import Read
from tests.sessions.interleaving import LIFE, Fault, World
from tests.sessions.wordings import (
    CookieOfAnEmptySession,
    DeletionStaysBehind,
    LastWriteWins,
    NeverTakenBack,
    NewSessionInsteadOfADrop,
    NoStone,
    OrdinaryStone,
)

BROWSERS = 2


# --- stories ----------------------------------------------------------------------------------------------------------


class Kind(Enum):
    LOOK = auto()
    PUT = auto()
    APPEND = auto()
    DELETE = auto()
    LOGIN = auto()
    REGENERATE = auto()
    LOGOUT = auto()
    CLEAR_AND_WRITE = auto()
    EMPTY = auto()


class Begin(NamedTuple):
    browser: int
    kind: Kind
    key: str


class Step(NamedTuple):
    """`which` of those that could: the same for `Arrive` and `Lose`."""

    which: int
    fault: Fault | None


class Arrive(NamedTuple):
    which: int


class Lose(NamedTuple):
    """An answer, or a request that is cut off."""

    which: int


class Wait(NamedTuple):
    seconds: float


Action = Begin | Step | Arrive | Lose | Wait

KINDS = [Kind.LOOK, *3 * [Kind.PUT, Kind.APPEND, Kind.DELETE, Kind.REGENERATE], *2 * [Kind.LOGIN], *Kind]
BEGINS = st.builds(
    Begin, st.sampled_from([0] * 5 + list(range(1, BROWSERS))), st.sampled_from(KINDS), st.sampled_from("aab")
)
STEPS = st.builds(Step, st.integers(0, 3), st.sampled_from([None] * 40 + list(Fault)))
ARRIVALS = st.builds(Arrive, st.integers(0, 3))
WAITS = st.builds(Wait, st.sampled_from([1.0, 25.0, LONGEST_REQUEST, 0.11 * LIFE, LIFE / 2, LIFE + 1]))
RARE = st.builds(Lose, st.integers(0, 3)) | WAITS
STORIES = st.lists(
    st.integers(0, 39).flatmap(
        lambda dice: STEPS if dice < 23 else BEGINS if dice < 34 else ARRIVALS if dice < 39 else RARE
    ),
    min_size=15,
    max_size=50,
)
PRELUDES = st.sampled_from([[], [Kind.PUT, Kind.APPEND], *2 * [[Kind.PUT, Kind.APPEND, Kind.LOGIN]]])
"""What browser 0 has done before the story begins."""


# --- what happens -----------------------------------------------------------------------------------------------------


class Found(Enum):
    LIVE = auto()
    STONE = auto()
    NOTHING = auto()


@dataclass(eq=False, repr=False, kw_only=True)
class Sent:
    """A request from its beginning on. Moments are numbers of events; those that end in `_at` are the clock's."""

    number: int
    browser: int
    kind: Kind
    key: str
    cookie: SessionId | None
    began: int
    began_at: float
    steps: Generator[None, None, None] = field(init=False)
    loaded: float = inf
    loaded_at: float = inf
    found: Found = Found.NOTHING
    found_ends_at: float = inf
    found_empty: bool = False
    saw: dict[str, Any] = field(default_factory=dict)
    left_empty: bool = False
    over: float = inf
    over_at: float = inf
    confirmed: bool = False
    """Answered with 200."""
    change: CookieChange = CookieChange.KEEP
    id: SessionId | None = None
    """That the answer sets."""
    arrived: float = inf

    @property
    def value(self) -> str:
        return f"{self.browser}:{self.number}"

    @property
    def asks_for_new_id(self) -> bool:
        return self.kind in (Kind.LOGIN, Kind.REGENERATE)

    @property
    def ends(self) -> bool:
        return self.kind in (Kind.LOGOUT, Kind.CLEAR_AND_WRITE)

    def writes(self, key: str) -> bool:
        return self.kind in (Kind.PUT, Kind.DELETE) and self.key == key

    def act(self, session: Session) -> None:
        match self.kind:
            case Kind.PUT:
                session[self.key] = self.value
            case Kind.APPEND:
                session.setdefault("list", []).append(self.value)
            case Kind.DELETE:
                session.pop(self.key, None)
            case Kind.LOGIN:
                session.login(str(self.browser))
                session["user"] = self.value
            case Kind.REGENERATE:
                session.regenerate()
            case Kind.LOGOUT:
                session.logout()
            case Kind.CLEAR_AND_WRITE:
                session.clear()
                session["flash"] = self.value
            case Kind.EMPTY:
                for key in list(session):
                    del session[key]

    def __str__(self) -> str:
        key = self.key if self.kind in (Kind.PUT, Kind.DELETE) else ""
        return f"#{self.number} {self.kind.name.lower()} {key}".rstrip()


class Story:
    """One run: the world, its browsers, and everything that was sent."""

    def __init__(self, visit: type[Visit] = Visit) -> None:
        self.world = World(visit=visit)
        self.moment = 0
        self.sent: list[Sent] = []
        self.jars: list[SessionId | None] = [None] * BROWSERS

    @property
    def now(self) -> float:
        return self.world.clock.time()

    def prelude(self, kinds: Sequence[Kind]) -> None:
        for kind in kinds:
            self.do(Begin(0, kind, "a"))
            self.finish()

    def finish(self) -> None:
        """Everything in flight goes on to its end, one after the other."""
        while self._running():
            self.do(Step(0, None))
        while self._on_their_way():
            self.do(Arrive(0))

    def do(self, action: Action) -> None:
        """Carry it out, where there is anything that it could mean."""
        self.moment += 1
        match action:
            case Begin(browser, kind, key):
                self._begin(browser, kind, key)
            case Step(which, fault) if running := self._running():
                self._step(running[which % len(running)], fault)
            case Arrive(which) if on_their_way := self._on_their_way():
                self._arrive(on_their_way[which % len(on_their_way)])
            case Lose(which) if lost := self._running() + self._on_their_way():
                self._lose(lost[which % len(lost)])
            case Wait(seconds):
                note(f"{seconds} s later")
                self.world.clock.advance(seconds)
                for sent in self._running():
                    if self.now - sent.began_at >= LONGEST_REQUEST:
                        self._lose(sent)

    def _running(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.over == inf]

    def _on_their_way(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.confirmed and sent.arrived == inf]

    def _begin(self, browser: int, kind: Kind, key: str) -> None:
        sent = Sent(
            number=len(self.sent),
            browser=browser,
            kind=kind,
            key=key,
            cookie=self.jars[browser],
            began=self.moment,
            began_at=self.now,
        )
        sent.steps = self._request(sent)
        self.sent.append(sent)
        note(f"browser {browser} begins {sent}")

    def _step(self, sent: Sent, fault: Fault | None) -> None:
        self.world.fault = fault
        note(f"{sent} goes on" + (f", but {fault.name}" if fault else ""))
        next(sent.steps, None)
        self.world.fault = None

    def _arrive(self, sent: Sent) -> None:
        note(f"{sent}: its answer arrives")
        sent.arrived = self.moment
        if sent.change is not CookieChange.KEEP:
            self.jars[sent.browser] = sent.id

    def _lose(self, sent: Sent) -> None:
        note(f"{sent} is lost")
        sent.steps.close()
        if sent.over == inf:
            sent.over, sent.over_at = self.moment, self.now
        sent.confirmed = sent.confirmed and sent.arrived != inf

    def _request(self, sent: Sent) -> Generator[None, None, None]:
        visit = self.world.visit(self.world.records, self.world.ids.new, self.world.rules)
        try:
            loading = visit.load(sent.cookie, now=self.now)
            for _ in self._watched(sent, self.world.steps(loading)):
                yield
            sent.saw = visible(visit.session)
            self._belongs(sent.browser, sent.saw)
            sent.act(visit.session)
            sent.left_empty = not visit.session
            change = yield from self.world.steps(visit.save(now=self.now))
        except StoreError:
            note(f"{sent} is answered with 503")
        else:
            sent.confirmed, sent.change = True, change
            if change is CookieChange.SET:
                sent.id = visit.id
            note(f"{sent} is answered with 200, cookie: {change.name}")
            self._cookie_by_right(sent)
        sent.over, sent.over_at = self.moment, self.now

    def _watched(self, sent: Sent, loading: Iterator[None]) -> Iterator[None]:
        """A load; what it is about to find is noted, from the store itself."""
        yield from loading if sent.cookie is None else ()
        if sent.cookie is not None:
            next(loading)
            yield
            self._look(sent, sent.cookie)
            assert next(loading, "loaded") == "loaded"
        sent.loaded, sent.loaded_at = self.moment, self.now

    def _look(self, sent: Sent, cookie: SessionId) -> None:
        fault, self.world.fault = self.world.fault, None
        outcome = self.world.perform(Read(self.world.records.key(cookie.secret)))
        self.world.fault = fault
        if isinstance(outcome, Kept):
            content = self.world.records.unpack(outcome.value)
            sent.found = Found.STONE if "moved_to" in content else Found.LIVE
            sent.found_ends_at = outcome.ends_at
            sent.found_empty = sent.found is Found.LIVE and not content["data"]

    # --- what may be expected -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Everything that the module promises, now."""
        for sent in self.sent:
            if sent.confirmed:
                self._ending_is_final(sent)
                self._deletion_stands(sent)
                if sent.arrived < inf:
                    self._change_stands(sent)
                    self._login_stands(sent)
        self._over_is_over()

    def content(self, cookie: SessionId | None) -> dict[str, Any]:
        visit = Visit(self.world.records, self.world.ids.new, self.world.rules)
        self.world.run(visit.load(cookie, now=self.now))
        return visible(visit.session)

    def _others(self, sent: Sent) -> Iterator[Sent]:
        """Of the same browser, those that overlapped with it or came later."""
        return (other for other in self.sent if _same_tab_or(sent, other) and other.over > sent.began)

    def _ending_is_final(self, sent: Sent) -> None:
        if sent.ends and sent.cookie is not None and sent.found is not Found.NOTHING:
            for each in self._descending(sent.cookie, until=sent.over_at):
                content = self.content(each)
                assert "user" not in content, f"1: {sent} was confirmed, and an id of it is logged in"
                assert content["user_id"] is None, f"1: {sent} was confirmed, and an id of it is logged in"

    def _change_stands(self, sent: Sent) -> None:
        if sent.kind not in (Kind.PUT, Kind.APPEND) or sent.found is Found.STONE:
            return
        if self._expired(sent) or self._cookies_crossed(sent):
            return
        for other in self._others(sent):
            overrides = sent.kind is Kind.PUT and other.writes(sent.key)
            if other.ends or other.kind is Kind.EMPTY or overrides or self._confuses(sent, other):
                return
        content = self.content(self.jars[sent.browser])
        if sent.kind is Kind.PUT:
            assert content.get(sent.key) == sent.value, f"2: {sent} was confirmed, and is lost"
        else:
            assert sent.value in content.get("list", ()), f"2: {sent} was confirmed, and is lost"

    def _deletion_stands(self, sent: Sent) -> None:
        deleted = {Kind.DELETE: sent.saw.keys() & {sent.key}, Kind.EMPTY: sent.saw.keys() & {"a", "b"}}
        for key in deleted.get(sent.kind, ()):
            assert sent.cookie is not None
            for each in self._descending(sent.cookie, until=sent.over_at):
                value = self.content(each).get(key)
                if value is not None:
                    writer = self.sent[int(value.partition(":")[2])]
                    knew = key in writer.saw or writer.over < sent.loaded
                    assert writer.loaded > sent.loaded or not knew, f"3: {sent} was confirmed, and undone"

    def _login_stands(self, sent: Sent) -> None:
        if sent.kind is not Kind.LOGIN or self._expired(sent) or self._cookies_crossed(sent):
            return
        for other in self._others(sent):
            if other.ends or self._confuses(sent, other):
                return
        user_id = self.content(self.jars[sent.browser])["user_id"]
        assert user_id == str(sent.browser), f"5: {sent} was confirmed, and its login is lost"

    def _expired(self, sent: Sent) -> bool:
        return self.now >= sent.began_at + 0.9 * LIFE or sent.found_ends_at <= sent.over_at

    def _cookies_crossed(self, sent: Sent) -> bool:
        """Did another cookie arrive while this one was under way? That it left by right was checked then."""
        return any(
            other.change is not CookieChange.KEEP and other.began < sent.arrived and sent.began < other.arrived < inf
            for other in self.sent
            if _same_tab_or(sent, other)
        )

    def _confuses(self, sent: Sent, other: Sent) -> bool:
        """Does it ask for a new id, and not simply take along what there is?"""
        simply = other.began > sent.arrived and other.arrived < inf and other.found is Found.LIVE
        return other.asks_for_new_id and (not simply or self._cookies_crossed(other))

    def _cookie_by_right(self, sent: Sent) -> None:
        right = sent.change is CookieChange.KEEP
        match sent.change:
            case CookieChange.SET if sent.id != sent.cookie:
                right = sent.found is Found.NOTHING or sent.kind in (Kind.LOGIN, Kind.CLEAR_AND_WRITE)
                right |= sent.kind is Kind.REGENERATE and sent.found is Found.LIVE
            case CookieChange.SET:
                emptied = any(other.left_empty for other in self._others(sent))
                right = sent.found_empty or emptied or sent.found_ends_at < self.now + 0.9 * LIFE + 1
            case CookieChange.REMOVE:
                right = sent.ends or sent.left_empty
        assert right, f"6: {sent} has no right to a cookie ({sent.change.name})"

    def _belongs(self, browser: int, content: dict[str, Any]) -> None:
        written = [content.get(key, []) for key in ("a", "b", "user", "flash", "list")]
        for value in (each for part in written for each in ([part] if isinstance(part, str) else part)):
            assert value.startswith(f"{browser}:"), "4: a browser sees another's data"
        assert content["user_id"] in (None, str(browser)), "4: a browser sees another's login"

    def _descending(self, cookie: SessionId, *, until: float) -> set[SessionId]:
        """It and the ids that descend from it, as far as the stones on the way still lived at `until`."""
        found, reached = {cookie}, [cookie]
        while reached:
            parent = reached.pop()
            for sent in self.sent:
                moved = sent.asks_for_new_id and sent.cookie == parent and sent.found is Found.LIVE
                if moved and sent.id is not None and until < sent.loaded_at + LONGEST_REQUEST and sent.id not in found:
                    found.add(sent.id)
                    reached.append(sent.id)
        return found

    def _over_is_over(self) -> None:
        used: dict[SessionId, float] = {}
        for sent in self.sent:
            for each in (sent.cookie, sent.id):
                if each is not None:
                    last = self.now if sent.over == inf else sent.over_at
                    used[each] = max(last, used.get(each, 0.0))
        for each, at in used.items():
            if self.now - at > LIFE + 2 * LONGEST_REQUEST:
                assert self.content(each) == {"user_id": None}, "7: nobody used it, and it is still there"


def _same_tab_or(sent: Sent, other: Sent) -> bool:
    return other is not sent and other.browser == sent.browser


def visible(session: Session) -> dict[str, Any]:
    return {**session, "user_id": session.user_id}


def run(visit: type[Visit], prelude: Sequence[Kind], actions: Sequence[Action]) -> None:
    story = Story(visit)
    story.prelude(prelude)
    for action in actions:
        story.do(action)
        if not isinstance(action, Begin):
            story.check()
    story.finish()
    story.check()


@given(PRELUDES, STORIES)
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happens_people_get_what_they_may_expect(prelude: list[Kind], actions: list[Action]) -> None:
    """THREATS 1, 2, 11, 12 and 16."""
    run(Visit, prelude, actions)


@pytest.mark.parametrize(
    "wording",
    [
        NoStone,
        NeverTakenBack,
        OrdinaryStone,
        LastWriteWins,
        DeletionStaysBehind,
        NewSessionInsteadOfADrop,
        CookieOfAnEmptySession,
    ],
)
def test_the_model_catches_a_broken_lifecycle(wording: type[Visit]) -> None:
    @given(PRELUDES, STORIES)
    @settings(
        max_examples=3_000,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    def catch(prelude: list[Kind], actions: list[Action]) -> None:
        run(wording, prelude, actions)

    with pytest.raises(AssertionError, match=r"^[1-7]: "):
        catch()
