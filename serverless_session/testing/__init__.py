"""For tests of apps and of stores: a clock that is moved by hand, stores that fail or count, the contract as tests.

Each name is imported when it is first used; none of them needs a test runner, or brings one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serverless_session.testing.clock import ManualClock
    from serverless_session.testing.conformance import ContractBroken, StoreConformance
    from serverless_session.testing.counting import CountingStore
    from serverless_session.testing.faulty import FaultyStore

_LAZY = {
    "ContractBroken": "conformance",
    "CountingStore": "counting",
    "FaultyStore": "faulty",
    "ManualClock": "clock",
    "StoreConformance": "conformance",
}

__all__ = ["ContractBroken", "CountingStore", "FaultyStore", "ManualClock", "StoreConformance"]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
