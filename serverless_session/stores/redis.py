"""A store in Redis 6.2 or newer, or Valkey: commands and what their answers mean. `redis_links` carries them.

A value is kept as its 8-byte version followed by the bytes. Compare-and-set is a constant Lua script over that prefix,
sent as plain `EVAL`: it costs what `EVALSHA` costs (37 us each, measured) and knows no `NOSCRIPT`. Expiry is the
server's, in milliseconds. An answer that was lost is settled by sending the same operations once more over a new
connection.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from serverless_session.deadline import time_left
from serverless_session.errors import ConfigurationError, StoreUnavailable
from serverless_session.stores.contract import (
    ABSENT,
    ANYTHING,
    VERSION_BYTES,
    Conflict,
    Delete,
    Deleted,
    Expect,
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
from serverless_session.stores.redis_links import Command, RedisLink, connections_to
from serverless_session.stores.settling import Attempt, Call, LinkBroken, settle

# ARGV: the version expected ('' for absent), the new version and value, ttl in ms. 1: written. Else what stands there.
WRITE: Final = b"""\
local h=redis.call('GETRANGE',KEYS[1],0,7)
if h==ARGV[1] then redis.call('SET',KEYS[1],ARGV[2],'PX',ARGV[3]) return 1 end
if h==string.sub(ARGV[2],1,8) then return 1 end
return redis.call('GET',KEYS[1])"""

# ARGV: the version expected. 1: deleted. Else what stands there.
DELETE: Final = b"""\
if redis.call('GETRANGE',KEYS[1],0,7)==ARGV[1] then return redis.call('DEL',KEYS[1]) end
return redis.call('GET',KEYS[1])"""

_MENDS: dict[type[ResponseError], str] = {
    OutOfMemoryError: "more maxmemory, or maxmemory-policy volatile-lru if the server may forget",
    ReadOnlyError: "the primary's address; a replica cannot keep sessions",
    NoPermissionError: "an ACL that allows GET, MGET, SET, GETRANGE, DEL and EVAL on this namespace's keys",
}


class RedisStore(Store):
    """Keeps everything in one Redis or Valkey server, reached by `url` (`redis://`, `rediss://` or `unix://`).

    `max_connections`: the most that one event loop opens (16); further callers wait inside their deadline.
    `may_forget` (True): say False if the server runs with an append-only file and `noeviction`, so that features which
    need a claim to last may rely on it. Raises `ConfigurationError` for an address that cannot be one.
    """

    def __init__(self, url: str, *, max_connections: int = 16, may_forget: bool = True) -> None:
        try:
            factory = connections_to(url)
            _check_database(url)
        except (ValueError, TypeError, RedisError) as error:
            raise ConfigurationError(
                "bad-store-url",
                "the address of the Redis server cannot be read",
                looked_at=f"the store's URL ({type(error).__name__})",
                mend="redis://[user:password@]host[:port][/db], rediss://... for TLS, or unix:///path/to/socket",
            ) from None
        self._where = _address(factory.connection_kwargs)
        self._links = LinksByLoop(lambda: Links(lambda: RedisLink(factory), max_connections))
        self.limits = Limits(largest_value_bytes=16 * 1024 * 1024, may_forget=may_forget)

    async def aclose(self) -> None:
        await self._links.aclose()

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        refuse_repeated_keys(operations)
        call = Call(enumerate(operations), self.limits, server="redis", where=self._where)

        def carry(attempt: Attempt, ends: float, again: bool) -> Awaitable[None]:
            return self._links.here().carry(lambda link, _: _exchange(link, attempt), ends, again=again)

        await settle(call, carry, allowed=max(time_left(), 0.0))
        return [call.outcomes[place] for place in range(len(operations))]


async def _exchange(link: RedisLink, attempt: Attempt) -> None:
    """Several reads are one command: of 17, each would take 6 us. A list or set under a key is then Missing to them."""
    waiting = attempt.waiting
    reads = [place for place, operation in waiting.items() if type(operation) is Read]
    commands: list[Command] = []
    answering: list[list[int]] = []
    for place, operation in waiting.items():
        if len(reads) < 2 or type(operation) is not Read:
            commands.append(_command(operation))
            answering.append([place])
        elif place == reads[0]:
            commands.append((b"MGET", *[waiting[read].key for read in reads]))
            answering.append(reads)

    def answered(at: int, answer: object) -> None:
        places = answering[at]
        answers = answer if isinstance(answer, list) else [answer] * len(places)
        if len(answers) != len(places):
            raise LinkBroken("answered what no redis says")
        for place, one in zip(places, answers, strict=True):
            attempt.answer(place, _outcome(waiting[place], one))

    await link.carry(commands, lambda: attempt.send(*waiting), answered)


def _check_database(url: str) -> None:
    """redis-py takes a path that is no number for database 0."""
    parts = urlsplit(url)
    if parts.scheme != "unix" and not parts.path.strip("/").isdecimal() and parts.path.strip("/"):
        raise ValueError("the path is no number of a database")


def _address(settings: Mapping[str, object]) -> str:
    if "path" in settings:
        return "a unix socket"
    return f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"


def _command(operation: Operation) -> Command:
    match operation:
        case Read(key=key):
            return (b"GET", key)
        case Write(key=key, value=value, ttl=ttl, version=version, expect=expect):
            kept, milliseconds = version + value, math.ceil(ttl * 1000)
            if expect is ANYTHING:
                return (b"SET", key, kept, b"PX", milliseconds)
            expected = b"" if expect is ABSENT else bytes(expect)
            return (b"EVAL", WRITE, 1, key, expected, kept, milliseconds)
        case Delete(key=key, expect=expect):
            if expect is ANYTHING:
                return (b"DEL", key)
            return (b"EVAL", DELETE, 1, key, bytes(expect))


def _outcome(operation: Operation, answer: object) -> Outcome:
    """What an answer means. Raises `LinkBroken` where it cannot be one: then nothing is known of the operation."""
    if isinstance(answer, ResponseError):
        mend = next((mend for kind, mend in _MENDS.items() if isinstance(answer, kind)), "what the server's log says")
        return Failed(StoreUnavailable(f"redis refused a command ({type(answer).__name__})", mend=mend))
    match operation, answer:
        case Read(), None:
            return Missing()
        case Read(), bytes():
            return _found(answer)
        case (Write(), 1) | (Write(expect=Expect.ANYTHING), b"OK"):
            return Written()
        case Delete(), 1:
            return Deleted()
        case Delete(), None | 0:
            return Missing()
        case ((Write() | Delete()), (None | bytes())):
            return Conflict(Missing() if answer is None else _found(answer))
    raise LinkBroken("answered what no redis says")


def _found(kept: bytes) -> Found:
    return Found(kept[VERSION_BYTES:], Version(kept[:VERSION_BYTES].ljust(VERSION_BYTES, b"\0")))
