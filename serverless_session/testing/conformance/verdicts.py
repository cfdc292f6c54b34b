"""How a check asks a store, and what it says when an answer breaks the contract.

A failure tells what was asked, what was answered, what would have been allowed, and the rule in the contract's own
words, so that whoever reads it needs not read the check. Versions are letters. A value is shown if a check wrote it:
one that comes from somewhere else may be a stranger's, and only its size is told.
"""

from __future__ import annotations

import asyncio
import re
import textwrap
import time
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Final

from serverless_session.stores import contract
from serverless_session.stores.contract import (
    ABSENT,
    Conflict,
    Delete,
    Expect,
    Expected,
    Failed,
    Found,
    Missing,
    Operation,
    Outcome,
    Read,
    Store,
    Version,
    Write,
    Written,
)
from serverless_session.testing.operations import MINUTE, new_key, write

TABLE: Final = 0
"""Not a rule with a number, but the table above the rules: which outcomes an operation has."""

LATEST_EXPIRY: Final = 2.0
"""Seconds by which a store may be late with an expiry: rule 4."""

_RULE = re.compile(r"^(\d+)\. (.*?)(?=^\d+\. |^$)", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| (`.*?`) \| (.*) \|$", re.MULTILINE)
_SHOWN_BYTES: Final = 64
_written: set[bytes] = set()


class ContractBroken(AssertionError):
    """A store broke its contract. `rule`: its number in the docstring of `serverless_session.stores.contract`."""

    def __init__(self, what: str, *, rule: int) -> None:
        self.rule = rule
        super().__init__(f"{what}\n{rule_text(rule)}")


def rule_text(rule: int) -> str:
    """A rule in the contract's words, and where they stand."""
    rules = {int(number): " ".join(text.split()) for number, text in _RULE.findall(contract.__doc__ or "")}
    rules[TABLE] = "; ".join(f"{asked} answers {outcomes}" for asked, outcomes in _ROW.findall(contract.__doc__ or ""))
    name = f"rule {rule}" if rule else "the table"
    text = f"{name} of serverless_session/stores/contract.py: {rules.get(rule, '')}"
    return textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="    ")


def hold(condition: bool, what: str, *, rule: int) -> None:
    """The store broke `rule`, in that `what`, unless `condition`."""
    __tracebackhide__ = True
    if not condition:
        raise ContractBroken(what, rule=rule)


async def ask(store: Store, *operations: Operation) -> list[Outcome]:
    """The outcomes of a call, which must be one for each operation, and no exception."""
    __tracebackhide__ = True
    _written.update(
        operation.value
        for operation in operations
        if isinstance(operation, Write) and len(operation.value) <= _SHOWN_BYTES
    )
    try:
        outcomes = list(await store.perform(*operations))
    except Exception as error:
        what = f"a call of {_listed(operations)} raised {type(error).__name__}; it may raise nothing but cancellation"
        raise ContractBroken(what, rule=6) from error
    hold(
        len(outcomes) == len(operations),
        f"a call of {len(operations)} operations was answered with {len(outcomes)} outcomes",
        rule=6,
    )
    return outcomes


async def must(store: Store, operation: Operation, *allowed: Outcome, rule: int, because: str = "") -> Outcome:
    """Carry out `operation`. Its outcome must be one of `allowed`."""
    __tracebackhide__ = True
    (outcome,) = await ask(store, operation)
    judge(operation, outcome, *allowed, rule=rule, because=because)
    return outcome


def judge(operation: Operation, outcome: Outcome, *allowed: Outcome, rule: int, because: str = "") -> None:
    """The outcome of `operation` must be one of `allowed`."""
    __tracebackhide__ = True
    if outcome not in allowed:
        shown = _Shown()
        lines = [
            "the store broke its contract",
            f"  asked     {shown.operation(operation)}",
            f"  answered  {shown.outcome(outcome)}",
            f"  allowed   {', or '.join(shown.outcome(one) for one in allowed)}",
        ]
        if because:
            lines.append(f"  because   {because}")
        refused_rightly = rule != 3 or isinstance(outcome, Conflict)  # rule 3 says what a Conflict shows, no more
        raise ContractBroken("\n".join(lines), rule=rule if refused_rightly else TABLE)


async def stands(store: Store, value: bytes = b"old", *, ttl: float = MINUTE) -> tuple[str, Version]:
    """A key under which `value` stands now, and its version."""
    __tracebackhide__ = True
    operation = write(new_key(), value, expect=ABSENT, ttl=ttl)
    await must(store, operation, Written(), rule=TABLE, because="nobody had used this key")
    return operation.key, operation.version


async def expired(store: Store, count: int) -> list[tuple[str, Version]]:
    """Keys under which something stood that has expired, and its versions."""
    __tracebackhide__ = True
    writes = [write(new_key(), b"expired", expect=ABSENT, ttl=0.01) for _ in range(count)]
    for operation, outcome in zip(writes, await ask(store, *writes), strict=True):
        judge(operation, outcome, Written(), rule=TABLE, because="nobody had used this key")
    ends = time.monotonic() + 0.01
    while True:
        begun = time.monotonic()
        if all(outcome == Missing() for outcome in await ask(store, *(Read(operation.key) for operation in writes))):
            return [(operation.key, operation.version) for operation in writes]
        hold(begun < ends + LATEST_EXPIRY, "a value written for 0.01 s was still returned 2 s after its end", rule=4)
        await asyncio.sleep(0.01)


def _listed(operations: Sequence[Operation]) -> str:
    return ", ".join(type(operation).__name__ for operation in operations) or "nothing"


class _Shown:
    """Operations and outcomes in words. The versions of one message are letters, in the order of their appearance."""

    def __init__(self) -> None:
        self._letters: dict[bytes, str] = {}

    def operation(self, operation: Operation) -> str:
        match operation:
            case Read():
                return "Read()"
            case Write(value=value, ttl=ttl, version=version, expect=expect, look_first=look_first):
                own, expected = self._version(version), self._expected(expect)
                looks = ", look_first=True" if look_first else ""
                return f"Write({self._value(value)}, ttl={ttl:g}, {own}, expect={expected}{looks})"
            case Delete(expect=expect):
                return f"Delete(expect={self._expected(expect)})"

    def outcome(self, outcome: Outcome) -> str:
        match outcome:
            case Found(value=value, version=version):
                return f"Found({self._value(value)}, {self._version(version)})"
            case Conflict(stands=stands):
                return f"Conflict({self.outcome(stands)})"
            case Failed(error=error):
                return f"Failed({type(error).__name__}: {error})"
            case _:
                return repr(outcome)

    def _expected(self, expect: Expected) -> str:
        return expect.name if isinstance(expect, Expect) else self._version(expect)

    def _version(self, version: object) -> str:
        if not isinstance(version, bytes):
            return f"a {type(version).__name__} as version"
        name = self._letters.setdefault(version, ascii_uppercase[len(self._letters) % 26])
        return f"version {name}"

    def _value(self, value: object) -> str:
        if not isinstance(value, bytes):
            return f"a {type(value).__name__}"
        return repr(value) if value in _written else f"{len(value):,} bytes"
