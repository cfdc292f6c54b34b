"""What the demo found: plain frozen data, apart from how it is shown. No session id stands in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One request of the visitor (or of somebody who pretends to be) and its answer."""

    number: int
    name: str
    """Stable, for programs that read the JSON."""
    what: str
    """What the visitor does, in words."""
    request: str
    sandbox: str
    status: int
    session: Mapping[str, Any] | None
    """The session as the app saw it when it answered; None if the app did not."""
    cookie: Literal["", "set", "removed"]
    """What the answer did to the visitor's cookie."""
    asked: tuple[str, ...]
    """What the store was asked, in order: read, write, delete."""
    trips: int
    trips_promised: int
    milliseconds: float
    """Inside the Lambda handler, without the pauses that the demo made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of the stored bytes and what it is."""

    name: str
    content: bytes
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One session as the store holds it, beside what the app saw at that moment."""

    key: str
    parts: tuple[Part, ...]
    session: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A promise, and whether what happened keeps it. `evidence`: what was seen."""

    name: str
    promise: str
    held: bool
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All of it. `store`: its address without user and password, or its class. `seconds`: how long the visit took."""

    store: str
    steps: tuple[Step, ...]
    stored: Stored | None
    """None if the store did not hold the session at all."""
    verdicts: tuple[Verdict, ...]
    seconds: float

    @property
    def held(self) -> bool:
        """Every promise was kept."""
        return all(verdict.held for verdict in self.verdicts)
