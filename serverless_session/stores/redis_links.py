"""What carries commands to Redis: redis-py's asyncio connections, one burst at a time. `links` pools them.

This module knows nothing of what commands mean. A burst is written in one piece and its answers are handed on in order,
each as it comes, so that the store can tell what is settled from what is not when the connection breaks. redis-py's own
client, pool and pipeline are left out on purpose: they retry without a deadline, fail at the 101st concurrent call, and
throw away answers already read when the link breaks. Its `Connection` is used as it comes, with `protocol=2` and
`driver_info=None`: the first answer of a new connection takes 1 exchange instead of 5.
"""

from __future__ import annotations

import contextlib
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

from serverless_session.stores.links import CONNECT_SECONDS, has_something_to_read
from serverless_session.stores.settling import LinkBroken

Command = tuple[bytes | str | int, ...]

_REFUSALS = (AuthenticationError, AuthorizationError, BusyLoadingError)


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
        self.life: object = self

    async def carry(
        self, commands: Sequence[Command], sent: Callable[[], None], answered: Callable[[int, object], None]
    ) -> None:
        """Write `commands` in one piece and read their answers.

        `sent()` is called before the first byte leaves, `answered(place, answer)` for each answer, a server's refusal
        as its exception. Raises `LinkBroken` if they were not all answered.
        """
        is_sent = False
        try:
            await self._connection.connect()
            packed = self._connection.pack_commands(commands)
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
            if isinstance(error, _REFUSALS):
                raise LinkBroken(f"refused the connection ({type(error).__name__})", refused=True) from None
            raise LinkBroken("broke the connection" if is_sent else "could not be connected") from None

    async def is_quiet(self) -> bool:
        # redis-py looks into the loop's buffer; what came while the loop stood still, only the socket knows.
        writer = self._connection._writer
        if writer is None or has_something_to_read(writer.get_extra_info("socket").fileno()):
            return False
        return not await self._connection.can_read()

    async def drop(self) -> None:
        with contextlib.suppress(RedisError, OSError, AttributeError):
            await self._connection.disconnect(nowait=True)
