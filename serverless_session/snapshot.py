"""What must not outlive a snapshot of the process: connections, and entries of caches in it.

A sandbox may be a copy of one that was frozen days ago, and there may be hundreds of copies. Whoever holds something in
the process that another copy must not have registers here; the room that knows the platform calls `forget_everything`.
"""

from __future__ import annotations

import weakref
from typing import Protocol


class Forgetful(Protocol):
    async def forget(self) -> None:
        """Let go of what must not be in a copy of this process, as far as it belongs to the running loop."""
        ...


_all: weakref.WeakSet[Forgetful] = weakref.WeakSet()


def remember_to_forget(holder: Forgetful) -> None:
    """Register a holder; it is not kept alive."""
    _all.add(holder)


async def forget_everything() -> None:
    """Let go of all of it, on the running loop."""
    for holder in list(_all):
        await holder.forget()
