"""The demo: every promise holds over real stores, each verdict can fail, and nothing shows what must not be seen."""

import base64
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis

from serverless_session import demo
from serverless_session.cli import main
from serverless_session.demo import rendering
from serverless_session.demo.browser import Browser, SetCookie
from serverless_session.demo.events import Context, event
from serverless_session.demo.promises import Record, judge
from serverless_session.demo.story import play
from serverless_session.errors import ConfigurationError, StoreUnavailable
from serverless_session.stores import (
    ANYTHING,
    Delete,
    Deleted,
    Failed,
    MemoryStore,
    Operation,
    Outcome,
    Read,
    Write,
    new_version,
)
from tests.servers import Server
from tests.wire import TripCounter

ALL = {
    "both-changes-kept",
    "logout-is-final",
    "old-cookies-are-worthless",
    "forged-cookie-costs-nothing",
    "unchanged-is-not-written",
    "store-learns-nothing",
    "cookie-is-guarded",
    "trips-as-promised",
    "always-answered",
}


def broken(verdicts: Sequence[demo.Verdict]) -> set[str]:
    return {verdict.name for verdict in verdicts if not verdict.held}


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else str(request.getfixturevalue(request.param).url)


# --- what holds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["memory", "valkey", "redis7", "redis62"], indirect=True)
def test_every_promise_holds(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    began = time.perf_counter()
    assert main(["demo", "--store", url]) == 0
    assert time.perf_counter() - began < 5
    out, err = capfd.readouterr()
    assert f"All {len(ALL)} promises held." in out
    assert err == ""


def test_the_report_tells_what_happened() -> None:
    report = demo.run()
    assert report.held
    assert {verdict.name for verdict in report.verdicts} == ALL
    steps = {step.name: step for step in report.steps}
    assert [step.number for step in report.steps] == list(range(1, 14))
    assert steps["look"].session == {
        "user": "ada@example.com",
        "cart": ["a blue mug", "green tea", "some honey"],
    }
    assert steps["add-second"].asked == ("read", "write", "write")
    assert steps["log-out"].cookie == "removed"
    assert steps["slow"].cookie == ""
    stored = report.stored
    assert stored is not None
    assert stored.session == steps["look"].session
    assert [(part.name, part.content[:2]) for part in stored.parts][1] == ("format", b"ss")
    assert [len(part.content) for part in stored.parts if part.name != "ciphertext"] == [8, 4, 4, 24, 16]


def test_the_trips_are_those_on_the_wire(valkey: Server) -> None:
    with TripCounter.to(valkey.port) as wire:
        report = demo.run(wire.url)
        beside_the_shop = 2  # is the store there, and what does it hold
        removed = len({step.name for step in report.steps if step.cookie == "set"})
        assert wire.trips == sum(step.trips for step in report.steps) + beside_the_shop + removed


def test_nothing_is_left_behind(valkey: Server) -> None:
    with redis.Redis(port=valkey.port, db=5) as client:
        assert demo.run(f"{valkey.url}/5").held
        assert client.keys() == []


# --- each verdict can fail --------------------------------------------------------------------------------------------


class ForgetsCompareAndSet(MemoryStore):
    """Writes and deletes whatever stands there."""

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        return await super().perform(
            *(
                replace(operation, expect=ANYTHING) if isinstance(operation, Write | Delete) else operation
                for operation in operations
            )
        )


class NeverDeletes(MemoryStore):
    """Says so, and does not."""

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        kept = [operation for operation in operations if not isinstance(operation, Delete)]
        outcomes = iter(await super().perform(*kept))
        return [Deleted() if isinstance(operation, Delete) else next(outcomes) for operation in operations]


class Dies(MemoryStore):
    """Answers the first calls only."""

    calls = 0

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        self.calls += 1
        if self.calls > 12:
            return [Failed(StoreUnavailable("the store is gone")) for _ in operations]
        return await super().perform(*operations)


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        (
            ForgetsCompareAndSet,
            {"both-changes-kept", "logout-is-final", "old-cookies-are-worthless", "trips-as-promised"},
        ),
        (NeverDeletes, {"logout-is-final", "old-cookies-are-worthless"}),
    ],
)
def test_a_store_that_breaks_the_contract_breaks_the_promises(
    store: Callable[[], MemoryStore],
    expected: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = demo.run(store())
    assert broken(report.verdicts) == expected
    assert not report.held
    monkeypatch.setattr(demo, "run", lambda _: report)
    assert main(["demo"]) == 1
    out = capsys.readouterr().out
    assert out.count("BROKEN") == len(expected)
    assert f"{len(expected)} of {len(ALL)} promises were broken." in out


def test_a_store_that_dies_passes_nothing_in_silence() -> None:
    report = demo.run(Dies())
    assert {step.status for step in report.steps} == {200, 503}
    assert broken(report.verdicts) >= {"always-answered", "logout-is-final", "old-cookies-are-worthless"}


@pytest.fixture(scope="module")
def recorded() -> Record:
    return play("memory://")


def doctored(record: Record, name: str, **changes: Any) -> Record:
    return replace(record, steps={**record.steps, name: replace(record.steps[name], **changes)})


@pytest.mark.parametrize(
    ("step", "changes", "expected"),
    [
        ("look", {"session": {"cart": ["a blue mug", "green tea"]}}, {"both-changes-kept"}),
        ("look", {"session": {"cart": ["a blue mug", "green tea", "green tea", "some honey"]}}, {"both-changes-kept"}),
        ("slow", {"cookie": "set"}, {"logout-is-final"}),
        ("log-out", {"cookie": ""}, {"logout-is-final"}),
        ("after", {"session": {"user": "ada@example.com"}}, {"logout-is-final"}),
        ("replay-ended", {"session": {"user": "x"}}, {"logout-is-final", "old-cookies-are-worthless"}),
        ("replay-old", {"session": {"user": "x"}}, {"old-cookies-are-worthless"}),
        ("forged", {"trips": 1}, {"forged-cookie-costs-nothing", "trips-as-promised"}),
        ("forged", {"session": {"user": "x"}}, {"forged-cookie-costs-nothing"}),
        ("look", {"asked": ("read", "write")}, {"unchanged-is-not-written"}),
        ("arrive", {"cookie": "set"}, {"unchanged-is-not-written"}),
        ("add", {"trips": 3}, {"trips-as-promised"}),
        ("log-in", {"status": 503}, {"always-answered"}),
    ],
)
def test_what_happened_decides_the_verdicts(
    recorded: Record, step: str, changes: dict[str, Any], expected: set[str]
) -> None:
    assert broken(judge(doctored(recorded, step, **changes))) == expected


@pytest.mark.parametrize(
    "leak",
    [
        lambda record: b'{"user":1}',
        lambda record: b".. ada@example.com ..",
        lambda record: b'["green tea"]',
        lambda record: record.session_ids[0].encode(),
        lambda record: b"--" + base64.urlsafe_b64decode(record.session_ids[-1])[5:-8] + b"--",
    ],
    ids=["a name", "a value", "an item", "an id", "the bytes of an id"],
)
def test_a_leak_into_the_store_is_seen(recorded: Record, leak: Callable[[Record], bytes]) -> None:
    write = Write("k", leak(recorded), ttl=1, version=new_version(), expect=ANYTHING)
    assert broken(judge(replace(recorded, operations=[*recorded.operations, write]))) == {"store-learns-nothing"}


def test_a_leak_into_a_key_is_seen(recorded: Record) -> None:
    read = Read("app:" + recorded.session_ids[0])
    assert broken(judge(replace(recorded, operations=[*recorded.operations, read]))) == {"store-learns-nothing"}


@pytest.mark.parametrize(
    "line",
    [
        "session=x; Path=/; Secure; SameSite=lax",
        "session=x; Path=/; HttpOnly; SameSite=lax",
        "session=x; Path=/; HttpOnly; Secure",
        "session=x; Path=/; HttpOnly; Secure; SameSite=none",
    ],
)
def test_an_unguarded_cookie_is_seen(recorded: Record, line: str) -> None:
    cookies = [*recorded.set_cookies, SetCookie.of(line)]
    assert broken(judge(replace(recorded, set_cookies=cookies))) == {"cookie-is-guarded"}


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_json_parses_and_says_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["held"] is True
    assert {verdict["name"] for verdict in shown["verdicts"]} == ALL
    assert [step["trips"] for step in shown["steps"]] == [step["trips_promised"] for step in shown["steps"]]
    assert bytes.fromhex(shown["stored"]["parts"][1]["content"])[:2] == b"ss"


@pytest.mark.parametrize("option", [[], ["--plain"], ["--no-colour"]])
def test_plain_text_is_ascii_without_escape_codes(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *option]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 90


def test_colour_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    report = demo.run()
    assert rendering.print_in_colour(report)
    out = capsys.readouterr().out
    assert "\x1b[" in out
    for verdict in report.verdicts:
        assert verdict.promise in out


def test_plain_text_where_rich_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["demo"]) == 0
    assert "promises held." in capsys.readouterr().out


def test_no_session_id_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, recorded: Record
) -> None:
    monkeypatch.setattr("serverless_session.demo.story.play", lambda _: recorded)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert len(recorded.session_ids) == 2
    for option in ("--json", "--plain"):
        main(["demo", option])
    rendering.print_in_colour(demo.run())
    out = capsys.readouterr().out
    assert len(out) > 3000
    for session_id in recorded.session_ids:
        assert session_id[8:-14] not in out
    assert not any(session_id in repr(recorded.set_cookies) for session_id in recorded.session_ids)


# --- the store --------------------------------------------------------------------------------------------------------


def test_a_store_that_does_not_answer_is_an_error_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--store", "redis://visitor:hunter2@127.0.0.1:1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 3
    assert err.startswith("[store-does-not-answer] ")
    assert "hunter2" not in err


def test_a_store_we_do_not_know_is_an_error_of_ours() -> None:
    with pytest.raises(ConfigurationError, match="unknown-store"):
        demo.run("gopher://localhost")


def test_the_report_names_the_store_without_its_password(valkey: Server) -> None:
    report = demo.run(f"redis://default:@127.0.0.1:{valkey.port}/1")
    assert report.store == f"redis://127.0.0.1:{valkey.port}/1"
    assert report.held


# --- the parts --------------------------------------------------------------------------------------------------------


def test_events_are_those_of_api_gateway() -> None:
    made = event("POST", "/login", cookies=("a=1", "b=2"), form={"email": "ada@example.com"})
    assert made["version"] == "2.0"
    assert made["rawPath"] == made["requestContext"]["http"]["path"] == "/login"
    assert made["cookies"] == ["a=1", "b=2"]
    assert "cookie" not in made["headers"]
    assert made["isBase64Encoded"] is True
    assert event("POST", "/cart", data={"item": "tea"})["isBase64Encoded"] is False
    json.dumps(made)
    context = Context("A", timeout=3)
    assert 2900 < context.get_remaining_time_in_millis() <= 3000


def test_the_browser_keeps_and_drops_cookies() -> None:
    browser = Browser()
    browser.take([SetCookie.of("session=abc; path=/; Max-Age=120; httponly"), SetCookie.of("theme=dark")])
    assert browser.cookies == ("session=abc", "theme=dark")
    browser.take([SetCookie.of("theme=; Max-Age=0")])
    assert browser.session_id == "abc"
    browser.take([SetCookie.of("session=null; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT; httponly")])
    assert not browser.cookies
