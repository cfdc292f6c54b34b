"""The promises, each judged from what was recorded: pure, no store and no shop here.

A verdict needs its steps to have been answered by the shop (`session` is None otherwise), so a store that fails breaks
promises instead of passing by silence.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from serverless_session.demo.browser import SESSION_COOKIE, SetCookie
from serverless_session.demo.report import Step, Stored, Verdict
from serverless_session.stores.contract import Operation, Write

NOBODY: Final[Mapping[str, Any]] = {}


@dataclass(slots=True)
class Record:
    """Everything that happened: the steps by name, and what no report shows."""

    steps: dict[str, Step] = field(default_factory=dict)
    set_cookies: list[SetCookie] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    session_ids: list[str] = field(default_factory=list)
    stored: Stored | None = None
    seconds: float = 0.0


def judge(record: Record) -> tuple[Verdict, ...]:
    """One verdict for each promise."""
    return (
        _both_changes_kept(record),
        _logout_is_final(record),
        _old_cookies_open_nothing(record),
        _forged_cookie_costs_nothing(record),
        _unchanged_is_not_written(record),
        _store_learns_nothing(record),
        _cookie_is_guarded(record),
        _trips_as_promised(record),
        _always_answered(record),
    )


def _both_changes_kept(record: Record) -> Verdict:
    first, second, looked = (record.steps[name] for name in ("add-first", "add-second", "look"))
    items = _cart(looked)
    added = [item for step in (first, second) for item in _cart(step)[-1:]]
    lost = [item for item in added if item not in items]
    return Verdict(
        name="both-changes-kept",
        promise="Two changes of one cart at the same moment are both kept",
        held=len(added) == 2 and not lost and len(items) == len(set(items)) == 3,
        evidence=f"lost: {', '.join(lost)}" if lost else f"in the cart: {', '.join(items) or 'nothing'}",
    )


def _logout_is_final(record: Record) -> Verdict:
    logout, slow, after, replayed = (record.steps[name] for name in ("log-out", "slow", "after", "replay-ended"))
    wrong = []
    if logout.cookie != "removed":
        wrong.append("the cookie was left in the browser")
    if slow.cookie == "set":
        wrong.append("the request that was still running set the cookie again")
    if after.session != NOBODY or replayed.session != NOBODY:
        wrong.append("somebody is logged in afterwards")
    return Verdict(
        name="logout-is-final",
        promise="Logged out stays logged out, even if another request was still running",
        held=not wrong and slow.session is not None,
        evidence="; ".join(wrong) or "the late change was dropped, nobody is logged in, no cookie came back",
    )


def _old_cookies_open_nothing(record: Record) -> Verdict:
    replayed = [record.steps["replay-old"], record.steps["replay-ended"]]
    open_doors = sum(step.session != NOBODY or step.cookie == "set" for step in replayed)
    return Verdict(
        name="old-cookies-are-worthless",
        promise="An old cookie is worthless: from before a new id, and from before the logout",
        held=not open_doors,
        evidence=f"{open_doors} of 2 still open a session" if open_doors else "both found an empty session",
    )


def _forged_cookie_costs_nothing(record: Record) -> Verdict:
    forged = record.steps["forged"]
    found = "an empty session" if forged.session == NOBODY else "NO empty session"
    return Verdict(
        name="forged-cookie-costs-nothing",
        promise="A made-up cookie costs nothing: the store is not even asked",
        held=forged.session == NOBODY and not forged.trips and not forged.cookie,
        evidence=f"{_trips(forged.trips)} to the store, {found}",
    )


def _unchanged_is_not_written(record: Record) -> Verdict:
    looks = [record.steps[name] for name in ("arrive", "look", "after")]
    changes = sum(asked != "read" for step in looks for asked in step.asked)
    cookies = sum(step.cookie == "set" for step in looks)
    return Verdict(
        name="unchanged-is-not-written",
        promise="Who only looks changes nothing: no write, no cookie",
        held=not changes and not cookies and all(step.session is not None for step in looks),
        evidence=f"{len(looks)} looks, {changes} writes, {cookies} cookies set",
    )


def _store_learns_nothing(record: Record) -> Verdict:
    writes = [operation for operation in record.operations if isinstance(operation, Write)]
    seen = [part for operation in record.operations for part in _sent(operation)]
    secrets = {needle for step in record.steps.values() for needle in _texts_in(step.session)}
    secrets |= {needle for session_id in record.session_ids for needle in _forms_of(session_id)}
    found = sum(needle in part for needle in secrets for part in seen)
    return Verdict(
        name="store-learns-nothing",
        promise="The store never sees a name, a value or a session id",
        held=bool(writes) and bool(record.session_ids) and not found,
        evidence=f"{len(secrets)} texts looked for in all {len(record.operations)} commands: "
        + (f"{found} found" if found else "none found"),
    )


def _cookie_is_guarded(record: Record) -> Verdict:
    cookies = [cookie for cookie in record.set_cookies if cookie.name == SESSION_COOKIE]
    missing = {
        name
        for cookie in cookies
        for name, right in (
            ("HttpOnly", "httponly" in cookie.attributes),
            ("Secure", "secure" in cookie.attributes),
            ("SameSite", cookie.attributes.get("samesite", "").lower() in ("lax", "strict")),
        )
        if not right
    }
    return Verdict(
        name="cookie-is-guarded",
        promise="The cookie is hidden from scripts, from plain http and from other sites",
        held=bool(cookies) and not missing,
        evidence=f"without {', '.join(sorted(missing))}"
        if missing
        else f"HttpOnly, Secure and SameSite on all {len(cookies)} that were sent",
    )


def _trips_as_promised(record: Record) -> Verdict:
    steps = record.steps.values()
    wrong = [step for step in steps if step.trips != step.trips_promised]
    return Verdict(
        name="trips-as-promised",
        promise="Every request waits for the store exactly as often as promised",
        held=not wrong,
        evidence="; ".join(f"step {step.number}: {step.trips} instead of {step.trips_promised}" for step in wrong)
        or f"{_trips(sum(step.trips for step in steps))} for {len(steps)} requests",
    )


def _always_answered(record: Record) -> Verdict:
    wrong = [step for step in record.steps.values() if step.status != 200]
    return Verdict(
        name="always-answered",
        promise="The shop answered every request",
        held=not wrong,
        evidence=", ".join(f"step {step.number}: {step.status}" for step in wrong) or "status 200 for all",
    )


def _trips(number: int) -> str:
    return f"{number} trip" if number == 1 else f"{number} trips"


def _cart(step: Step) -> list[str]:
    cart: list[str] = (step.session or {}).get("cart", [])
    return cart


# --- what must not be seen --------------------------------------------------------------------------------------------


def _sent(operation: Operation) -> Iterator[bytes]:
    """Everything of an operation that a store gets to see."""
    yield operation.key.encode()
    if isinstance(operation, Write):
        yield operation.value


def _texts_in(value: Any) -> Iterator[bytes]:
    """Every name and text in a session, as JSON writes it: in quotes, so that a short one is no accident."""
    match value:
        case Mapping():
            for name, content in value.items():
                yield json.dumps(name).encode()
                yield from _texts_in(content)
        case list():
            for content in value:
                yield from _texts_in(content)
        case str():
            yield value.encode() if len(value) > 8 else json.dumps(value).encode()


def _forms_of(session_id: str) -> Iterator[bytes]:
    """A session id as text, as bytes, as hex, and its random part alone."""
    yield session_id.encode()
    try:
        raw = base64.urlsafe_b64decode(session_id)
    except binascii.Error:
        return
    random = raw[5:-8]
    for secret in (raw, random):
        yield secret
        yield secret.hex().encode()
        yield base64.urlsafe_b64encode(secret).rstrip(b"=")
