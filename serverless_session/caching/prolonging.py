"""A lease is short, so that nobody waits long for who was killed; whoever goes on computing prolongs it."""

from __future__ import annotations

import asyncio
from time import monotonic

from serverless_session.caching.guarded import GuardedStore
from serverless_session.records import leases
from serverless_session.records.leases import Lease
from serverless_session.stores.contract import new_version


class Prolonged:
    """A lease that is prolonged while something is computed that takes longer than it lasts."""

    def __init__(self, store: GuardedStore, lease: Lease) -> None:
        self._store = store
        self._lease = lease
        self._version = new_version()
        self._ends_at = monotonic() + lease.seconds
        self._is_over = False
        self._renewing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wait()

    async def stop(self) -> Lease:
        """The lease as it stands now."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._renewing is not None:
            await asyncio.wait([self._renewing])
        return self._lease

    def _wait(self) -> None:
        left = self._ends_at - monotonic()
        if self._lease.held and not self._is_over and left > 0:
            self._timer = asyncio.get_running_loop().call_later(left / 3, self._begin)

    def _begin(self) -> None:
        self._renewing = asyncio.ensure_future(self._renew())

    async def _renew(self) -> None:
        asked_at = monotonic()
        renewed = await self._store.carry_out(leases.renew(self._lease, self._version), insist=True)
        if isinstance(renewed, Lease):
            self._lease, self._version, self._ends_at = renewed, new_version(), asked_at + renewed.seconds
        if renewed is not False:  # else it was lost, and what is computed will not be kept
            self._wait()
