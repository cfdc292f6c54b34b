"""The page on an address, until it is interrupted; then everything that it wrote is removed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from serverless_session.codec.keys import KeyRing
from serverless_session.demo.beside import described, opener, probe, remove
from serverless_session.demo.page.front import front
from serverless_session.demo.page.guard import LOOPBACK
from serverless_session.demo.page.local_store import LocalStore
from serverless_session.demo.page.observing import Book, ObservedStore
from serverless_session.demo.page.shop import Backstage, shop
from serverless_session.errors import ConfigurationError
from serverless_session.shared import SharedState
from serverless_session.stores.contract import Store

LOCAL: Final = "local"
"""In the place of a store's address: a server that the demo starts."""

COPIES: Final = ("A", "B")
USUAL_PORT: Final = 8000
SECONDS_TO_END: Final = 2


def serve(
    store: Store | str = "memory://",
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    ready: Callable[[str, str], None] = lambda address, store: None,
) -> None:
    """Serve the shop over `store`, a URL, a `Store` or "local", until SIGINT or SIGTERM.

    `port`: 0 takes any that is free, and so does None where 8000 is taken. `ready` is called with the page's address
    and the store's name once requests are accepted. Raises `ConfigurationError` for a store that does not answer, and
    for an address that cannot be listened on.
    """
    with contextlib.closing(_listening(host, port)) as listening:
        asyncio.run(_serve(store, host, listening, ready))


async def _serve(store: Store | str, host: str, listening: socket.socket, ready: Callable[[str, str], None]) -> None:
    async with _opened(store) as (location, local):
        backstage = Backstage(store=_named(location, local), book=Book(), copies=COPIES, local=local)
        states = shared_by_copies(opener(location), backstage)
        beside = states[0]
        await probe(beside.store, f"{beside.namespace}:probe")
        app = open_shop(states, backstage, hosts=_hosts(host))
        try:
            await _run(app, listening, lambda: ready(_address(listening), backstage.store))
        finally:
            await remove(beside.store, backstage.book.written)
            for shared in states:
                await shared.aclose()


def shared_by_copies(open_store: Callable[[], Store], backstage: Backstage) -> list[SharedState]:
    """What each copy holds of what all share: a connection of its own to the same records."""
    namespace, keys = f"demo-{os.urandom(4).hex()}", KeyRing(os.urandom(32).hex())
    return [
        SharedState(
            ObservedStore(open_store(), backstage.book, sessions=f"{namespace}:session:"),
            secret_key=keys,
            namespace=namespace,
        )
        for _ in backstage.copies
    ]


def open_shop(states: Sequence[SharedState], backstage: Backstage, *, hosts: frozenset[str] | None) -> ASGIApp:
    """All of the page: a copy of the shop for each state, and the front. `hosts`: as of the `Guard`."""
    copies = [shop(name, shared, backstage) for name, shared in zip(backstage.copies, states, strict=True)]
    return front(copies, backstage, states[0], hosts=hosts)


@contextlib.asynccontextmanager
async def _opened(store: Store | str) -> AsyncIterator[tuple[Store | str, LocalStore | None]]:
    """The store to use; and its server, if it is the demo's own."""
    if store != LOCAL:
        yield store, None
        return
    local = LocalStore()
    try:
        await local.start()
        yield local.url, local
    finally:
        local.close()


async def _run(app: ASGIApp, listening: socket.socket, ready: Callable[[], None]) -> None:
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.handle_exit, number, None)
    ready()
    await server.serve(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends when it is told to, and leaves it at that: uvicorn's own raises the signal again, before we have cleaned."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listening(host: str, port: int | None) -> socket.socket:
    if port is None:
        with contextlib.suppress(OSError):
            return _bound(host, USUAL_PORT)
    try:
        return _bound(host, port or 0)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            "cannot-listen",
            f"port {port or 0} of {host} cannot be listened on ({getattr(error, 'strerror', None) or error})",
            looked_at="--host, --port",
            mend="--port 0, which takes any that is free, and no --host",
        ) from None


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
    except BaseException:
        listening.close()
        raise
    return listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _hosts(host: str) -> frozenset[str] | None:
    return LOOPBACK if host in ("127.0.0.1", "localhost", "::1") else None


def _named(store: Store | str, local: LocalStore | None) -> str:
    if local is not None:
        return f"{local.name}, started by the demo at {local.url}"
    return described(store)
