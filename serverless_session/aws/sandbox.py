"""What lives as long as a Lambda sandbox: one event loop, one root task in it, and the app's lifespan.

Lambda calls a plain function, one event at a time. Between two calls the loop stands still with everything that is open
in it. Every event is served by the same root task: anyio keeps its worker threads with the task at the root of the
tree, and would otherwise start new ones for every event. But each is served in a context of its own, so that no request
sees the context variables of the one before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
import weakref
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from serverless_session.errors import ServerlessSessionError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

logger = logging.getLogger("serverless_session.aws")

_T = TypeVar("_T")
Work = Callable[[], Coroutine[Any, Any, object]]


class Sandbox:
    """Runs coroutines for synchronous callers, one at a time, on a loop that is kept. Callers of other threads wait."""

    def __init__(self, app: ASGIApp) -> None:
        self._turn = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._jobs: asyncio.Queue[tuple[Work, asyncio.Future[Any]]] = asyncio.Queue()
        self._root: asyncio.Task[None] | None = None
        self._closing = False
        self._lifespan = _Lifespan(app)

    @property
    def state(self) -> dict[str, Any]:
        """What the app's lifespan has put down for its requests."""
        return self._lifespan.state

    def run(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """The result of `work()`, awaited in a task of its own, after the app's lifespan has started."""
        with self._turn:
            if self._root is None or self._root.done():
                self._root = self._loop.create_task(self._stay())
                _close_at_exit(self)
            done = self._loop.create_future()
            self._jobs.put_nowait((work, done))
            result: _T = self._loop.run_until_complete(done)
            return result

    def close(self) -> None:
        """End the app's lifespan and the loop. May be called again; a sandbox does not run afterwards."""
        with self._turn:
            if self._loop.is_closed():
                return
            self._closing = True
            if self._root is not None:
                self._root.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    self._loop.run_until_complete(self._root)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _stay(self) -> None:
        try:
            while True:
                await self._serve(*await self._jobs.get())
        finally:
            await self._lifespan.stop()

    async def _serve(self, work: Work, done: asyncio.Future[Any]) -> None:
        try:
            await self._lifespan.start()
            done.set_result(await _InContext(work(), copy_context()))
        except asyncio.CancelledError:
            if self._closing:
                raise
            done.set_exception(RuntimeError("the app cancelled the task that serves it"))
        except Exception as error:  # noqa: BLE001  it is the caller's, who waits in `run`
            done.set_exception(error)


class _InContext:
    """Awaits a coroutine in a context of its own, as a task would, but within the task that awaits it."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> None:
        self._coroutine = coroutine
        self._context = context

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[Any], Any] = self._coroutine.send
        value: Any = None
        while True:
            try:
                waits_for = self._context.run(step, value)
            except StopIteration as stop:
                return stop.value
            try:
                step, value = self._coroutine.send, (yield waits_for)
            except BaseException as error:  # noqa: BLE001  whatever wakes the task wakes the coroutine
                step, value = self._coroutine.throw, error


_open: weakref.WeakSet[Sandbox] = weakref.WeakSet()


def _close_at_exit(sandbox: Sandbox) -> None:
    """Close a sandbox when the process ends.

    anyio's worker threads are no daemons and live as long as our root task, so an interpreter that wants to exit would
    wait for them for ever, and its `atexit` comes only after that. A thread that waits for the main thread comes
    before. It is no daemon either: the interpreter must not be taken apart under it.
    """
    _open.add(sandbox)
    _watch_main_thread()


@functools.cache
def _watch_main_thread() -> None:
    def close_all() -> None:
        threading.main_thread().join()
        for sandbox in list(_open):
            sandbox.close()

    threading.Thread(target=close_all, name="serverless_session exit").start()


class _Lifespan:
    """The app's lifespan: started by the first event, ended with the sandbox; an app without one is left alone."""

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._task: asyncio.Task[None] | None = None
        self._messages: asyncio.Queue[Message] = asyncio.Queue()

    async def start(self) -> None:
        """Raises `ServerlessSessionError` with what the app says if it cannot start; the next event tries again."""
        if self._task is not None:
            return
        answered: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._messages.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.create_task(self._run(answered))
        failure = await answered
        if failure is not None:
            await asyncio.wait([self._task])
            self._task = None
            raise ServerlessSessionError("app-did-not-start", f"the app's start-up failed:\n{failure}")

    async def stop(self) -> None:
        """Tell the app that it is over, and wait until it is."""
        if self._task is not None:
            self._messages.put_nowait({"type": "lifespan.shutdown"})
            await asyncio.wait([self._task])

    async def _run(self, answered: asyncio.Future[str | None]) -> None:
        async def send(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                answered.set_result(message.get("message") or "the app's lifespan failed to start")
            elif message["type"] == "lifespan.startup.complete":
                answered.set_result(None)

        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._messages.get, send)
        except Exception:
            if answered.done():
                logger.exception("lambda.lifespan_failed")
            else:
                logger.debug("lambda.no_lifespan: the app does not support lifespan", exc_info=True)
        finally:
            if not answered.done():
                answered.set_result(None)
