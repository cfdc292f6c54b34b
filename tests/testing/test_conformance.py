"""The suite itself: it runs anywhere, and a failure tells what was broken and nothing that is a stranger's."""

import asyncio
import pkgutil
import random
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from serverless_session.stores import (
    Failed,
    Found,
    MemoryStore,
    Missing,
    Operation,
    Outcome,
    Read,
    Store,
    contract,
    new_version,
)
from serverless_session.testing import ContractBroken, StoreConformance, conformance
from serverless_session.testing.conformance.verdicts import ask, must, rule_text
from serverless_session.testing.operations import new_key, write
from tests.testing.broken import ExactStore

MODULE = """
    from serverless_session.stores import MemoryStore, Store
    from serverless_session.testing import StoreConformance

    class TestMemoryStore(StoreConformance):
        increments, claimers, storm_calls, examples = 5, 5, 100, 3

        async def open_store(self) -> Store:
            return MemoryStore()
"""


class Small(StoreConformance):
    increments, claimers, storm_calls, examples = 5, 5, 100, 3

    async def open_store(self) -> Store:
        return MemoryStore()


def run_python(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    shown = ended.stdout + ended.stderr
    assert ended.returncode == 0, shown
    return shown


# --- where it runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        "-p no:asyncio -p no:anyio -p no:hypothesispytest -p no:xdist",
        "-o asyncio_mode=auto -o asyncio_default_test_loop_scope=session",
        "-n 2",
    ],
    ids=["without any plugin", "under asyncio's auto mode", "under xdist"],
)
def test_a_subclass_is_a_whole_test_module(tmp_path: Path, options: str) -> None:
    (tmp_path / "test_store.py").write_text(textwrap.dedent(MODULE))
    if "no:asyncio" not in options:  # its plugin warns where this is not set, and a warning is an error here
        (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    shown = run_python(tmp_path, "-m", "pytest", "-q", *options.split())
    number = sum(name.startswith("test_") for name in dir(StoreConformance))
    assert f"{number} passed" in shown


def test_it_leaves_alone_the_loop_of_whoever_runs_it() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        Small().test_reading_shows_what_was_written()
        assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_without_pytest_and_hypothesis_it_runs_under_unittest(tmp_path: Path) -> None:
    program = """
        import sys
        sys.modules["pytest"] = sys.modules["hypothesis"] = None
        import unittest
        from serverless_session.stores import MemoryStore
        from serverless_session.testing import ManualClock, StoreConformance

        class TestMemoryStore(StoreConformance, unittest.TestCase):
            increments, claimers, storm_calls = 5, 5, 100

            async def open_store(self):
                return MemoryStore()

        unittest.main(argv=["program", "-v"])
    """
    shown = run_python(tmp_path, "-c", textwrap.dedent(program))
    assert "OK (skipped=1)" in shown
    assert "pip install hypothesis" in shown


def test_the_clock_and_the_stores_bring_no_test_runner(tmp_path: Path) -> None:
    program = """
        import sys
        from serverless_session.testing import CountingStore, FaultyStore, ManualClock
        wanted = {"pytest", "_pytest", "hypothesis", "unittest", "serverless_session.testing.conformance"}
        assert not wanted & set(sys.modules), wanted & set(sys.modules)
    """
    run_python(tmp_path, "-c", textwrap.dedent(program))


def test_pytest_rewrites_the_assertions_of_the_suite() -> None:
    modules = [module.name for module in pkgutil.iter_modules(conformance.__path__, f"{conformance.__name__}.")]
    assert len(modules) > 5
    for name in modules:
        assert type(sys.modules[name].__loader__).__name__ == "AssertionRewritingHook", name


# --- what a failure tells ---------------------------------------------------------------------------------------------


class Answers(ExactStore):
    """Answers every operation alike."""

    def __init__(self, *outcomes: Outcome) -> None:
        super().__init__()
        self.outcomes = outcomes

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        return self.outcomes


async def test_a_failure_tells_what_was_asked_answered_and_allowed_and_the_rule() -> None:
    key, version, other = new_key(), new_version(), new_version()
    operation = write(key, b"mine", expect=version)
    with pytest.raises(ContractBroken) as failure:
        await must(Answers(Missing()), operation, Found(b"mine", other), rule=1, because="it is so")
    lines = str(failure.value).splitlines()
    assert lines[:5] == [
        "the store broke its contract",
        "  asked     Write(b'mine', ttl=60, version A, expect=version B)",
        "  answered  Missing()",
        "  allowed   Found(b'mine', version C)",
        "  because   it is so",
    ]
    assert lines[5].startswith("  rule 1 of serverless_session/stores/contract.py: **Versions are the caller's.**")
    assert failure.value.rule == 1


async def test_a_failure_shows_no_key_no_version_and_no_value_that_the_suite_did_not_write() -> None:
    key, version = new_key(), new_version()
    strangers = Found(b"a stranger's session", new_version())
    with pytest.raises(ContractBroken) as failure:
        await must(Answers(strangers), Read(key), Missing(), rule=5)
    shown = str(failure.value)
    assert "answered  Found(20 bytes, version A)" in shown
    for secret in (key, "stranger", version.hex(), repr(bytes(strangers.version)), strangers.version.hex()):
        assert secret not in shown


async def test_what_a_store_raises_and_a_wrong_number_of_outcomes_are_failures_too() -> None:
    class Raises(ExactStore):
        async def perform(self, *operations: Operation) -> Sequence[Outcome]:
            raise ConnectionError

    with pytest.raises(ContractBroken, match="a call of Read raised ConnectionError") as failure:
        await ask(Raises(), Read("a"))
    assert isinstance(failure.value.__cause__, ConnectionError)
    with pytest.raises(ContractBroken, match="a call of 1 operations was answered with 2 outcomes"):
        await ask(Answers(Missing(), Missing()), Read("a"))


def test_every_rule_is_told_in_the_contracts_words() -> None:
    assert contract.__doc__ is not None
    said = " ".join(contract.__doc__.split())
    for rule in range(1, 11):
        words = " ".join(rule_text(rule).split())
        name, text = words.split(": ", 1)
        assert name == f"rule {rule} of serverless_session/stores/contract.py"
        assert f"{rule}. {text}" in said
    assert "`Read(key)` answers `Found(value, version)` or `Missing`; `Write(" in " ".join(rule_text(0).split())


def test_a_random_check_that_fails_tells_a_seed_that_repeats_it() -> None:
    thrown = []

    class Broken(Small):
        async def open_store(self) -> Store:
            return Answers()

        def dice(self) -> random.Random:
            dice = super().dice()
            thrown.append(dice.getstate())
            return dice

    with pytest.raises(ContractBroken) as failure:
        Broken().test_many_operations_go_into_one_call()
    (note,) = failure.value.__notes__
    again = Broken()
    again.seed = int(note.split("seed = ")[1].split(" in Broken")[0])
    with pytest.raises(ContractBroken):
        again.test_many_operations_go_into_one_call()
    assert len(thrown) == 2
    assert thrown[0] == thrown[1]


def test_a_store_that_never_answers_fails_a_check_and_does_not_hold_it_up() -> None:
    class Hangs(ExactStore):
        async def perform(self, *operations: Operation) -> Sequence[Outcome]:
            await asyncio.Event().wait()
            return []

    class Impatient(Small):
        patience = -0.9  # the calls' deadline; the check has one second more

        async def open_store(self) -> Store:
            return Hangs()

    with pytest.raises(ContractBroken, match="did not end") as failure:
        Impatient().test_reading_shows_what_was_written()
    assert failure.value.rule == 9


def test_the_store_is_closed_after_a_check_that_failed_too() -> None:
    closed = []

    class Closes(ExactStore):
        async def perform(self, *operations: Operation) -> Sequence[Outcome]:
            return [Failed(ZeroDivisionError()) for _ in operations]  # type: ignore[arg-type]

        async def aclose(self) -> None:
            closed.append(self)

    class Suite(Small):
        async def open_store(self) -> Store:
            return Closes()

    with pytest.raises(ContractBroken):
        Suite().test_reading_shows_what_was_written()
    assert len(closed) == 1
