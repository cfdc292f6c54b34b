"""The shop as Lambda runs it: sandboxes side by side, each of which serves one event at a time.

A sandbox has a thread, an event loop, a `SharedState` and a connection of its own, as on Lambda; what sandboxes have in
common is the store alone. Its gate is where the demo makes a request wait, so that two of them overlap in exactly one
way, on every machine.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from serverless_session.aws.handler import LambdaHandler
from serverless_session.codec.keys import KeyRing
from serverless_session.demo.events import Context, Event
from serverless_session.demo.shop import shop
from serverless_session.shared import SharedState
from serverless_session.stores.contract import Operation, Store
from serverless_session.testing.counting import CountingStore

INVOCATION_SECONDS: Final = 10.0
LONGEST_WAIT: Final = 3.0
"""Where a wait has to end by itself, because what it waits for went wrong."""


class Gate:
    """A place in the shop that requests pass, or wait at while it is shut."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()
        self._open.set()
        self.seconds_waited = 0.0

    def shut(self) -> None:
        """The next request waits."""
        self._reached = threading.Event()
        self._open.clear()

    def open(self) -> None:
        """Let it go on."""
        self._open.set()

    def wait_until_reached(self, request: Future[Invocation]) -> None:
        """Return once `request` waits at the gate, or has ended without getting there."""
        reached = self._reached
        request.add_done_callback(lambda _: reached.set())
        reached.wait(LONGEST_WAIT)

    async def pause(self) -> None:
        """What the shop awaits."""
        if not self._open.is_set():
            began = time.perf_counter()
            self._reached.set()
            await asyncio.to_thread(self._open.wait, LONGEST_WAIT)
            self.seconds_waited += time.perf_counter() - began


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One event's answer, in the form API Gateway takes, and what it took."""

    answer: dict[str, Any]
    trips: int
    operations: tuple[Operation, ...]
    seconds: float


class ShopSandbox:
    """One sandbox of the function. `open_store` is called once, in here, as a new sandbox would."""

    def __init__(self, name: str, open_store: Callable[[], Store], *, secret: str, namespace: str) -> None:
        self.name = name
        self.gate = Gate()
        self._store = CountingStore(open_store())
        shared = SharedState(self._store, secret_key=KeyRing(secret), namespace=namespace, timeout=1.0)
        self._handler = LambdaHandler(shop(shared, self.gate.pause))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"sandbox {name}")

    def begin(self, event: Event) -> Future[Invocation]:
        """Serve an event in the sandbox's thread, after those it serves already."""
        return self._thread.submit(self._invoke, event)

    def _invoke(self, event: Event) -> Invocation:
        self._store.reset()
        self.gate.seconds_waited = 0.0
        began = time.perf_counter()
        answer = self._handler(event, Context(self.name, timeout=INVOCATION_SECONDS))
        return Invocation(
            answer=answer,
            trips=self._store.calls,
            operations=tuple(self._store.operations),
            seconds=time.perf_counter() - began - self.gate.seconds_waited,
        )

    def close(self) -> None:
        """End it, its lifespan and its connections."""
        self._thread.submit(self._handler.close).result()
        self._thread.shutdown()
