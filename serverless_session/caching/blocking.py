"""Caches under code that is not async: a lookup runs on a loop, the computation in the thread that asked.

In a worker thread of anyio (FastAPI runs plain endpoints in them) that is the app's own loop, whose connections to the
store are open; anywhere else one of the package's, in a thread of its own. The calling thread waits, and does meanwhile
what the lookup hands to it, so no pool of threads can run empty by waiting for itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from anyio import from_thread

from serverless_session.snapshot import remember_to_forget

_T = TypeVar("_T")

Here = Callable[[Callable[[], _T]], Awaitable[_T]]
"""`await here(function)` runs the function in the thread that waits, and brings what it returns or raises."""


def run(make: Callable[[Here[Any]], Coroutine[Any, Any, _T]]) -> _T:
    """What `make(here)` brings, carried out on a loop while this thread waits."""
    errands: queue.SimpleQueue[_Errand | None] = queue.SimpleQueue()

    async def here(function: Callable[[], Any]) -> Any:
        errand = _Errand(function)
        errands.put(errand)
        return await errand.done

    running = asyncio.run_coroutine_threadsafe(make(here), _loop())
    running.add_done_callback(lambda _: errands.put(None))
    try:
        while (errand := errands.get()) is not None:
            errand.run()
    except BaseException:
        running.cancel()
        raise
    return running.result()


def is_on_a_loop() -> bool:
    """Does a loop run in this very thread, which would wait with it?"""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Errand:
    """A function to be run in another thread, in the context of whoever waits for it on a loop."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self.done: asyncio.Future[Any] = self._loop.create_future()

    def run(self) -> None:
        try:
            result = self._context.run(self._function)
        except StopIteration as error:  # which no future can carry
            wrapped = RuntimeError("a cached function raised StopIteration")
            wrapped.__cause__ = error
            self._loop.call_soon_threadsafe(self._fail, wrapped)
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            self._loop.call_soon_threadsafe(self._fail, error)
        except BaseException as error:
            self._loop.call_soon_threadsafe(self._fail, RuntimeError(f"interrupted by {type(error).__name__}"))
            raise
        else:
            self._loop.call_soon_threadsafe(self._succeed, result)

    def _succeed(self, result: Any) -> None:
        if not self.done.done():
            self.done.set_result(result)

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


# --- where it runs ----------------------------------------------------------------------------------------------------

_of_this_thread = threading.local()
"""A worker thread of anyio has one loop for life."""


def _loop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop | None = getattr(_of_this_thread, "loop", None)
    if loop is not None:
        return loop
    try:
        loop = from_thread.run_sync(asyncio.get_running_loop)
    except RuntimeError:  # no worker thread of anyio
        return _own.loop()
    _of_this_thread.loop = loop
    return loop


class _OwnLoop:
    """A loop in a daemon thread, started when first needed, and anew in a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started: tuple[int, asyncio.AbstractEventLoop, threading.Thread] | None = None
        remember_to_forget(self)

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._started is None or self._started[0] != os.getpid() or self._started[1].is_closed():
                loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=_run_until_stopped, args=(loop,), name="serverless-session", daemon=True
                )
                thread.start()
                self._started = os.getpid(), loop, thread
            return self._started[1]

    async def forget(self) -> None:
        """No connection of this loop goes into a snapshot: it ends, and closes them."""
        with self._lock:
            started, self._started = self._started, None
        if started is not None and started[0] == os.getpid():
            _, loop, thread = started
            loop.call_soon_threadsafe(loop.stop)
            await asyncio.to_thread(thread.join)


def _run_until_stopped(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:  # threads wait for them
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


_own = _OwnLoop()
