"""What lives as long as a Lambda sandbox: one event loop, one root task in it, and the app's lifespan.

Lambda calls a plain function, one event at a time. Between two calls the loop stands still with everything that is open
in it. Each event runs in a task of its own, so that neither its context variables nor a cancellation that it leaves
behind reach the next. The loop is run "until" the root task, which never ends, and stopped when the event is done:
anyio keeps its worker threads with the task that the loop was started for, and would otherwise start new ones for every
event.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from serverless_session.deadline import may_block
from serverless_session.errors import ServerlessSessionError
from serverless_session.events import tell
from serverless_session.snapshot import forget_everything

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

_T = TypeVar("_T")

PREWARM_SECONDS: Final = 8.0
"""Of the 10 that Lambda gives a sandbox to start up."""

PATIENCE: Final = 2.0
"""Seconds that the end of a process waits for what is still running in its sandboxes, at each of its steps."""


_around: ContextVar[tuple[object, ...]] = ContextVar("serverless_session_around", default=())
"""The events that what runs here is a part of, in threads too: the one of this handler, and of others that called it.

A call from there would wait for an event that waits for the call.
"""


class TimedOut(Exception):
    """What was to be done by then is not. It was cancelled; `is_over`: it has ended, else it was left behind."""

    def __init__(self, *, is_over: bool) -> None:
        super().__init__()
        self.is_over = is_over


class Time:
    """When what is still running is cancelled, and when it is left behind, whatever it does, by `time.monotonic()`."""

    def __init__(self, cancel_at: float, leave_at: float) -> None:
        self.cancel_at = cancel_at
        self.leave_at = leave_at

    def is_up(self) -> None:
        """It is cancelled now."""

    async def last(self) -> None:
        """What is to be done if it still runs a third of the way to being left behind."""


class Sandbox:
    """Runs coroutines for synchronous callers, one at a time, on a loop that is kept. Callers of other threads wait."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._turn = threading.Lock()
        self._lifespan = _Lifespan(self._app)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._root: asyncio.Task[None] | None = None
        self._event: asyncio.Task[Any] | None = None
        self._serving: object | None = None

    @property
    def state(self) -> dict[str, Any]:
        """What the app's lifespan has put down for its requests."""
        return self._lifespan.state

    def run(self, work: Callable[[], Coroutine[Any, Any, _T]], time: Time | None = None) -> _T:
        """The result of `work()`, awaited in a task of its own, after the app's lifespan has started.

        Raises `TimedOut` if there is none in the given time.
        """

        async def after_start() -> _T:
            may_block.set(True)
            self._serving = object()  # in place of the task, which would hold itself by its context
            _around.set((*_around.get(), self._serving))
            if not self._lifespan.is_up:
                await self._lifespan.start()
            return await work()

        return self._run(after_start, time)

    def may_prewarm(self) -> bool:
        """On Lambda, where the module is loaded by its runtime: elsewhere a server runs the lifespan, on its loop."""
        return "AWS_LAMBDA_RUNTIME_API" in os.environ and not _is_in_a_loop()

    def prewarm(self) -> None:
        """Start the lifespan and connect the stores now, for `PREWARM_SECONDS` at most: the first event goes on."""

        async def connect() -> None:
            from serverless_session.shared import connect_all

            await connect_all()

        end = monotonic() + PREWARM_SECONDS
        with contextlib.suppress(TimedOut):
            self.run(connect, Time(cancel_at=end, leave_at=end))

    def _run(self, work: Callable[[], Coroutine[Any, Any, _T]], time: Time | None) -> _T:
        if self._pid != os.getpid():
            # Kept, so that the collector never closes it: that would take our parent's sockets out of the epoll we
            # share.
            _inherited.append((self._loop, self._root, self._lifespan))
            self._begin()
        _refuse_inside_a_loop()
        if self._serving is not None and self._serving in _around.get():
            raise ServerlessSessionError(
                "handler-in-itself",
                "the app called the handler that was serving it, which serves one event at a time",
                mend="a function of the app that does what is needed, called without an event",
            )
        with self._turn:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                _close_at_exit(self)
            if self._loop.is_closed():
                raise ServerlessSessionError(
                    "handler-closed",
                    "the handler was closed, and with it the app's lifespan and its loop",
                    mend="handler.close() after the last event, or another LambdaHandler",
                )
            if self._root is None or self._root.done():
                self._root = self._loop.create_task(_for_ever())
            return self._run_until_done(self._loop, self._root, work, time)

    def _run_until_done(
        self,
        loop: asyncio.AbstractEventLoop,
        root: asyncio.Task[None],
        work: Callable[[], Coroutine[Any, Any, _T]],
        time: Time | None,
    ) -> _T:
        self._event = event = loop.create_task(work())
        running, is_up, lasts = True, False, []
        timer: asyncio.TimerHandle | None = None

        def stop(_: object = None) -> None:
            if running:  # else an exit has stopped the loop before us, and somebody else may be running it
                loop.stop()

        def cancel() -> None:
            nonlocal is_up, timer
            is_up = True
            assert time is not None
            time.is_up()
            event.cancel()
            timer = loop.call_later((time.leave_at - time.cancel_at) / 3, do_the_last)

        def do_the_last() -> None:
            nonlocal timer
            assert time is not None
            lasts.append(loop.create_task(time.last()))
            timer = loop.call_later(time.leave_at - monotonic(), stop)

        event.add_done_callback(stop)
        if time is not None:
            timer = loop.call_later(time.cancel_at - monotonic(), cancel)
        try:
            loop.run_until_complete(root)
        except (RuntimeError, asyncio.CancelledError):
            pass  # it was stopped before its root had ended, as is meant; or an app has cancelled every task there is
        finally:
            running, self._serving = False, None
            if timer is not None:
                timer.cancel()
            event.cancel()  # Ctrl-C, say: the event is over, and the next one must not wait for it
        if is_up and (not event.done() or event.cancelled()):
            event.add_done_callback(_take_note)
            raise TimedOut(is_over=event.done())
        if not event.done() or event.cancelled():
            raise ServerlessSessionError(
                "app-cancelled",
                "the app cancelled the task that served it",
                mend="asyncio.timeout() where a limit is meant, in place of cancelling tasks that are not yours",
            )
        return event.result()

    # --- what the platform does to a sandbox --------------------------------------------------------------------------

    def follow_the_platform(self) -> None:
        """On Lambda: end in order when it says so, and go into no snapshot with anything that a copy must not have."""
        if os.environ.get("AWS_LAMBDA_RUNTIME_API"):
            from serverless_session.aws.sigterm import at_sigterm

            at_sigterm(self.close)
        if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
            with contextlib.suppress(ModuleNotFoundError):  # Lambda's own runtimes have it
                import snapshot_restore_py

                snapshot_restore_py.register_before_snapshot(self.forget)
                snapshot_restore_py.register_after_restore(self.forget)  # what the hooks before ours have opened

    def forget(self) -> None:
        """Close connections and drop what caches hold; both come anew."""
        if self._loop is not None and self._pid == os.getpid():
            self._run(forget_everything, None)
        else:
            asyncio.run(forget_everything())

    def close(self) -> None:
        """End the app's lifespan and the loop, with `PATIENCE` for what does not want to end. May be called again."""
        if self._loop is None or self._loop.is_closed() or self._pid != os.getpid():
            return
        if not self._turn.acquire(timeout=PATIENCE):
            if self._event is not None:  # it hangs in another thread
                self._loop.call_soon_threadsafe(self._event.cancel)
            if not self._turn.acquire(timeout=PATIENCE):
                return
        try:
            if not self._loop.is_closed():  # somebody else may have closed it while we waited
                try:
                    self._loop.run_until_complete(self._lifespan.stop())
                finally:  # though the lifespan exits at its end: threads wait for that of the tasks
                    self._loop.run_until_complete(self._end(self._loop))
                    self._loop.close()
                    _open.discard(self)
        finally:
            self._turn.release()

    async def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        await _cancel_all(loop)
        generators = loop.create_task(loop.shutdown_asyncgens())
        await asyncio.wait([generators], timeout=PATIENCE)
        if not generators.done():
            await _cancel_all(loop)


async def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=PATIENCE)


def _take_note(task: asyncio.Task[Any]) -> None:
    """Of an exception that nobody waits for any more: asyncio would complain."""
    if not task.cancelled():
        task.exception()


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


def _is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _refuse_inside_a_loop() -> None:
    if not _is_in_a_loop():
        return
    raise ServerlessSessionError(
        "handler-in-a-loop",
        "a Lambda handler is a plain function and cannot be called where an event loop runs",
        mend="await asyncio.to_thread(handler, event, context)",
    )


_inherited: list[object] = []
_open: set[Sandbox] = set()
"""Kept until they are closed, though their handlers be dropped: their threads would keep the process from ending."""


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
        with contextlib.ExitStack() as ends:  # each, though another fails
            for sandbox in list(_open):
                ends.callback(sandbox.close)

    threading.Thread(target=close_all, name="serverless_session exit").start()


os.register_at_fork(after_in_child=_watch_main_thread.cache_clear)


class _Lifespan:
    """The app's lifespan: started by the first event, ended with the sandbox; an app without one is left alone."""

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self.is_up = False
        self._app = app
        self._task: asyncio.Task[None] | None = None
        self._messages: asyncio.Queue[Message]
        self._answered: asyncio.Future[str | None]

    async def start(self) -> None:
        """Raises `ServerlessSessionError` with what the app says if it cannot start; the next event tries again.

        A start that is cancelled goes on, and the next event waits for it.
        """
        if self._task is None:
            self._answered = asyncio.get_running_loop().create_future()
            self._messages = asyncio.Queue()  # its own: a start that failed may still be waiting for a message
            self._messages.put_nowait({"type": "lifespan.startup"})
            self._task = asyncio.create_task(self._run(self._answered, self._messages))
        failure = await asyncio.shield(self._answered)
        if failure is not None:
            await self._finish()
            raise ServerlessSessionError("app-did-not-start", f"the app's start-up failed:\n{failure}")
        self.is_up = self._task is not None

    async def stop(self) -> None:
        """Tell the app that it is over, and wait until it is, or `PATIENCE` is at its end."""
        if self._task is not None:
            self._messages.put_nowait({"type": "lifespan.shutdown"})
            await self._finish()

    async def _finish(self) -> None:
        self.is_up = False
        if self._task is not None:
            task, self._task = self._task, None
            try:
                await asyncio.wait([task], timeout=PATIENCE)
            finally:
                task.cancel()

    async def _run(self, answered: asyncio.Future[str | None], messages: asyncio.Queue[Message]) -> None:
        async def send(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                answered.set_result(message.get("message") or "the app's lifespan failed to start")
            elif message["type"] == "lifespan.startup.complete":
                answered.set_result(None)

        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, messages.get, send)
        except Exception:  # noqa: BLE001 - what it means depends on when it comes, and it is told
            if answered.done() and answered.result() is None:
                tell("lambda.lifespan_failed", exc_info=True)
            elif not answered.done():
                tell("lambda.no_lifespan", exc_info=True)
        finally:
            if not answered.done():
                answered.set_result(None)
