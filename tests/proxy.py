"""A proxy on loopback: each connection of a client is continued by one of its own to the server behind it.

What passes, when, and what is made of it, decides a `Link`; here is only how the two sides are joined. `with` runs the
proxy in a thread and a loop of its own, `async with` in the loop of the test.
"""

import asyncio
import socket
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Protocol, Self

LOOPBACK = "127.0.0.1"


class Link(Protocol):
    """A client's connection to the proxy and the one that continues it to the server."""

    def server_joined(self, server: asyncio.Transport) -> None: ...

    def client_joined(self, client: asyncio.Transport) -> None: ...

    def client_spoke(self, data: bytes) -> None: ...

    def server_spoke(self, data: bytes) -> None: ...

    def client_left(self) -> None: ...

    def server_left(self) -> None: ...

    def abort(self) -> None:
        """Drop both sides; called when the proxy ends, and when one side cannot be joined."""


class Proxy:
    """Joins clients to `port` on this machine, each by a link that `new_link` makes."""

    def __init__(self, port: int, new_link: Callable[[], Link]) -> None:
        self._server_port = port
        self._new_link = new_link
        self._links = weakref.WeakSet[Link]()  # each lives as long as one of its sides does
        self._joining = set[asyncio.Task[None]]()
        self._listener: socket.socket | None = None

    @property
    def port(self) -> int:
        port: int = self._reserved.getsockname()[1]
        return port

    async def __aenter__(self) -> Self:
        # Bound for as long as the proxy lives and never listening, so that the port stays ours while the door is shut.
        self._reserved = _bound(0)
        self.open_door()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shut_door()
        self._reserved.close()
        await asyncio.gather(*self._joining)
        await self._drop_all()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self.__aenter__(), self._loop).result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self.__aexit__(kind, error, trace), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def open_door(self) -> None:
        """Listen, in the loop that runs this."""
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen(128)
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def shut_door(self) -> None:
        """Refuse whoever knocks, until it is opened again. Who is inside stays."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def cut(self) -> None:
        """Drop whoever is inside; the door stays open. For tests in whose thread the proxy does not run."""
        asyncio.run_coroutine_threadsafe(self._drop_all(), self._loop).result()

    async def _drop_all(self) -> None:
        for link in list(self._links):
            link.abort()
        await asyncio.sleep(0)  # an aborted transport closes its socket in the loop's next turn

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        link = self._new_link()
        self._links.add(link)
        joining = asyncio.get_running_loop().create_task(self._join(client, link))
        self._joining.add(joining)
        joining.add_done_callback(self._joining.discard)

    async def _join(self, client: socket.socket, link: Link) -> None:
        loop = asyncio.get_running_loop()
        client.setblocking(False)
        with suppress(OSError), ExitStack() as undo:
            undo.callback(client.close)
            undo.callback(link.abort)
            # The server's side first: so no byte of the client comes before there is a place for it.
            server = partial(_Side, link.server_joined, link.server_spoke, link.server_left)
            await loop.create_connection(server, LOOPBACK, self._server_port)
            side = partial(_Side, link.client_joined, link.client_spoke, link.client_left)
            await loop.connect_accepted_socket(side, client)
            undo.pop_all()


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setblocking(False)
    bound.bind((LOOPBACK, port))
    return bound


class _Side(asyncio.Protocol):
    def __init__(
        self, joined: Callable[[asyncio.Transport], None], spoke: Callable[[bytes], None], left: Callable[[], None]
    ) -> None:
        self._joined, self._spoke, self._left = joined, spoke, left

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._joined(transport)

    def data_received(self, data: bytes) -> None:
        self._spoke(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._left()
