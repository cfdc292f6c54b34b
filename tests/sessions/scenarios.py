"""What requests of one session can do to each other: scenarios, each in every order of its steps.

A scenario says when its outcome is broken, and which broken wordings of the rules (`wordings`) it has to catch. The
tests in `test_lifecycle` are these; `python -m tests.sessions.scenarios` prints how many orders each has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from serverless_session.sessions.lifecycle import Rules, Visit
from serverless_session.sessions.lifetime import Facts, Lifetime
from serverless_session.sessions.session import Session
from tests.sessions import wordings
from tests.sessions.interleaving import LIFE, RULES, App, Fault, Request, World, orders, some_orders

# --- what requests do -------------------------------------------------------------------------------------------------


def look(session: Session) -> None:
    """A request that only reads."""


def logout(session: Session) -> None:
    session.logout()


def pop(session: Session) -> None:
    """A logout as many apps write it."""
    session.pop("user", None)


def farewell(session: Session) -> None:
    """A logout with a message for the next page."""
    session.clear()
    session["flash"] = "bye"


def log_in(session: Session) -> None:
    session.regenerate()
    session["user"] = "ann"


def log_in_by_name(session: Session) -> None:
    session.login("ann")


def log_in_afresh(session: Session) -> None:
    session.clear()
    session["user"] = "bob"


def regenerate(session: Session) -> None:
    session.regenerate()


def touch(session: Session) -> None:
    if "user" in session:
        session["user"]["seen"] = "now"


def take_flash(session: Session) -> None:
    session.pop("flash", None)


def put(key: str, value: Any = 1) -> App:
    def app(session: Session) -> None:
        session[key] = value

    return app


def append(item: str) -> App:
    def app(session: Session) -> None:
        session.setdefault("cart", []).append(item)

    return app


# --- when it is broken ------------------------------------------------------------------------------------------------


def sessions(world: World) -> list[Session]:
    """What every cookie leads to that a browser ever got."""
    known = {*world.set_cookies, world.jar} - {None}
    return [world.session(cookie) for cookie in known]


def anybody_logged_in(world: World) -> bool:
    return any("user" in session or session.user_id for session in sessions(world))


def logged_in_after(*logouts: App) -> Callable[[World], bool]:
    """After a logout that was confirmed."""
    return lambda world: any(app in world.confirmed for app in logouts) and anybody_logged_in(world)


def without(*kept: tuple[App, str]) -> Callable[[World], bool]:
    """The browser's session lacks what was confirmed."""
    return lambda world: any(app in world.confirmed and key not in world.content(world.jar) for app, key in kept)


def login_lost(world: World) -> bool:
    """The login was confirmed, and the browser has another cookie than its."""
    session = world.session(world.jar)
    return log_in in world.confirmed and session.get("user") != "ann"


SOME = 2000


@dataclass(frozen=True)
class Scenario:
    """A browser with a session that holds `data`, and one request for each app, all sent with its cookie.

    `loaded`: all have loaded the session before the first of them goes on; where there are three, every order of the
    loads as well would take minutes. `passes`: seconds that pass at one of the steps. `waited`: before the first.
    `slow`: a request that has loaded the session, and goes on when another one has been answered, which did `answered`;
    the apps' requests are sent with the cookie of that.
    """

    name: str
    data: dict[str, Any]
    apps: Sequence[App]
    broken: Callable[[World], bool]
    wordings: Sequence[type[Visit] | Rules] = ()
    loaded: bool = False
    passes: float = 0.0
    waited: float = 0.0
    rules: Rules = RULES
    slow: App | None = None
    answered: App = look
    at_least: int = field(default=20, kw_only=True)
    long: bool = field(default=False, kw_only=True)
    """All orders take minutes: tests take `SOME` of them, at random, and this program all."""

    def begin(self, wording: type[Visit] | Rules = Visit) -> World:
        world = World(rules=wording if isinstance(wording, Rules) else self.rules)
        world.alone(lambda session: session.update(self.data))
        world.clock.advance(self.waited)
        world.confirmed.clear()
        world.visit = Visit if isinstance(wording, Rules) else wording
        return world

    def requests(self, world: World) -> list[Request]:
        running = []
        if self.slow is not None:
            running.append(world.request(self.slow))
            next(running[0])
            next(running[0])
            world.alone(self.answered)
        requests = [world.request(app) for app in self.apps]
        for request in requests if self.loaded else ():
            next(request)  # up to its load
            next(request)  # up to its first operation after it
        return [*running, *requests, *([world.passing(self.passes)] if self.passes else [])]

    def count(self, wording: type[Visit] | Rules = Visit) -> tuple[int, int]:
        """How many orders there are, and in how many of them the outcome is broken."""

        def begin() -> tuple[World, list[Request]]:
            world = self.begin(wording)
            return world, self.requests(world)

        verdicts = [self.broken(world) for world in orders(begin)]
        return len(verdicts), sum(verdicts)

    def count_some(self) -> int:
        """In how many of `SOME` orders the outcome is broken."""

        def begin() -> tuple[World, list[Request]]:
            world = self.begin()
            return world, self.requests(world)

        return sum(self.broken(world) for world in some_orders(begin, SOME, seed=SOME))

    def catches(self, wording: type[Visit] | Rules) -> bool:
        """Is there an order in which the outcome is broken?"""

        def begin() -> tuple[World, list[Request]]:
            world = self.begin(wording)
            return world, self.requests(world)

        found = some_orders(begin, SOME, seed=SOME) if self.long else orders(begin)
        return any(self.broken(world) for world in found)

    def count_with_faults(self) -> tuple[int, int]:
        """The same, with one operation that fails, in each of the ways and at each of the places."""
        total = broken = 0
        for fault in Fault:
            at, reached = 1, True
            while reached:
                reached = False

                def begin(fault: Fault = fault, at: int = at) -> tuple[World, list[Request]]:
                    world = self.begin()
                    requests = self.requests(world)
                    world.operations, world.fails_at, world.fault = 0, at, fault
                    return world, requests

                for world in orders(begin):
                    reached |= world.operations >= world.fails_at
                    total += 1
                    broken += self.broken(world)
                at += 1
        return total, broken


class _CookieAtEveryChange(Lifetime):
    def used(self, facts: Facts, now: float, *, changed: bool) -> Facts:
        return facts._replace(kept_until=now + LIFE + 0.001) if changed else facts


ANN = {"user": "ann"}
ROLLING = Rules(lifetime=Lifetime(max_age=LIFE, rolling=True))
POLL = put("poll")
A, B, C = put("a"), put("b"), put("c")
APPLE, BREAD = append("apple"), append("bread")

LOGOUT_AND_NEW_ID = Scenario(
    "logout, new id",
    ANN,
    (logout, regenerate),
    logged_in_after(logout),
    (wordings.NoStone, wordings.NeverTakenBack),
    at_least=50,
)
LOGOUT_AND_LOGIN = Scenario(
    "logout, login by name (both loaded)",
    ANN,
    (logout, log_in_by_name),
    logged_in_after(logout),
    (wordings.NoStone,),
    loaded=True,
    at_least=10,
)
LOGOUT_AND_TWO_NEW_IDS = Scenario(
    "logout, new id, new id (all loaded)",
    ANN,
    (logout, regenerate, regenerate),
    logged_in_after(logout),
    (wordings.EndingLeavesStones,),
    loaded=True,
    long=True,
)
LOGOUT_AND_CHANGES = Scenario(
    "logout, change, change (all loaded)",
    ANN,
    (logout, A, B),
    logged_in_after(logout),
    (wordings.Resurrects,),
    loaded=True,
    at_least=100,
)
FAREWELL_AND_NEW_ID = Scenario(
    "farewell, new id",
    ANN,
    (farewell, regenerate),
    logged_in_after(farewell),
    (wordings.OrdinaryStone,),
    at_least=50,
)
FAREWELL_NEW_ID_AND_CHANGE = Scenario(
    "farewell, new id, change (all loaded)",
    ANN,
    (farewell, regenerate, A),
    logged_in_after(farewell),
    (wordings.OrdinaryStone,),
    loaded=True,
    at_least=500,
)
FAREWELL_NEW_ID_AND_LOGOUT = Scenario(
    "farewell, new id, logout (all loaded)",
    ANN,
    (farewell, regenerate, logout),
    logged_in_after(farewell, logout),
    (wordings.NoStone,),
    loaded=True,
    at_least=1000,
)
LOGOUT_AND_LOGIN_AFRESH = Scenario(
    "logout, login after clear()",
    ANN,
    (logout, log_in_afresh),
    lambda world: sorted(user for session in sessions(world) if (user := session.get("user"))) not in ([], ["bob"]),
    at_least=50,
)
TWO_NEW_IDS = Scenario(
    "new id, new id",
    ANN,
    (regenerate, regenerate),
    lambda world: len(world.confirmed) == 2 and world.content(world.jar) != ANN,
    (wordings.EndsItsSiblings, wordings.CookieOfAnEmptySession),
    at_least=50,
)
LOGIN_AND_CHANGE = Scenario(
    "login, change",
    {"cart": ["milk"]},
    (log_in, POLL),
    login_lost,
    (wordings.NewSessionInsteadOfADrop, Rules(lifetime=_CookieAtEveryChange(max_age=LIFE))),
    at_least=50,
)
POP_AND_CHANGE_INSIDE = Scenario(
    "pop, change inside",
    {"user": {"name": "ann"}, "cart": []},
    (pop, touch),
    logged_in_after(pop),
    (wordings.LaterWins,),
)
POP_AND_NEW_ID = Scenario(
    "pop, new id (both loaded)",
    ANN | {"cart": []},
    (pop, regenerate),
    logged_in_after(pop),
    (wordings.DeletionStaysBehind,),
    loaded=True,
    at_least=10,
)
POP_AND_TWO_NEW_IDS = Scenario(
    "pop, new id, new id (all loaded)",
    ANN | {"cart": []},
    (pop, regenerate, regenerate),
    logged_in_after(pop),
    (wordings.DeletionStaysBehind, wordings.DeletionIsNotNoted, wordings.StoneTellsNothing),
    loaded=True,
    long=True,
)
TWO_APPENDS = Scenario(
    "append, append",
    {"cart": ["milk"]},
    (APPLE, BREAD),
    lambda world: len(world.confirmed) == 2 and sorted(world.content(world.jar)["cart"]) != ["apple", "bread", "milk"],
    (wordings.LaterWins, wordings.NoMerge),
)
THREE_CHANGES = Scenario(
    "change, change, change (all loaded)",
    ANN,
    (A, B, C),
    without((A, "a"), (B, "b"), (C, "c")),
    (wordings.NoMerge,),
    loaded=True,
    at_least=500,
)
EMPTIED_AND_APPEND = Scenario(
    "emptied key by key, append",
    {"flash": "hello"},
    (take_flash, APPLE),
    lambda world: len(world.confirmed) == 2 and world.content(world.set_cookies[0]) != {"cart": ["apple"]},
    (wordings.NoMerge,),
)
CHANGE_AND_END_OF_LIFE = Scenario(
    "change, and its time is over",
    ANN,
    (A,),
    lambda world: world.clock.time() > 1_000_000 + LIFE and anybody_logged_in(world),
    (wordings.Resurrects,),
    passes=LIFE + 1,
    at_least=4,
)
NEW_ID_AND_END_OF_LIFE = Scenario(
    "new id, and its time is over",
    ANN,
    (regenerate,),
    lambda world: len(world.set_cookies) > 1 and "user" not in world.content(world.jar),
    passes=LIFE * 0.6,
    waited=LIFE * 0.5,
    at_least=4,
)
LOGOUT_AND_USE = Scenario(
    "logout, a use that prolongs",
    ANN,
    (logout, look),
    logged_in_after(logout),
    (wordings.RenewsWhatIsGone,),
    waited=LIFE / 2,
    rules=ROLLING,
)

LOGOUT_OF_A_SIBLING = Scenario(
    "logout with a new id, another new id",
    ANN,
    (logout,),
    logged_in_after(logout),
    (wordings.SiblingsDoNotJoin,),
    slow=regenerate,
    answered=regenerate,
    at_least=100,
)
FAREWELL_OF_A_SIBLING = Scenario(
    "farewell with a new id, another new id",
    ANN,
    (farewell,),
    logged_in_after(farewell),
    (wordings.SiblingsDoNotJoin,),
    slow=regenerate,
    answered=regenerate,
    at_least=100,
)
POP_IN_A_SIBLING = Scenario(
    "pop with a new id, another new id",
    ANN | {"cart": []},
    (pop,),
    logged_in_after(pop),
    (wordings.SiblingsDoNotJoin,),
    slow=regenerate,
    answered=regenerate,
    at_least=100,
)
LOGOUT_OF_A_SIBLING_THAT_MOVES = Scenario(
    "logout and new id with a new id, another new id",
    ANN,
    (logout, regenerate),
    logged_in_after(logout),
    (wordings.SiblingsDoNotJoin,),
    slow=regenerate,
    answered=regenerate,
    long=True,
)

ALL = [scenario for scenario in globals().values() if isinstance(scenario, Scenario)]


if __name__ == "__main__":
    print(f"{'scenario':40} {'orders':>7} {'broken':>7} {'with faults':>12} {'broken':>7}  broken wordings")
    for each in ALL:
        caught = ", ".join(
            f"{wording.__name__ if isinstance(wording, type) else 'a cookie at every change'} "
            f"{each.count(wording)[1]} of {each.count(wording)[0]}"
            for wording in each.wordings
        )
        total, wrong = each.count()
        faulty, wrongly = (0, 0) if each.long else each.count_with_faults()
        print(f"{each.name:40} {total:7,} {wrong:7} {faulty:12,} {wrongly:7}  {caught}", flush=True)
