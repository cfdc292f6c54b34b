"""SIGTERM, with which Lambda ends a sandbox that has an extension: heard even while the runtime waits in C.

A Python handler runs between two steps of the main thread, and up to Python 3.11 Lambda's runtime client waits for the
next event without taking any. What the system does at once is to write a byte to the wakeup descriptor; a thread of
ours reads it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


_ends: list[Callable[[], None]] = []


def at_sigterm(end: Callable[[], None]) -> None:
    """Call `end` in a thread when SIGTERM comes, and all others that were given, the last one first; then exit.

    It does not exit where somebody else has a handler, be it from before or since: then that decides. Outside of the
    main thread nothing can be heard, and nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    _ends.append(end)
    if len(_ends) == 1:  # there is one handler and one descriptor in a process
        _listen()


def _listen() -> None:
    before = signal.getsignal(signal.SIGTERM)
    bell, rung = os.pipe()
    os.set_blocking(rung, False)

    def handler(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):  # somebody may have put a descriptor in the place of ours
            os.write(rung, bytes([number]))
        if callable(before):
            before(number, frame)

    def wait() -> None:
        while signal.SIGTERM not in os.read(bell, 1):
            pass
        try:
            with contextlib.ExitStack() as ends:
                for end in _ends:
                    ends.callback(end)
        finally:
            if signal.getsignal(signal.SIGTERM) is handler and not callable(before):
                sys.stdout.flush()
                os._exit(0)

    masks = threading.local()

    def hold() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def let_children_be() -> None:
        """A byte of theirs would end us: the pipe is one. So what comes for a child before this has to wait.

        What somebody else has put in the place of ours stays.
        """
        _ends.clear()
        descriptor = signal.set_wakeup_fd(-1)
        if descriptor != rung:
            signal.set_wakeup_fd(descriptor)
        if signal.getsignal(signal.SIGTERM) is handler:
            signal.signal(signal.SIGTERM, before)
        release()

    signal.signal(signal.SIGTERM, handler)
    signal.set_wakeup_fd(rung, warn_on_full_buffer=False)
    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=let_children_be)
    threading.Thread(target=wait, name="serverless_session sigterm", daemon=True).start()
