"""How much of the store a session takes: the value, its key, and what the server needs around them."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from benchmarks.asking import Place, a_loop, tell_server
from benchmarks.contenders.sessions import Action, all_contenders
from benchmarks.questions import Question
from benchmarks.questions.sessions import SIZES
from benchmarks.results import Role, Row

if TYPE_CHECKING:
    from benchmarks.asking import Bench, Contender


def ask(bench: Bench) -> None:
    for kibibytes in SIZES:
        case = f"{kibibytes} KiB of JSON"
        bench.progress.says(f"{QUESTION.name}: {case}")
        for contender in all_contenders(Action.NEW, kibibytes * 1024):
            if contender.role in (Role.OURS, Role.PEER) and "cookie" not in contender.name:
                _ask(bench, case, contender)


def _ask(bench: Bench, case: str, contender: Contender) -> None:
    with ExitStack() as closing:
        loop = closing.enter_context(a_loop())
        run = bench.attempt(QUESTION.name, case, contender, Place(bench.server.port, loop, closing))
        if run is None:
            return
        tell_server(bench.server.port, b"FLUSHALL")
        run(1)
        counted = {"store_bytes": float(bytes_kept(bench.server.port)), "keys": float(_number(bench, b"DBSIZE"))}
    tell_server(bench.server.port, b"FLUSHALL")
    bench.rows.append(
        Row(
            question=QUESTION.name,
            case=case,
            contender=contender.name,
            role=contender.role,
            measured={},
            counted=counted,
            note=contender.note,
        )
    )


def bytes_kept(port: int) -> int:
    """What the server says that all its keys take."""
    keys = re.findall(rb"\$\d+\r\n([^\r]+)\r\n", tell_server(port, b"KEYS", b"*"))
    return sum(int(tell_server(port, b"MEMORY", b"USAGE", key, b"SAMPLES", b"0")[1:]) for key in keys)


def _number(bench: Bench, word: bytes) -> int:
    return int(tell_server(bench.server.port, word)[1:])


QUESTION: Final = Question(
    name="store-bytes",
    title="Sessions: bytes in the store",
    about="What `MEMORY USAGE` says after one new session was kept: the value, the key, and the server's own part.",
    columns=("store_bytes", "keys"),
    ask=ask,
)
