"""What carries commands to Redis: redis-py's asyncio connections, one burst at a time. `links` pools them.

This module knows nothing of what commands mean. A burst is written in one piece and its answers are handed on in order,
each as it comes, so that the store can tell what is settled from what is not when the connection breaks. redis-py's own
client, pool and pipeline are left out on purpose: they retry without a deadline, fail at the 101st concurrent call, and
throw away answers already read when the link breaks. Its `Connection` is used as it comes, with `protocol=2` and
`driver_info=None`: the first answer of a new connection takes 1 exchange instead of 5.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    RedisError,
    ResponseError,
)

from serverless_session.stores.links import CONNECT_SECONDS, RESET_ON_CLOSE, has_something_to_read, not_connected
from serverless_session.stores.settling import LinkBroken

Command = tuple[bytes | str | int, ...]

_REFUSALS = (AuthenticationError, AuthorizationError, BusyLoadingError)
_TOO_MANY = "max number of clients reached"
"""What the server says before it has read anything; redis-py makes a `ConnectionError` of it."""


def connections_to(url: str) -> ConnectionPool:
    """What makes connections to `url`; nothing is connected. Raises redis-py's errors for what is no address."""
    factory = ConnectionPool.from_url(
        url,
        protocol=2,
        driver_info=None,
        socket_timeout=None,
        socket_connect_timeout=CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    factory.make_connection()
    return factory


class RedisLink:
    """One connection, opened at its first burst."""

    def __init__(self, factory: ConnectionPool) -> None:
        connection = factory.make_connection()
        assert isinstance(connection, AbstractConnection)
        self._connection = connection
        self._writer: asyncio.StreamWriter | None = None
        self.life: object = object()

    async def carry(
        self, commands: Sequence[Command], sent: Callable[[], None], answered: Callable[[int, object], None]
    ) -> None:
        """Write `commands` in one piece and read their answers.

        `sent()` is called before the first byte leaves, `answered(place, answer)` for each answer, a server's refusal
        as its exception. Raises `LinkBroken` if they were not all answered.
        """
        is_sent = False
        try:
            if not self._connection.is_connected:
                await self._connection.connect()
                # redis-py has no public way to it, and lets go of it before we could reset it. Without, we only close.
                self._writer = getattr(self._connection, "_writer", None)
            packed = b"".join(map(_packed, commands))
            is_sent = True
            sent()
            await self._connection.send_packed_command(packed, check_health=False)
            for place in range(len(commands)):
                try:
                    answer: object = await self._connection.read_response(disable_decoding=True)
                except ResponseError as refusal:
                    answer = refusal
                answered(place, answer)
        # AttributeError: redis-py 8.1 on a reset, Python 3.12.1; ValueError: from its parser, at what is no Redis
        except (RedisError, OSError, AttributeError, ValueError, RecursionError) as error:
            if isinstance(error, _REFUSALS) or _TOO_MANY in str(error):
                why = _TOO_MANY if _TOO_MANY in str(error) else type(error).__name__
                raise LinkBroken(f"refused the connection ({why})", refused=True) from None
            raise (LinkBroken("broke the connection") if is_sent else not_connected(error)) from None

    async def is_quiet(self) -> bool:
        # redis-py looks into the loop's buffer. Of a reset, and of what came while the loop stood, it does not know.
        if self._writer is not None and has_something_to_read(self._writer.get_extra_info("socket").fileno()):
            return False
        return self._connection.is_connected and not await self._connection.can_read()

    async def drop(self) -> None:
        # redis-py closes in peace: a large write would go on, and its socket stay open, until the server has read it.
        if self._writer is not None:
            # Of a socket that is gone (uvloop: ValueError), or not quite one.
            with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
                self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self._writer.transport.abort()
        with contextlib.suppress(RedisError, OSError, AttributeError):
            await self._connection.disconnect(nowait=True)


def _packed(command: Command) -> bytes:
    """A command as the protocol has it: 2 us, where redis-py's `pack_command` takes 12."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])
