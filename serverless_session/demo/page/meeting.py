"""Where two requests wait for each other, so that they overlap for certain: both have read before either writes.

The pages of two tabs send the same word along with what they put into the cart. Who comes first waits for the second,
and goes on alone if nobody comes.
"""

from __future__ import annotations

import asyncio
from typing import Final

PATIENCE_SECONDS: Final = 8.0
LONGEST_WORD: Final = 64
MOST_WAITING: Final = 16


class Meetings:
    """Of all copies of the shop."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Event] = {}

    async def meet(self, word: str) -> bool:
        """Return once a second request has come with the same word; False: nobody came."""
        if not 0 < len(word) <= LONGEST_WORD:
            return False
        other = self._waiting.pop(word, None)
        if other is not None:
            other.set()
            return True
        if len(self._waiting) >= MOST_WAITING:
            return False
        here = self._waiting[word] = asyncio.Event()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await here.wait()
        except TimeoutError:
            return False
        finally:
            if self._waiting.get(word) is here:
                del self._waiting[word]
        return True
