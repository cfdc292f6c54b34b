"""What a session costs a request: untouched, read, changed, new; in three sizes.

The floor is what the wire and redis-py cost alone: GETEX for a request that reads, SET for a new session, both for a
change. Peers that come with a framework are shown without it ("net"): their own bare app is taken off, round by round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.contenders.sessions import FLOOR, Action, all_contenders
from benchmarks.questions import Question

if TYPE_CHECKING:
    from benchmarks.asking import Bench

SIZES: Final = (1, 4, 64)


def case(action: Action, kibibytes: int) -> str:
    return f"{action}, {kibibytes} KiB"


def ask(bench: Bench) -> None:
    for kibibytes in SIZES:
        for action in Action:
            if bench.quick and kibibytes > 1 and action is not Action.READ:
                continue
            bench.race(QUESTION.name, case(action, kibibytes), all_contenders(action, kibibytes * 1024), floor=FLOOR)


QUESTION: Final = Question(
    name="sessions",
    title="Sessions: one request at a time",
    about=(
        "One request through the middleware, called as an ASGI server calls it (no HTTP server, no HTTP client). "
        "*untouched*: a request with the session's cookie, whose app does not look at the session; *read-only*: it "
        "reads one key; *one write*: it changes one key; *new visitor*: no cookie, and the app fills a session. The "
        "floor is redis-py doing GETEX, GETEX and SET, or SET, on JSON of the same size, without decoding it."
    ),
    columns=("us", "net_us", "ratio", "cpu_us", "trips", "commands", "wire_bytes"),
    ask=ask,
)
