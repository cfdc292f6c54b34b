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
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError, MemcacheUnexpectedCloseError

from serverless_session.stores.links import CONNECT_SECONDS, has_something_to_read
from serverless_session.stores.settling import GivenUp, LinkBroken

Sent = Callable[[], None]
"""Called in the last moment before a command leaves; may raise to stop it."""

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Refused(Exception):
    """The server refused a command, for the reason it gives."""


class MemcachedLink:
    """One connection to `host`:`port`, opened at its first command; `threads` are where commands wait for answers."""

    def __init__(self, host: str, port: int, threads: ThreadPoolExecutor) -> None:
        self._host, self._port = host, port
        self._threads = threads
        self._lock = threading.Lock()
        self._busy = self._dropped = False
        self._begin()

    def _begin(self) -> None:
        self.life: object = object()
        self._wire = _Wire()
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
        self._ask(sent, self._client.set, key, kept, expire)

    def delete(self, key: str, sent: Sent) -> bool:
        """Remove whatever stands there. Did anything?"""
        # pymemcache's own `delete` takes whatever is answered, but DELETED, for "not found".
        # `end_tokens`: any other loses what it has of an answer that comes in pieces.
        answer = self._ask(sent, self._client.raw_command, f"delete {key}", b"")
        if answer not in (b"DELETED", b"NOT_FOUND"):
            raise LinkBroken("answered what no memcached says")
        return bool(answer == b"DELETED")

    def _ask(self, sent: Sent, command: Callable[..., Any], *arguments: Any) -> Any:
        self._wire.about_to_send = sent
        try:
            return command(*arguments)
        except (LinkBroken, GivenUp):
            raise
        except TimeoutError:
            if not self._wire.is_connected and time.monotonic() < self._wire.ends:
                raise LinkBroken("could not be connected") from None
            raise LinkBroken("did not answer", timed_out=True) from None
        except (OSError, MemcacheUnexpectedCloseError):
            raise LinkBroken("broke the connection" if self._wire.is_used else "could not be connected") from None
        except (MemcacheServerError, MemcacheClientError) as refusal:
            reason = refusal.args[0] if refusal.args and isinstance(refusal.args[0], bytes) else b""
            ends = self._wire.ends
            self._begin()  # pymemcache has closed its connection
            self._wire.ends = ends
            raise Refused(reason.decode("ascii", "replace")) from None
        except Exception:  # noqa: BLE001  what no memcached says makes pymemcache's parser raise anything, with keys in it
            raise LinkBroken("answered what no memcached says") from None


class _Wire:
    """What pymemcache takes for the module `socket` and for the one socket that it makes with it.

    `ends` (monotonic) is when every wait of it ends. It connects to the first address that answers, where pymemcache
    itself would try only the first.
    """

    AF_UNSPEC, SOCK_STREAM, IPPROTO_TCP = socket.AF_UNSPEC, socket.SOCK_STREAM, socket.IPPROTO_TCP

    def __init__(self) -> None:
        self.ends = 0.0
        self.about_to_send: Sent = lambda: None
        self.is_connected = self.is_used = False
        self._socket: socket.socket | None = None
        self._is_made = False

    def _left(self) -> float:
        left = self.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    # --- as a module --------------------------------------------------------------------------------------------------

    def getaddrinfo(self, host: str, port: int, *_: object) -> list[tuple[int, int, int, str, object]]:
        return [(0, 0, 0, "", _addresses(host, port, min(self._left(), CONNECT_SECONDS)))]

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
        connect_ends = min(self.ends, time.monotonic() + CONNECT_SECONDS)
        for family, address in addresses:
            self._socket = socket.socket(family, socket.SOCK_STREAM)
            try:
                self._socket.settimeout(max(connect_ends - time.monotonic(), 0.001))
                self._socket.connect(address)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                failure = error
                self._socket.close()
            else:
                self.is_connected = True
                return
        raise failure

    def sendall(self, data: bytes) -> None:
        assert self._socket is not None
        self._socket.settimeout(self._left())
        self.about_to_send()
        self.is_used = True
        self._socket.sendall(data)

    def recv(self, size: int) -> bytes:
        assert self._socket is not None
        self._socket.settimeout(self._left())
        return self._socket.recv(size)

    def close(self) -> None:
        """At once, with a reset: what the kernel has not delivered yet must not arrive after the call was given up."""
        if self._socket is not None and self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._socket.close()

    # --- for the link -------------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """End a wait in another thread. `close` does not: it would go on for as long as it may."""
        with contextlib.suppress(OSError):  # it is not connected yet, or no longer
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)

    def is_quiet(self) -> bool:
        if self._socket is None or self._socket.fileno() < 0:
            return False
        return not has_something_to_read(self._socket.fileno())


# --- names to addresses -----------------------------------------------------------------------------------------------
# `getaddrinfo` knows no deadline, so it waits in a thread that nobody has to wait for, one for each name.

_Addresses = Sequence[tuple[int, tuple[Any, ...]]]

_lookups: dict[tuple[str, int], Future[_Addresses]] = {}
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
        lookup = _lookups.get((host, port))
        if lookup is None:
            lookup = _lookups[host, port] = Future()
            threading.Thread(target=_look_up, args=(host, port, lookup), daemon=True, name="getaddrinfo").start()
    return lookup.result(seconds)


def _look_up(host: str, port: int, lookup: Future[_Addresses]) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        lookup.set_result([(family, address) for family, _, _, _, address in found])
    except (OSError, UnicodeError):
        lookup.set_exception(socket.gaierror(socket.EAI_NONAME, "no address is known for it"))
    finally:
        with _lookups_lock:
            _lookups.pop((host, port), None)
