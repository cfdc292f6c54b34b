"""Sealed values under derived keys, for one purpose: the store's contract again, with readable bytes.

A feature asks the `SharedState` for `Records`, derives keys with `key`, turns objects into bytes with `pack` and
`unpack`, and hands operations of the store contract to `perform`. Values are sealed on the way down and opened on the
way up; what has passed its sealed end is Missing whatever the store says. What does not open comes back as `Failed`
with the codec's error, so that each feature decides what that means for it. No feature touches a store or a cipher
itself.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from serverless_session.codec.keys import KeyRing
from serverless_session.codec.packing import Packer
from serverless_session.codec.sealing import Sealer, length_prefixed
from serverless_session.deadline import Clock, within
from serverless_session.errors import DamagedValue, UnreadableValue
from serverless_session.stores.contract import (
    Conflict,
    Expect,
    Failed,
    Found,
    Missing,
    Operation,
    Outcome,
    Store,
    Version,
    Write,
)

if TYPE_CHECKING:

    class Vault(Protocol):
        """The pure part of `Records`: what rules need that never wait."""

        @property
        def pack(self) -> Callable[[object], bytes]: ...
        @property
        def unpack(self) -> Callable[[bytes], Any]: ...
        def key(self, *parts: bytes) -> str: ...

    class Shared(Protocol):
        """What records need of a `SharedState`."""

        @property
        def store(self) -> Store: ...
        @property
        def clock(self) -> Clock: ...
        @property
        def key_ring(self) -> KeyRing: ...
        @property
        def packer(self) -> Packer: ...
        @property
        def namespace(self) -> str: ...
        @property
        def address_key(self) -> bytes | None: ...
        @property
        def timeout(self) -> float: ...


MARK: Final = b"m"
_PLAIN_MARK: Final = b"sm"
"""Where sealed bytes begin with "ss"."""
_END_BYTES: Final = 8
_MARK_AT: Final = len(_PLAIN_MARK) + _END_BYTES


@dataclass(slots=True)
class Kept(Found):
    """An opened value: `value` is what was packed, `ends_at` the moment (seconds since 1970) at which it ends."""

    ends_at: float = field(kw_only=True)


class Records:
    """The records of one purpose. `purpose` is part of every key and of what the seal authenticates.

    `compress` (False): large values are compressed; never for sessions and claims, whose sizes would tell what is in
    them. `marks` (False): values that begin with `MARK` are kept as they are, with their end in front: they hold
    nothing of anybody, and a seal would keep nobody who may write to the store from putting an old one back.
    """

    def __init__(self, shared: Shared, purpose: str, *, compress: bool = False, marks: bool = False) -> None:
        self._marks = marks
        self._shared = shared
        self._purpose = purpose
        self._sealer = Sealer(shared.key_ring, namespace=shared.namespace, purpose=purpose)
        self._prefix = f"{shared.namespace}:{purpose}:"
        self._address_key = shared.address_key
        self.pack: Callable[[object], bytes] = functools.partial(shared.packer.pack, compress=compress)
        self.unpack: Callable[[bytes], Any] = shared.packer.unpack

    def key(self, *parts: bytes) -> str:
        """The store key for `parts`, which never stand in it: SHA-256 over them, each with its length in front.

        With an `address_key` an HMAC under it, so that a reader of the store cannot test guesses.
        """
        named = length_prefixed(*parts)
        if self._address_key is None:
            digest = hashlib.sha256(named).digest()
        else:
            digest = hmac.digest(self._address_key, named, "sha256")
        return self._prefix + base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        """The store's outcomes, with `Kept` in place of `Found`. Ends within the shared time-out."""
        sealed = [self._seal(operation) if type(operation) is Write else operation for operation in operations]
        with within(self._shared.timeout):
            outcomes = await self._shared.store.perform(*sealed)
            opened = [self._open(place.key, outcome) for place, outcome in zip(sealed, outcomes, strict=True)]
            again = _over_the_dead(sealed, outcomes, opened)
            if again:
                for place, outcome in zip(again, await self._shared.store.perform(*again.values()), strict=True):
                    opened[place] = self._open(again[place].key, outcome)
        return opened

    def _seal(self, write: Write) -> Write:
        ends_at = self._shared.clock.time() + write.ttl
        if self._marks and write.value.startswith(MARK):
            return write.with_value(_PLAIN_MARK + round(ends_at * 1000).to_bytes(_END_BYTES) + write.value)
        return write.with_value(self._sealer.seal(write.value, key=write.key, ends_at=ends_at))

    def _open(self, key: str, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Found):
            return self._opened(key, outcome.value, outcome.version)
        if isinstance(outcome, Conflict) and isinstance(outcome.stands, Found):
            shown = self._opened(key, outcome.stands.value, outcome.stands.version)
            return Conflict(shown) if isinstance(shown, Found | Missing) else shown
        return outcome

    def _opened(self, key: str, sealed: bytes, version: Version) -> Kept | Missing | Failed:
        if self._marks and sealed.startswith(_PLAIN_MARK):
            packed, ends_at = sealed[_MARK_AT:], int.from_bytes(sealed[len(_PLAIN_MARK) : _MARK_AT]) / 1000
            if not packed.startswith(MARK):
                return Failed(DamagedValue())
        else:
            try:
                packed, ends_at = self._sealer.open(sealed, key=key)
            except UnreadableValue as error:
                return Failed(error)
        if ends_at <= self._shared.clock.time():
            return Missing()
        return Kept(packed, version, ends_at=ends_at)


def _over_the_dead(
    sealed: Sequence[Operation], outcomes: Sequence[Outcome], opened: Sequence[Outcome]
) -> dict[int, Write]:
    """Creations, by their places, that met what has passed its sealed end: it is absent, though a store with a slow
    clock may hold it for 2 s more."""
    again: dict[int, Write] = {}
    for place, outcome in enumerate(opened):
        if isinstance(outcome, Conflict) and isinstance(outcome.stands, Missing):
            match sealed[place], outcomes[place]:
                case Write(expect=Expect.ABSENT) as write, Conflict(stands=Found(version=dead)):
                    again[place] = replace(write, expect=dead)
    return again
