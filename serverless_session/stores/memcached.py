"""A store in Memcached: commands and what their answers mean. `memcached_links` carries them.

A value is kept as its 8-byte version followed by the bytes. Memcached compares a number of its own (`cas`), which
begins again when the server does; so ours is the version, and the server's number is a hint that travels with it, good
only on the connection that read it. On any other the value is read again and our version compared first.

| operation | commands, a trip each |
|---|---|
| reads, and whatever must look first: all of them together | `gets` |
| write, nothing expected there | `add`; refused: `gets` shows by whom |
| write over a version | `cas`, if this connection read it; else `gets`, `cas` |
| delete of a version | the same, with a value that is dead at once |
| write, delete of anything | `set`, `delete` |

Keys never move to another node: rendezvous hashing over the names of the nodes, in which a dead one keeps its keys, and
they are `StoreUnavailable`. A node that is taken off the list and comes back with its memory would bring back what was
deleted meanwhile, so it is flushed first. An answer that was lost is settled by sending the operation once more.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from serverless_session.deadline import may_block, time_left
from serverless_session.errors import ConfigurationError, StoreUnavailable, WriteUncertain
from serverless_session.stores.contract import (
    ABSENT,
    ANYTHING,
    VERSION_BYTES,
    Conflict,
    Delete,
    Deleted,
    Failed,
    Found,
    Limits,
    Missing,
    Operation,
    Outcome,
    Read,
    Store,
    Version,
    Write,
    Written,
    refuse_repeated_keys,
)
from serverless_session.stores.links import Links, LinksByLoop
from serverless_session.stores.memcached_links import MemcachedLink, Refused
from serverless_session.stores.settling import Attempt, Call, settle

if TYPE_CHECKING:
    import ssl

LARGEST_VALUE_BYTES: Final = 1024 * 1024 - 1024
"""What a server with the default `-I 1m` takes in any case: 1,048,316 bytes with a key of 200 characters, measured."""

_DEFAULT_PORT: Final = 11211
_NODE: Final = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?")

_LONGEST_SPAN: Final = 30 * 24 * 3600
"""Seconds; memcached takes a larger number for a date."""
_LAST_DATE: Final = 2**31 - 1
"""A later one wraps around, and the value is born dead."""

_NO_NUMBER: Final = b"0"
"""What `gets` shows under `memcached -C`, where `cas` would be refused for ever."""

_REMOVES: Final = ("object too large for cache", "out of memory storing object")
"""What it could not replace by a `set`, memcached removes; by `add` and `cas`, it does not."""

_MENDS: Final = {
    "object too large for cache": "memcached -I with that size or more, or MemcachedStore(largest_value_bytes=)",
    "out of memory storing object": "more memory for it: memcached -m; or without -M if it may forget",
    **dict.fromkeys(
        ("unauthenticated", "authentication failure", "bad authentication token format"),
        "memcached without -Y: pymemcache cannot authenticate",
    ),
}


class MemcachedStore(Store):
    """Keeps everything in one or several Memcached servers: `memcached://h1:11211,h2:11211`; `memcacheds://` with TLS.

    Every copy of an app must name the same nodes in the same words: the name decides which keys are whose.
    `max_connections`: the most that one event loop opens to each (8), with a thread for each; further callers wait
    inside their deadline. `largest_value_bytes` (1 MiB - 1 KiB): for servers that run with `-I`. `tls`: the context for
    `memcacheds://`, by default one that trusts the machine's authorities (or those in the file that `SSL_CERT_FILE`
    names). Raises `ConfigurationError` for an address that cannot be one. It may forget: by eviction, and when a server
    restarts.
    """

    def __init__(
        self,
        url: str,
        *,
        max_connections: int = 8,
        largest_value_bytes: int = LARGEST_VALUE_BYTES,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        addresses, with_tls = _nodes_in(url)
        context = (lambda: tls or _default_tls()) if with_tls else None
        self._nodes = [_Node(host, port, max_connections, context) for host, port in addresses]
        self.limits = Limits(largest_value_bytes=largest_value_bytes, may_forget=True)

    async def aclose(self) -> None:
        for node in self._nodes:
            await node.links.aclose()

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        refuse_repeated_keys(operations)
        allowed = max(time_left(), 0.0)
        shares: dict[_Node, list[tuple[int, Operation]]] = {}
        for place, operation in enumerate(operations):
            shares.setdefault(self._node_of(operation.key), []).append((place, operation))
        calls = [
            (node, Call(share, self.limits, server="memcached", where=node.name)) for node, share in shares.items()
        ]
        if len(calls) == 1:
            ((node, call),) = calls
            await node.settle(call, allowed, here=may_block.get())
        else:  # in threads wherever it runs: on the loop, one node would wait for the other
            async with asyncio.TaskGroup() as side_by_side:
                for node, call in calls:
                    side_by_side.create_task(node.settle(call, allowed, here=False))
        outcomes = {place: outcome for _, call in calls for place, outcome in call.outcomes.items()}
        return [outcomes[place] for place in range(len(operations))]

    def _node_of(self, key: str) -> _Node:
        if len(self._nodes) == 1:
            return self._nodes[0]
        return max(self._nodes, key=lambda node: hashlib.blake2b(f"{node.name} {key}".encode(), digest_size=8).digest())


class _Node:
    """One server, which keeps the keys that hash to its name."""

    def __init__(self, host: str, port: int, most: int, tls: Callable[[], ssl.SSLContext] | None) -> None:
        self.name = f"{host}:{port}"

        def links() -> Links[MemcachedLink]:
            threads = ThreadPoolExecutor(most, thread_name_prefix="memcached")
            return Links(
                lambda: MemcachedLink(host.strip("[]"), port, threads, tls),
                most,
                close=lambda: threads.shutdown(wait=False),
            )

        self.links = LinksByLoop(links)

    async def settle(self, call: Call, allowed: float, *, here: bool) -> None:
        def carry(attempt: Attempt, ends: float, again: bool) -> Awaitable[None]:
            def talk(link: MemcachedLink, ends: float) -> Awaitable[None]:
                return link.run(lambda link: _Conversation(link, attempt).hold(), ends, here=here)

            life = next((version.life for version in _hints(attempt.waiting.values())), None)
            return self.links.here().carry(talk, ends, again=again, life=life)

        await settle(call, carry, allowed=allowed)


# --- versions, and the hint that travels with them --------------------------------------------------------------------


class _HintedVersion(bytes):
    """A version as one connection read it: `number` is the server's cas, good on the connection with that `life`."""

    number: bytes
    life: object


def _found(kept: bytes, number: bytes, life: object) -> Found:
    version = _HintedVersion(kept[:VERSION_BYTES].ljust(VERSION_BYTES, b"\0"))
    version.number, version.life = number, life
    return Found(kept[VERSION_BYTES:], Version(version))


def _hints(operations: Iterable[Operation]) -> Iterable[_HintedVersion]:
    for operation in operations:
        if not isinstance(operation, Read) and isinstance(operation.expect, _HintedVersion):
            yield operation.expect


# --- one attempt over one connection ----------------------------------------------------------------------------------


class _Conversation:
    """Round after round: looks where it must, all in one trip, and sends what may go, until everything is answered."""

    def __init__(self, link: MemcachedLink, attempt: Attempt) -> None:
        self._link = link
        self._attempt = attempt
        self._numbers: dict[int, bytes] = {}

    def hold(self) -> None:
        to_look, ready = list[int](), list[int]()
        for place, operation in self._attempt.waiting.items():
            hint = next(iter(_hints([operation])), None)
            if hint is not None and hint.life is self._link.life:
                self._numbers[place] = hint.number
                ready.append(place)
            elif _must_look(operation):
                to_look.append(place)
            else:
                ready.append(place)
        refused = list[int]()
        while to_look or ready:
            ready += self._look(to_look, refused)
            to_look = refused = [place for place in ready if not self._send(place)]
            ready = []

    def _look(self, places: list[int], refused: list[int]) -> list[int]:
        """Answer what a look decides; the rest is ready to be sent. `refused`: those that were sent already."""
        if not places:
            return []
        keys = {self._attempt.waiting[place].key: place for place in places}
        life = self._link.life
        try:
            found = self._link.look(list(keys), self._attempt.look)
        except Refused as refusal:
            self._numbers.clear()
            for place in places:
                self._attempt.answer(place, _refusal(refusal))
            return []
        ready = []
        for key, place in keys.items():
            stands = _found(*found[key], life) if key in found else Missing()
            outcome = self._decide(place, stands, was_refused=place in refused)
            if outcome is not None:
                self._attempt.answer(place, outcome)
                continue
            if key in found:
                if found[key][1] == _NO_NUMBER:
                    self._attempt.answer(place, _compares_nothing())
                    continue
                self._numbers[place] = found[key][1]
            ready.append(place)
        return ready

    def _decide(self, place: int, stands: Found | Missing, *, was_refused: bool) -> Outcome | None:
        match self._attempt.waiting[place]:
            case Read():
                return stands
            case Write(version=version) if isinstance(stands, Found) and stands.version == version:
                return Written()
            case Write(expect=expect):
                if not stands.meets(expect):
                    return Conflict(stands)
                if was_refused and expect is ABSENT and self._attempt.is_in_doubt(place):
                    return Conflict(stands)  # what refused us is gone; it may have been our first copy
            case Delete(expect=expect):
                if isinstance(stands, Missing):
                    return stands
                if not stands.meets(expect):
                    return Conflict(stands)
        return None

    def _send(self, place: int) -> bool:
        """Send it, and answer it unless it was refused: then another look tells what stands there."""
        operation, link = self._attempt.waiting[place], self._link

        def sent() -> None:
            self._attempt.send(place)

        outcome: Outcome | None
        done: bool | None
        try:
            match operation:
                case Read():
                    raise AssertionError("a look answers it")
                case Write(key=key, version=version, value=value, ttl=ttl, expect=expect):
                    kept, expire = version + value, _expire(ttl)
                    if expect is ANYTHING:
                        link.put(key, kept, expire, sent)
                        done = True
                    elif expect is ABSENT:
                        done = link.add(key, kept, expire, sent)
                    elif place in self._numbers:
                        done = link.replace(key, kept, self._numbers.pop(place), expire, sent)
                    else:  # the connection was made anew since it was read
                        return False
                    outcome = Written() if done else Conflict(Missing()) if done is None else None
                case Delete(key=key, expect=expect):
                    if expect is ANYTHING:
                        done = link.delete(key, sent) or None
                    elif place in self._numbers:
                        done = link.remove(key, self._numbers.pop(place), sent)
                    else:
                        return False
                    outcome = Deleted() if done else Missing() if done is None else None
        except Refused as refusal:
            self._numbers.clear()
            outcome = _refusal(refusal, operation)
        if outcome is None:
            return False
        self._attempt.answer(place, outcome)
        return True


def _must_look(operation: Operation) -> bool:
    match operation:
        case Read():
            return True
        case Write(expect=expect, look_first=look_first):
            return look_first if expect is ABSENT else expect is not ANYTHING
        case Delete(expect=expect):
            return expect is not ANYTHING


def _refusal(refusal: Refused, operation: Operation | None = None) -> Failed:
    reason = str(refusal)
    if isinstance(operation, Write) and operation.expect is ANYTHING and reason in _REMOVES:
        return Failed(WriteUncertain(f"memcached refused a write ({reason}), and has removed what stood there"))
    mend = _MENDS.get(reason, "what memcached's log says (memcached -vv)")
    known = f" ({reason})" if reason in _MENDS else ""
    return Failed(StoreUnavailable(f"memcached refused a command{known}", mend=mend))


def _compares_nothing() -> Failed:
    mend = "memcached without -C (--disable-cas)"
    return Failed(StoreUnavailable("memcached cannot compare and set: it keeps no numbers", mend=mend))


def _expire(ttl: float) -> int:
    """Memcached's clock ticks in whole seconds and its next tick may come at once, so one more than asked."""
    span = math.ceil(ttl) + 1
    if span <= _LONGEST_SPAN:
        return span
    date = math.ceil(time.time() + ttl) + 1
    return date if date <= _LAST_DATE else 0  # never, rather than at once


@functools.cache
def _default_tls() -> ssl.SSLContext:
    """Made once, when first needed: reading the machine's authorities takes 20 ms."""
    import ssl

    return ssl.create_default_context()


def _nodes_in(url: str) -> tuple[list[tuple[str, int]], bool]:
    """Host and port of each node, and whether with TLS."""
    scheme, _, names = url.partition("://")
    if scheme.lower() not in ("memcached", "memcacheds"):
        raise _bad_url("the scheme is neither memcached:// nor memcacheds://")
    nodes: list[tuple[str, int]] = []
    listed = names.removesuffix("/").split(",")
    for place, name in enumerate(listed, 1):
        which = f"node {place} of {len(listed)}"
        node = _NODE.fullmatch(name)
        port = int(node["port"] or _DEFAULT_PORT) if node is not None else 0
        if node is None or not 0 < port < 65536:
            raise _bad_url(f"{which} is no host[:port]; nothing else may stand there, no credentials and no options")
        if (node["host"].lower(), port) in nodes:
            raise _bad_url(f"{which} stands there twice")
        nodes.append((node["host"].lower(), port))
    return nodes, scheme.lower() == "memcacheds"


def _bad_url(why: str) -> ConfigurationError:
    return ConfigurationError(
        "bad-store-url",
        "the addresses of the Memcached servers cannot be read",
        looked_at=f"the store's URL: {why}",
        mend="memcached://host[:port], memcached://h1:11211,h2:11211 for several, memcacheds://... for TLS",
    )
