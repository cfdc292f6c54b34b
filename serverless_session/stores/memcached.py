"""A store in Memcached: which node keeps what. `memcached_conversation` speaks with it, over `memcached_links`.

Keys never move to another node: rendezvous hashing over the names of the nodes, in which a dead one keeps its keys, and
they are `StoreUnavailable`. A node that is taken off the list and comes back with its memory would bring back what was
deleted meanwhile, so it is flushed first. Nodes are asked side by side.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from serverless_session.deadline import may_block, time_left
from serverless_session.errors import ConfigurationError
from serverless_session.stores.contract import (
    Limits,
    Operation,
    Outcome,
    Store,
    refuse_repeated_keys,
)
from serverless_session.stores.links import Links, LinksByLoop
from serverless_session.stores.memcached_conversation import Conversation, hints_of
from serverless_session.stores.memcached_links import MemcachedLink
from serverless_session.stores.settling import Attempt, Call, settle

if TYPE_CHECKING:
    import ssl

LARGEST_VALUE_BYTES: Final = 1024 * 1024 - 1024
"""What a server with the default `-I 1m` takes in any case: 1,048,316 bytes with a key of 200 characters, measured."""

_DEFAULT_PORT: Final = 11211
_NODE: Final = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?")


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
                return link.run(lambda link: Conversation(link, attempt).hold(), ends, here=here)

            life = next((version.life for version in hints_of(attempt.waiting.values())), None)
            return self.links.here().carry(talk, ends, again=again, life=life)

        await settle(call, carry, allowed=allowed)


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
