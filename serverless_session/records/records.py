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
from typing import TYPE_CHECKING, Any, Protocol

from serverless_session.codec.keys import KeyRing
from serverless_session.codec.packing import Packer
from serverless_session.codec.sealing import Sealer, length_prefixed
from serverless_session.deadline import Clock, within
from serverless_session.errors import UnreadableValue
from serverless_session.stores.contract import (
    Conflict,
    Expect,
    Failed,
    Found,
    Missing,
    Operation,
    Outcome,
    Store,
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


@dataclass(slots=True)
class Kept(Found):
    """An opened value: `value` is what was packed, `ends_at` the moment (seconds since 1970) at which it ends."""

    ends_at: float = field(kw_only=True)


class Records:
    """The records of one purpose. `purpose` is part of every key and of what the seal authenticates.

    `compress` (False): large values are compressed; never for sessions and claims, whose sizes would tell what is in
    them.
    """

    def __init__(self, shared: Shared, purpose: str, *, compress: bool = False) -> None:
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
        now = self._shared.clock.time()
        sealed = [self._seal(operation, now) if isinstance(operation, Write) else operation for operation in operations]
        with within(self._shared.timeout):
            outcomes = await self._shared.store.perform(*sealed)
            opened = [self._open(place.key, outcome) for place, outcome in zip(sealed, outcomes, strict=True)]
            await self._create_over_the_dead(sealed, outcomes, opened)
        return opened

    async def _create_over_the_dead(
        self, sealed: Sequence[Operation], outcomes: Sequence[Outcome], opened: list[Outcome]
    ) -> None:
        """What has passed its sealed end is absent, though a store with a slow clock may hold it for 2 s more."""
        again: dict[int, Write] = {}
        for place, (operation, outcome) in enumerate(zip(sealed, outcomes, strict=True)):
            match operation, outcome:
                case Write(expect=Expect.ABSENT), Conflict(stands=Found(version=dead)):
                    if opened[place] == Conflict(Missing()):
                        again[place] = replace(operation, expect=dead)
        if again:
            for place, outcome in zip(again, await self._shared.store.perform(*again.values()), strict=True):
                opened[place] = self._open(again[place].key, outcome)

    def _seal(self, write: Write, now: float) -> Write:
        return replace(write, value=self._sealer.seal(write.value, key=write.key, ends_at=now + write.ttl))

    def _open(self, key: str, outcome: Outcome) -> Outcome:
        match outcome:
            case Found(value=sealed, version=version):
                try:
                    opened = self._sealer.open(sealed, key=key)
                except UnreadableValue as error:
                    return Failed(error)
                if opened.ends_at <= self._shared.clock.time():
                    return Missing()
                return Kept(opened.packed, version, ends_at=opened.ends_at)
            case Conflict(stands=Found() as stands):
                shown = self._open(key, stands)
                return Conflict(shown) if isinstance(shown, Found | Missing) else shown
        return outcome
