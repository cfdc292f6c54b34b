"""What stands in the store for one session: its form, and how the lifecycle asks for it.

A record is a session (contents, and our facts about it) or a *stone*: what is left of an id that was given up. A stone
names its successors. It keeps what the contents were, less what was deleted since, for who is about to give the session
another new id; no request that comes later sees them. `ended`: the session was ended before the successors began.

    session  {"v": 1, "created_at": 1e9, "kept_until": ..., "user_id": ..., ..., "data": {...}}
    stone    {"v": 1, "moved_to": ["app:session:...", ...], "ended": false, "data": {...}}
"""

from __future__ import annotations

import marshal
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from serverless_session.errors import DamagedValue, UnknownFormat, ValueNotSerializable
from serverless_session.records.records import Kept
from serverless_session.sessions.lifetime import Facts
from serverless_session.stores.contract import Conflict, Deleted, Failed, Missing, Operation, Outcome, Version, Written

if TYPE_CHECKING:
    from serverless_session.records.records import Vault

_T = TypeVar("_T")
Steps = Generator[Operation, Outcome, _T]
"""Something that asks the store: it yields operations, is sent their outcomes, and never waits itself."""

_FACTS = ("created_at", "kept_until", "user_id", "authenticated_at", "max_age", "siblings")


@dataclass(slots=True, repr=False, eq=False)  # no debugger, log or traceback shows what stands in it
class Record:
    """A record as it stands in the store, as far as we know. `facts=None`: it is a stone."""

    key: str
    version: Version
    packed: bytes
    ends_at: float
    facts: Facts | None = None
    data: dict[str, Any] = field(default_factory=dict)
    """Contents as they were unpacked. An app's mapping is made of them, so whoever merges starts from `packed`."""
    holds: bool = False
    """Is there anything in it that a visitor would miss?"""
    successors: Sequence[str] = ()
    """The keys that a stone names."""
    ended: bool = False
    """A stone that an ending has left, for what was written after it."""


def pack_session(vault: Vault, facts: Facts, data: dict[str, Any]) -> bytes:
    """Raises `ValueNotSerializable` with the path to what cannot be kept, as seen from the app."""
    known = {name: fact for name in _FACTS if (fact := getattr(facts, name)) is not None}
    try:
        return vault.pack({"v": 1, **known, "data": dict(data)})
    except ValueNotSerializable as error:
        raise error.below(1, "request.session") from None


def mark_of(data: dict[str, Any]) -> bytes | None:
    """Bytes that are the same as long as nothing is changed, where that can be told quickly; else None.

    They may differ where nothing was changed. `marshal` takes 4 to 6 us for 1 KiB where packing takes 35, and a request
    that only reads looks three times. Nothing is ever read from them.
    """
    try:
        return marshal.dumps(dict(data), 2)  # in later versions the bytes depend on who else holds the values
    except ValueError:  # it knows no dates, say
        return None


def pack_stone(vault: Vault, successors: Sequence[str], data: dict[str, Any], *, ended: bool) -> bytes:
    return vault.pack({"v": 1, "moved_to": list(successors), "ended": ended, "data": data})


def holds(has_contents: bool, facts: Facts) -> bool:
    """A session without contents that nobody is logged in to holds nothing."""
    return has_contents or facts.user_id is not None


def data_of(vault: Vault, packed: bytes) -> dict[str, Any]:
    """The contents of a record, made anew at each call: nobody else holds them."""
    data: dict[str, Any] = vault.unpack(packed)["data"]
    return data


def ask(vault: Vault, operation: Operation) -> Steps[Written | Deleted | Missing | Record]:
    """Yield an operation; what stands there comes back as a `Record`, also out of a conflict.

    Raises what failed. A damaged record counts as none: that session has ended.
    """
    outcome = yield operation
    if isinstance(outcome, Conflict):
        outcome = outcome.stands
    match outcome:
        case Kept():
            return _record(vault, operation.key, outcome)
        case Failed(error=DamagedValue()):
            return Missing()
        case Failed(error=error):
            raise error
        case Written() | Deleted() | Missing():
            return outcome
    raise TypeError("records answer with what they have opened")


def _record(vault: Vault, key: str, kept: Kept) -> Record | Missing:
    try:
        content = vault.unpack(kept.value)
    except DamagedValue:
        return Missing()
    match content:
        case {"v": 1, "moved_to": successors, "ended": ended, "data": data}:
            return Record(
                key, kept.version, kept.value, kept.ends_at, data=data, successors=successors, ended=bool(ended)
            )
        case {"v": 1, "created_at": _, "data": data}:
            facts = Facts(**{name: content[name] for name in _FACTS if name in content})
            return Record(key, kept.version, kept.value, kept.ends_at, facts, data, holds=holds(bool(data), facts))
    raise UnknownFormat("a session was written in a form that this release does not know")
