"""What carries commands to Memcached: pymemcache's client, one command at a time. `links` pools them.

pymemcache blocks, and its time-outs are for each call of its socket: bytes that trickle in stretch them without end. So
it is given sockets that know when their call must end, through its public `socket_module=`, and it runs in threads of
our own, or on the loop itself where the host says that this is fine (22 us a command instead of 90). A client makes one
connection and is dropped with it after any exception; a thread that a cancelled call has left behind is freed by
shutting its socket down. `default_noreply=False`: the default answers every `add` with "stored".

A command is answered, or `Refused` by the server, or its link is broken; what commands mean is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError, MemcacheUnexpectedCloseError

from serverless_session.stores.links import CONNECT_SECONDS, RESET_ON_CLOSE, has_something_to_read, not_connected
from serverless_session.stores.settling import GivenUp, LinkBroken

if TYPE_CHECKING:
    import ssl

Sent = Callable[[], None]
"""Called in the last moment before a command leaves; may raise to stop it."""

_MOST_LOOKUPS: Final = 16
"""Of one name at a time."""

_NOT_FOUND: Final = b"NOT_FOUND\r\n"
_UNEXECUTED: Final = (b"out of memory", b"object too large")
"""How a server begins its errors where it did nothing. Others come from proxies, "backend timeout": it may be done."""
_JUNK: Final = "answered what no memcached says"


class Refused(Exception):
    """The server refused a command and did nothing, for the reason it gives."""


class MemcachedLink:
    """One connection to `host`:`port`, opened at its first command.

    `threads`: where commands wait for answers. `tls`: gives the context of a connection with TLS.
    """

    def __init__(
        self, host: str, port: int, threads: ThreadPoolExecutor, tls: Callable[[], ssl.SSLContext] | None
    ) -> None:
        self._host, self._port = host, port
        self._threads = threads
        self._tls = tls
        self._lock = threading.Lock()
        self._busy = self._dropped = False
        self._begin()

    def _begin(self, ends: float = 0.0) -> None:
        self.life: object = object()
        self._wire = _Wire(self._host, self._tls, ends)
        self._client = Client(
            (self._host, self._port),
            socket_module=self._wire,
            default_noreply=False,
        )

    async def run(self, work: Callable[[MemcachedLink], None], ends: float, *, here: bool) -> None:
        """`work(self)`, which calls the methods below, until `ends` on the loop's clock. `here`: on the loop itself."""
        loop = asyncio.get_running_loop()
        self._wire.ends = time.monotonic() + ends - loop.time()
        if here:
            self._work(work)
        else:
            await loop.run_in_executor(self._threads, self._work, work)

    def _work(self, work: Callable[[MemcachedLink], None]) -> None:
        with self._lock:
            if self._dropped:
                raise GivenUp
            self._busy = True
        try:
            work(self)
        finally:
            with self._lock:
                self._busy = False
                if self._dropped:
                    self._wire.close()

    async def is_quiet(self) -> bool:
        return self._wire.is_quiet()

    async def drop(self) -> None:
        with self._lock:
            self._dropped = True
            if self._busy:
                self._wire.interrupt()
            else:
                self._wire.close()

    # --- commands; only within `run` ----------------------------------------------------------------------------------

    def look(self, keys: Sequence[str], sent: Sent) -> dict[str, tuple[bytes, bytes]]:
        """What stands under `keys`, each with the server's number for it. Keys that are missing are left out."""
        found: dict[str, tuple[bytes, bytes]] = self._ask(sent, self._client.gets_many, keys)
        return found

    def add(self, key: str, kept: bytes, expire: int, sent: Sent) -> bool:
        """Put it there if nothing stands there. Was it?"""
        return bool(self._ask(sent, self._client.add, key, kept, expire))

    def replace(self, key: str, kept: bytes, number: bytes, expire: int, sent: Sent) -> bool | None:
        """Put it there if what stands there still has this number. False: another; None: nothing stands there."""
        stored = self._ask(sent, self._client.cas, key, kept, number, expire)
        return None if stored is None else bool(stored)

    def remove(self, key: str, number: bytes, sent: Sent) -> bool | None:
        """Remove what has this number; answers as `replace`. There is no such command: it is replaced by the dead."""
        return self.replace(key, b"", number, -1, sent)

    def put(self, key: str, kept: bytes, expire: int, sent: Sent) -> None:
        """Put it there, whatever stands there."""
        if not self._ask(sent, self._client.set, key, kept, expire):
            raise LinkBroken(_JUNK)  # NOT_STORED, from a proxy

    def delete(self, key: str, sent: Sent) -> bool:
        """Remove whatever stands there. Did anything?"""
        deleted = bool(self._ask(sent, self._client.delete, key))
        if not deleted and self._wire.heard != _NOT_FOUND:  # pymemcache takes any line for it, a web server's too
            raise LinkBroken(_JUNK)
        return deleted

    def _ask(self, sent: Sent, command: Callable[..., Any], *arguments: Any) -> Any:
        self._wire.about_to_send = sent
        try:
            return command(*arguments)
        except (LinkBroken, GivenUp):
            raise
        except TimeoutError:
            raise LinkBroken("did not answer", timed_out=True) from None
        except (OSError, MemcacheUnexpectedCloseError) as error:
            raise (LinkBroken("broke the connection") if self._wire.is_used else not_connected(error)) from None
        except (MemcacheServerError, MemcacheClientError) as refusal:
            reason = refusal.args[0] if refusal.args and isinstance(refusal.args[0], bytes) else b""
            if isinstance(refusal, MemcacheServerError) and not reason.lower().startswith(_UNEXECUTED):
                raise LinkBroken("answered with an error") from None
            with self._lock:
                self._begin(self._wire.ends)  # pymemcache has closed its connection; `drop` may have ended its time
            raise Refused(reason.decode("ascii", "replace")) from None
        except Exception:  # noqa: BLE001  what no memcached says makes pymemcache's parser raise anything, with keys in it
            raise LinkBroken(_JUNK) from None


class _Wire:
    """What pymemcache takes for the module `socket` and for the one socket that it makes with it.

    `ends` (monotonic) is when every wait of it ends; `heard`, the first bytes since something was sent. It connects to
    the first address that answers, where pymemcache itself would try only the first.
    """

    AF_UNSPEC, SOCK_STREAM, IPPROTO_TCP = socket.AF_UNSPEC, socket.SOCK_STREAM, socket.IPPROTO_TCP

    def __init__(self, host: str, tls: Callable[[], ssl.SSLContext] | None, ends: float) -> None:
        self._host = host
        self._tls = tls
        self.ends = ends
        self.about_to_send: Sent = lambda: None
        self.is_used = False
        self.heard = b""
        self._socket: socket.socket | None = None
        self._is_made = False
        self._connect_ends = 0.0

    def _left(self) -> float:
        left = self.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _connect_left(self) -> float:
        return max(self._connect_ends - time.monotonic(), 0.001)

    def _not_connected(self) -> ConnectionError:
        """After a wait that ended: the error, unless it was the call's own time that was over."""
        self._left()
        return ConnectionAbortedError()

    # --- as a module --------------------------------------------------------------------------------------------------

    def getaddrinfo(self, host: str, port: int, *_: object) -> list[tuple[int, int, int, str, object]]:
        self._connect_ends = min(self.ends, time.monotonic() + CONNECT_SECONDS)
        try:
            return [(0, 0, 0, "", _addresses(host, port, self._connect_left()))]
        except TimeoutError:
            raise self._not_connected() from None

    def socket(self, *_: object) -> _Wire:
        if self._is_made:
            raise ConnectionAbortedError  # a client that connects again would take one server's number to another
        self._is_made = True
        return self

    # --- as a socket --------------------------------------------------------------------------------------------------

    def settimeout(self, _: object) -> None:
        """pymemcache's own, for each call of the socket; ours is the end of all of them."""

    def connect(self, addresses: Sequence[tuple[int, tuple[Any, ...]]]) -> None:
        failure: OSError = ConnectionRefusedError()
        for place, (family, address) in enumerate(addresses):
            self._socket = socket.socket(family, socket.SOCK_STREAM)
            try:
                self._socket.settimeout(self._connect_left() / (len(addresses) - place))  # one may swallow what comes
                self._socket.connect(address)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    self._socket.settimeout(self._connect_left())
                    self._socket = self._tls().wrap_socket(self._socket, server_hostname=self._host)
            except OSError as error:
                self._socket.close()
                failure = self._not_connected() if isinstance(error, TimeoutError) else error
            else:
                return
        raise failure

    def sendall(self, data: bytes) -> None:
        assert self._socket is not None
        self._socket.settimeout(self._left())
        self.about_to_send()
        self.is_used = True
        self.heard = b""
        self._socket.sendall(data)

    def recv(self, size: int) -> bytes:
        assert self._socket is not None
        self._socket.settimeout(self._left())
        piece = self._socket.recv(size)
        if len(self.heard) < len(_NOT_FOUND):
            self.heard += piece[: len(_NOT_FOUND)]
        return piece

    def close(self) -> None:
        """At once, with a reset: see `links`."""
        if self._socket is not None and self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self._socket.close()

    # --- for the link -------------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """End a wait in another thread, and the next. `close` does not: it would go on for as long as it may."""
        self.ends = 0.0  # if it has not begun to wait yet
        with contextlib.suppress(OSError):  # it is not connected yet, or no longer
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)

    def is_quiet(self) -> bool:
        if self._socket is None or self._socket.fileno() < 0:
            return False
        return not has_something_to_read(self._socket.fileno())


# --- names to addresses -----------------------------------------------------------------------------------------------
# `getaddrinfo` knows no deadline, so it waits in a thread that nobody has to wait for. One that lasts longer than we
# wait for connections may have lost its question, and asks again after 5 s (glibc): the next caller begins another.

_Addresses = Sequence[tuple[int, tuple[Any, ...]]]


class _Lookup(Future[_Addresses]):
    """The addresses for a name."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._asked = host, port
        self.begun = time.monotonic()
        threading.Thread(target=self._ask, daemon=True, name="getaddrinfo").start()

    def _ask(self) -> None:
        try:
            found = socket.getaddrinfo(*self._asked, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            found = []
        with _lookups_lock:  # before it answers: who asks after that is not given this answer
            if self in (running := _lookups[self._asked]):
                running.remove(self)
        if found:
            self.set_result([(family, address) for family, _, _, _, address in found])
        else:
            self.set_exception(socket.gaierror(socket.EAI_NONAME, "no address is known for it"))


_lookups: defaultdict[tuple[str, int], list[_Lookup]] = defaultdict(list)
_lookups_lock = threading.Lock()


def _forget_lookups() -> None:
    global _lookups_lock
    _lookups_lock = threading.Lock()
    _lookups.clear()


os.register_at_fork(after_in_child=_forget_lookups)


def _addresses(host: str, port: int, seconds: float) -> _Addresses:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return [(family, (host, port))]
    with _lookups_lock:
        running = _lookups[host, port]
        is_lost = running and time.monotonic() - running[-1].begun >= CONNECT_SECONDS
        if not running or (is_lost and len(running) < _MOST_LOOKUPS):
            running.append(_Lookup(host, port))
        lookup = running[-1]
    return lookup.result(seconds)
