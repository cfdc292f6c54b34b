"""Every question is asked once, of a real server, with next to no rounds."""

import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from benchmarks import environments
from benchmarks.asking import Bench, Contender, Place, Unfit, a_loop, tell_server
from benchmarks.contenders.caches import CacheContender, Task
from benchmarks.contenders.requests import cookie_of
from benchmarks.contenders.sessions import Action, contents
from benchmarks.counting import count, monitor
from benchmarks.measuring import Effort, Run
from benchmarks.progress import Progress
from benchmarks.questions import Question, caches, cold_start, concurrency, handler, sessions, stampede, store_bytes
from benchmarks.questions.all import NAMES
from benchmarks.results import Role, Row
from tests import servers
from tests.docs.pages import ROOT
from tests.servers import Server
from tests.wire import TripCounter


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One of their own: it is emptied again and again."""
    with servers.valkey() as server:
        yield server


@pytest.fixture
def bench(server: Server) -> Iterator[Bench]:
    bench = Bench(
        server=server,
        dice=random.Random(11),
        effort=Effort(rounds=1, seconds_a_turn=0.0001),
        quick=True,
        progress=Progress(io.StringIO()),
    )
    with bench.complaints:
        yield bench


def found(bench: Bench, case: str, contender: str) -> Row:
    return next(row for row in bench.rows if (row.case, row.contender) == (case, contender))


def counted(bench: Bench, case: str, contender: str) -> tuple[object, object]:
    row = found(bench, case, contender)
    return row.counted["trips"], row.counted["commands"]


def is_installed(package: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True, check=False).returncode == 0


def test_sessions_are_timed_and_their_trips_counted(bench: Bench) -> None:
    sessions.QUESTION.ask(bench)
    read, write = sessions.case(Action.READ, 1), sessions.case(Action.WRITE, 1)
    assert counted(bench, read, "redis-py") == (1, "GETEX")
    assert counted(bench, read, "serverless-session") == (1, "GET")
    assert counted(bench, write, "serverless-session") == (2, "EVAL, GET")
    assert counted(bench, sessions.case(Action.NEW, 1), "serverless-session, MessagePack") == (1, "EVAL")
    assert counted(bench, sessions.case(Action.UNTOUCHED, 1), "serverless-session, lazy") == (0, "")
    assert found(bench, read, "redis-py").measured["ratio"].median == 1.0
    assert found(bench, read, "serverless-session").measured["ratio"].median > 0


def test_peers_that_are_not_installed_are_left_out_by_name_with_what_brings_them(bench: Bench) -> None:
    missing = {"starsessions": "starsessions", "Litestar's sessions": "litestar", "Flask-Session": "flask"}
    store_bytes.QUESTION.ask(bench)
    for name, package in missing.items():
        if not is_installed(package):
            entries = [entry for entry in bench.left_out if entry.contender == name]
            assert entries
            assert all("No module named" in entry.reason and "bench" in entry.mend for entry in entries)
            assert not any(row.contender == name for row in bench.rows)


def test_many_requests_at_once_are_each_served(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "QUICK_AT_ONCE", (24,))
    concurrency.QUESTION.ask(bench)
    assert counted(bench, concurrency.case(24), "serverless-session") == (1, "GET")


def test_the_bytes_of_a_session_in_the_store_are_asked_of_the_server(bench: Bench) -> None:
    store_bytes.QUESTION.ask(bench)
    row = found(bench, "1 KiB of JSON", "serverless-session")
    assert 900 < float(row.counted["store_bytes"]) < 2000
    assert row.counted["keys"] == 1


def test_caches_are_timed_and_their_trips_counted(bench: Bench) -> None:
    caches.QUESTION.ask(bench)
    assert counted(bench, caches.HIT, "redis-py") == (1, "GET")
    assert found(bench, caches.HIT, "serverless-session").counted["trips"] == 1
    assert found(bench, "miss, 1 KiB", "serverless-session").counted["trips"] == 2
    assert found(bench, "10 % misses, 1 KiB", "redis-py").counted["trips"] == 1.1
    assert found(bench, caches.LOCAL_HIT, "serverless-session, local").counted["trips"] == 0
    assert found(bench, "hit with 16 tags, 1 KiB", "serverless-session").counted["trips"] == 1


def test_in_a_stampede_a_process_of_ours_computes_at_most_once_and_one_without_a_guard_each_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stampede, "QUICK_ROUNDS", 3)
    stampede.QUESTION.ask(bench)
    for processes in (1, 4):
        case = stampede.case(processes)
        # A process that has to wait for its turn on a busy machine takes the store for dead, and computes on its own.
        assert 1 <= found(bench, case, "serverless-session").measured["computations"].median <= processes
        assert processes > 1 or found(bench, case, "redis-py").counted["commands"] == "50 GET, 50 SET"
        without = found(bench, case, "redis-py").measured["computations"]
        assert without.high == 50 if processes == 1 else without.high > 50


def test_events_go_through_each_handler(bench: Bench) -> None:
    handler.QUESTION.ask(bench)
    assert found(bench, handler.NO_SESSION, "serverless-session").measured["us"].median > 0
    assert counted(bench, f"session of 1 KiB, {Action.READ}", "serverless-session") == (1, "GET")
    assert counted(bench, f"session of 1 KiB, {Action.WRITE}", "serverless-session") == (2, "EVAL, GET")


def test_cold_starts_run_in_environments_with_nothing_else_in_them(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    monkeypatch.setattr(cold_start, "FOLDER", tmp_path)
    monkeypatch.setattr(cold_start, "QUICK_ROUNDS", 1)
    cold_start.QUESTION.ask(bench)
    empty, base = (found(bench, "an app alone", name) for name in ("an empty program", "Starlette and Mangum"))
    ours = found(bench, "an app with sessions, a new one", "serverless-session, sessions")
    assert 0 < float(empty.counted["modules"]) < 100 < float(base.counted["modules"]) < float(ours.counted["modules"])
    assert ours.counted["trips"] == 1
    python = environments.python_with("starlette")
    seen = subprocess.run(
        [python, "-I", "-c", "import starlette, importlib.util as u; print(u.find_spec('pytest'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.strip() == "None"


def test_an_environment_of_what_is_not_here_is_refused() -> None:
    with pytest.raises(ImportError, match="no-such-distribution is not installed"):
        environments.python_with("no-such-distribution")


def test_a_contender_that_does_not_do_the_work_is_left_out_and_the_floor_is_kept(bench: Bench) -> None:
    def useless(place: Place) -> Run:
        raise Unfit("the session did not come back")

    def idle(place: Place) -> Run:
        return lambda calls: None

    def broken(place: Place) -> Run:
        raise ZeroDivisionError

    contenders = [
        Contender(name="floor", role=Role.FLOOR, prepare=idle),
        Contender(name="useless", role=Role.PEER, prepare=useless),
        Contender(name="broken", role=Role.PEER, prepare=broken),
    ]
    bench.race("sessions", "made up", contenders, floor="floor")
    assert [row.contender for row in bench.rows] == ["floor"]
    reasons = {entry.contender: entry.reason for entry in bench.left_out}
    assert reasons == {"useless": "the session did not come back", "broken": "failed: ZeroDivisionError: "}


def test_a_question_that_fails_is_named_and_what_it_had_found_is_kept(bench: Bench) -> None:
    def ask(bench: Bench) -> None:
        bench.race("made up", "first", [Contender(name="idle", role=Role.FLOOR, prepare=idle)], floor="idle")
        raise ZeroDivisionError("in the middle")

    def idle(place: Place) -> Run:
        return lambda calls: None

    bench.ask(Question(name="made up", title="", about="", columns=(), ask=ask))
    assert [row.contender for row in bench.rows] == ["idle"]
    assert [entry.reason for entry in bench.left_out] == ["failed: ZeroDivisionError: in the middle"]


def test_a_program_that_fails_while_it_is_timed_is_left_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(command: list[str]) -> cold_start.Start:
        if "session" in command[0]:
            raise RuntimeError("a process ended with 1")
        return cold_start.Start(wall=1.0, cpu=1.0)

    def tried(command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, stdout="5", stderr="")

    monkeypatch.setattr(cold_start, "_command", lambda program: [program.name])
    monkeypatch.setattr(cold_start, "_tried", tried)
    monkeypatch.setattr(cold_start, "start", started)
    cold_start.QUESTION.ask(bench)
    assert "Starlette and Mangum" in {row.contender for row in bench.rows}
    failed = {entry.contender for entry in bench.left_out if "while it was timed" in entry.reason}
    assert "serverless-session, sessions" in failed


def test_a_cache_that_computes_each_time_is_no_cache(bench: Bench) -> None:
    with ExitStack() as closing:
        place = Place(bench.server.port, closing.enter_context(a_loop()), closing)
        forgetful = CacheContender(name="forgetful", role=Role.PEER, make=lambda task: task.load)
        with pytest.raises(Unfit, match="computed 2 times where once was enough"):
            forgetful.prepared(Task(place=place, size=1024), caches.always_one(""))


def test_commands_that_a_script_runs_inside_the_server_are_not_counted(server: Server) -> None:
    script = b"redis.call('SET',KEYS[1],'v') return redis.call('GET',KEYS[1])"
    with TripCounter.to(server.port) as wire:

        def run(calls: int) -> None:
            for _ in range(calls):
                tell_server(wire.port, b"EVAL", script, b"1", b"k")
                tell_server(wire.port, b"GET", b"k")

        found = count(run, wire, server.port, calls=3)
    assert (found.trips, found.commands) == (2, "EVAL, GET")


def test_what_others_sent_before_is_not_counted(server: Server) -> None:
    tell_server(server.port, b"GET", b"before")
    with monitor(server.port) as seen:
        tell_server(server.port, b"SET", b"meanwhile", b"v")
    assert seen == ["SET"]


def test_callers_at_once_share_the_calls(bench: Bench) -> None:
    with ExitStack() as closing:
        place = Place(bench.server.port, closing.enter_context(a_loop()), closing)
        place.many = 7
        called = 0

        async def call() -> None:
            nonlocal called
            called += 1

        place.repeating(call)(20)
    assert called == 20


@pytest.mark.parametrize("kibibytes", [1, 4, 64])
def test_a_session_is_as_large_as_it_is_called(kibibytes: int) -> None:
    size = len(json.dumps(contents(kibibytes * 1024), separators=(",", ":")))
    assert kibibytes * 1024 * 0.93 < size <= kibibytes * 1024


def test_a_cookie_is_taken_from_the_answer_or_missed() -> None:
    assert cookie_of([(b"Set-Cookie", b"a=1; Path=/"), (b"set-cookie", b"b=2; Secure")]) == b"a=1; b=2"
    with pytest.raises(Unfit, match="set no cookie"):
        cookie_of([])


def test_a_quick_run_leaves_out_what_it_has_no_time_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "seconds", 75.0)
    questions: list[Question] = [handler.QUESTION, stampede.QUESTION]
    for question in questions:
        question.ask(bench)
    assert bench.rows == []
    assert {entry.question for entry in bench.left_out} == {"handler", "stampede"}


def test_the_program_prints_keeps_draws_and_repeats_its_seed(tmp_path: Path) -> None:
    kept, page = tmp_path / "out.json", tmp_path / "page.md"
    run = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=False)
    command = [sys.executable, "-m", "benchmarks"]
    only = ["--quick", "--only", "handler", "--seed", "42", "--server", "valkey"]
    done = run([*command, *only, "--out", str(kept), "--plots", str(tmp_path), "--write-docs", str(page)])
    assert done.returncode == 0, done.stderr
    assert "the handler, over Mangum with its lifespan off" in done.stdout
    assert "handler: no session" in done.stderr  # the progress
    assert json.loads(kept.read_text())["seed"] == 42
    core = json.loads(kept.read_text())["machine"]["pinned_to_core"]
    assert isinstance(core, int) or not hasattr(os, "sched_setaffinity")
    assert (tmp_path / "bench-handler.svg").exists()
    assert page.read_text().startswith("# Benchmarks")
    refused = run([*command, "--only", "nonsense"])
    assert refused.returncode == 2
    assert ", ".join(NAMES) in refused.stderr
