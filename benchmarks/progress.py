"""What a run is doing: one line that is written over on a terminal, a line a step elsewhere."""

from __future__ import annotations

import time
from typing import TextIO


class Progress:
    """Says each step with the seconds since the start."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._began = time.monotonic()
        self._is_open = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def says(self, what: str) -> None:
        line = f"{self.seconds:6.1f} s  {what}"
        if self._out.isatty():
            self._out.write(f"\r\x1b[K{line}")
            self._is_open = True
        else:
            self._out.write(f"{line}\n")
        self._out.flush()

    def ends(self) -> None:
        if self._is_open:
            self._out.write("\r\x1b[K")
            self._out.flush()
            self._is_open = False
