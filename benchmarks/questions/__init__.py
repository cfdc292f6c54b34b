"""The questions, one a file. Each has a `QUESTION`: its name, what it asks, and `ask(bench)`, which adds rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.asking import Bench


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`name`: what `--only` takes. `about`: what is done, for the page. `columns`: what of a row is shown, in order."""

    name: str
    title: str
    about: str
    columns: tuple[str, ...]
    ask: Callable[[Bench], None]
