"""What the side panel shows, "behind the counter": rows of requests, and a session as the app and the store see it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from serverless_session.caching.stats import Answer
from serverless_session.demo.beside import parts_of, printable
from serverless_session.demo.page.observing import Seen, Trip
from serverless_session.demo.report import Part
from serverless_session.stores.contract import Found

BYTES_A_LINE: Final = 8

ANSWERS: Final = {
    Answer.HIT: ("hit", "from the store"),
    Answer.LOCAL: ("local", "from this copy's memory"),
    Answer.MISS: ("miss", "computed, and kept"),
    Answer.WAIT: ("wait", "waited for another's computation"),
    Answer.STALE: ("stale", "old, while another computes it anew"),
    Answer.ERROR: ("no store", "computed without the store"),
}
"""How each is called, and what it means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerShown:
    """What the cache answered, and how often. `kind`: for the colour."""

    kind: str
    name: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request, or a crowd of them."""

    request: str
    copy: str
    crowd: int
    status: int | None
    took: str
    trips: list[TripShown]
    number_of_trips: int
    answers: list[AnswerShown]


@dataclass(frozen=True, slots=True, kw_only=True)
class TripShown:
    """`fate`: "", "refused" or "failed"."""

    asked: str
    took: str
    fate: str


def row(seen: Seen) -> Row:
    """An entry of the book, in words. Of a crowd's trips only the number is shown."""
    answers = Counter(seen.answers)
    return Row(
        request=seen.request,
        copy=seen.copy,
        crowd=seen.crowd,
        status=seen.status,
        took=milliseconds(seen.seconds) if seen.seconds else "",
        trips=[] if seen.crowd > 1 else [_trip(trip) for trip in seen.trips],
        number_of_trips=len(seen.trips),
        answers=[
            AnswerShown(kind=answer.value, name=ANSWERS[answer][0], times=answers[answer])
            for answer in ANSWERS
            if answer in answers
        ],
    )


def _trip(trip: Trip) -> TripShown:
    fate = "failed" if trip.failed else "refused" if trip.refused else ""
    return TripShown(asked=f"{trip.what_for} {' + '.join(trip.asked)}", took=milliseconds(trip.seconds), fate=fate)


def milliseconds(seconds: float) -> str:
    """A time as it is shown: fewer digits for what takes long."""
    return f"{seconds * 1000:.{0 if seconds >= 0.1 else 1 if seconds >= 0.001 else 2}f} ms"


# --- a session, from both sides ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a hex dump; `pieces` are neighbours of one part: its number, the hex, the ASCII."""

    offset: int
    pieces: list[tuple[int, str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BothSides:
    """`seen`: the session as the app has it, as JSON. The rest: as the store has it, None if it has nothing."""

    seen: str
    user: str | None
    key: str | None
    parts: tuple[Part, ...]
    lines: list[Line]
    size_bytes: int


def both_sides(session: Mapping[str, Any], user: str | None, found: tuple[str, Found] | None) -> BothSides:
    """The session, and what stands in the store for it."""
    parts = parts_of(found[1]) if found is not None else ()
    return BothSides(
        seen=json.dumps(dict(session), ensure_ascii=False),
        user=user,
        key=found[0] if found is not None else None,
        parts=parts,
        lines=_lines(parts),
        size_bytes=sum(len(part.content) for part in parts),
    )


def _lines(parts: tuple[Part, ...]) -> list[Line]:
    whole = b"".join(part.content for part in parts)
    owner = [number for number, part in enumerate(parts) for _ in part.content]
    lines = []
    for offset in range(0, len(whole), BYTES_A_LINE):
        content, numbers = whole[offset : offset + BYTES_A_LINE], owner[offset : offset + BYTES_A_LINE]
        pieces = []
        for number in dict.fromkeys(numbers):
            piece = bytes(byte for byte, its in zip(content, numbers, strict=True) if its == number)
            pieces.append((number, piece.hex(" "), printable(piece)))
        lines.append(Line(offset=offset, pieces=pieces))
    return lines
