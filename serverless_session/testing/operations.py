"""What a test of a store begins with: a key nobody else uses, a write that differs from all others, something there.

Keys are random, so tests share a server with anybody. Nothing here needs a test runner.
"""

from __future__ import annotations

import os
from typing import Final

from serverless_session.stores.contract import (
    ABSENT,
    Expected,
    Operation,
    Outcome,
    Store,
    Version,
    Write,
    Written,
    new_version,
)

MINUTE: Final = 60.0


def new_key() -> str:
    """A key that nobody has used."""
    return f"conformance:{os.urandom(12).hex()}"


def write(key: str, value: bytes = b"new", *, expect: Expected, look_first: bool = False, ttl: float = MINUTE) -> Write:
    """A write under a version of its own; `ttl` in seconds."""
    return Write(key, value, ttl=ttl, version=new_version(), expect=expect, look_first=look_first)


async def one(store: Store, operation: Operation) -> Outcome:
    """The outcome of a call of one operation."""
    (outcome,) = await store.perform(operation)
    return outcome


async def present(store: Store, value: bytes = b"old", *, ttl: float = MINUTE) -> tuple[str, Version]:
    """A key under which `value` stands now, and its version."""
    operation = write(new_key(), value, expect=ABSENT, ttl=ttl)
    outcome = await one(store, operation)
    assert outcome == Written(), f"a write under a key that nobody had used was answered {outcome!r}"
    return operation.key, operation.version
