"""What a run found, as rows, and how it is kept: one JSON file with the machine and the versions.

A row is one contender in one case. What was *measured* has a spread; what was *counted* (trips, commands, bytes,
modules) is exact. A contender that could not be asked is a `LeftOut`, with the reason: a figure is never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import Spread

FORMAT: Final = 1


class Role(StrEnum):
    """What a contender is there for."""

    LIMIT = "limit"  # what the machine can do at all: a bare socket
    FLOOR = "floor"  # what ratios are to: the bare call of the library that we use, too
    BARE = "bare"  # a framework without the feature, to take off a peer's figure
    OURS = "ours"
    PEER = "peer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contender in one case of one question."""

    question: str
    case: str
    contender: str
    role: Role
    measured: Mapping[str, Spread]
    counted: Mapping[str, float | str] = field(default_factory=dict)
    note: str = ""

    @property
    def name(self) -> tuple[str, str, str]:
        return self.question, self.case, self.contender


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Who was not measured, why, and what would bring it in."""

    question: str
    case: str
    contender: str
    reason: str
    mend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """One run. `machine` and `versions` are there to be read, and decide nothing."""

    made_at: str
    seed: int
    quick: bool
    seconds: float
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]

    def row(self, question: str, case: str, contender: str) -> Row | None:
        return next((row for row in self.rows if row.name == (question, case, contender)), None)

    def questions(self) -> list[str]:
        return list(dict.fromkeys(row.question for row in self.rows))

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Results:
        """Raises `ValueError` for what is no run of this format."""
        kept = json.loads(text)
        if not isinstance(kept, dict) or kept.pop("format", None) != FORMAT:
            raise ValueError(f"not the results of a run, of format {FORMAT}")
        rows = tuple(_row(row) for row in kept.pop("rows"))
        left_out = tuple(LeftOut(**entry) for entry in kept.pop("left_out"))
        return cls(rows=rows, left_out=left_out, **kept)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Raises `ValueError`, with the path."""
        try:
            return cls.from_json(path.read_text())
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} cannot be read as results: {error}") from error


def _row(kept: dict[str, Any]) -> Row:
    measured = {name: Spread(**spread) for name, spread in kept.pop("measured").items()}
    return Row(role=Role(kept.pop("role")), measured=measured, **kept)
