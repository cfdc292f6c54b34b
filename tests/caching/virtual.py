"""A loop whose time passes when nothing else is left to do: hours of asyncio in seconds, exactly repeatable."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual. Nothing may be waited for but other tasks and time."""

    def __init__(self) -> None:
        super().__init__(_Jumping(self))
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout:
            self._loop.now += timeout
        return super().select(0)


def run(coroutine: Coroutine[Any, Any, _T], loop: VirtualLoop) -> _T:
    """As `asyncio.run`."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(coroutine)
