"""Those who keep the result of a function, and those who show what the wire costs without them.

Each caches `load(key)`, an async function that brings a dict (dogpile.cache: a plain one), for ten minutes. A contender
is a `make`, which is given a `Task` and returns what is called with a key.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from benchmarks.asking import Contender, Place, Unfit
from benchmarks.contenders.raw import Socket, command
from benchmarks.contenders.sessions import contents, shared_state
from benchmarks.measuring import Run
from benchmarks.results import Role

TTL: Final = 600
OURS: Final = "serverless-session"
OURS_LOCAL: Final = "serverless-session, local"
FLOOR: Final = "redis-py"

Get = Callable[[str], Any]
Keys = Callable[[str], Callable[[], str]]
"""Makes a row of keys that begin with the given text, so that nobody meets the key of another."""

_proofs = count()


@dataclass(slots=True, kw_only=True)
class Task:
    """What a contender is to cache, and how often it was computed. `work`: seconds that it takes."""

    place: Place
    size: int
    tags: tuple[str, ...] = ()
    work: float = 0.0
    computed: int = 0
    kept: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kept = contents(self.size)

    async def load(self, key: str) -> dict[str, Any]:
        self.computed += 1
        if self.work:
            await asyncio.sleep(self.work)
        return self.kept

    def load_blocking(self, key: str) -> dict[str, Any]:
        self.computed += 1
        if self.work:
            time.sleep(self.work)
        return self.kept


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheContender:
    """`is_local`: it keeps values in the process. `guards`: it is set up so that one of many computes."""

    name: str
    role: Role
    make: Callable[[Task], Get]
    is_local: bool = False
    guards: bool = False
    takes_tags: bool = False
    note: str = ""

    @property
    def prefix(self) -> str:
        return re.sub(r"\W+", "-", self.name) + ":"

    def prepared(self, task: Task, next_key: Callable[[], str]) -> Run:
        """What calls it with one key after the other; it has shown that a value comes back without being computed."""
        get = self.make(task)
        if self.role is not Role.LIMIT:
            proof = f"{self.prefix}proof-{next(_proofs)}"
            first, second = self.get(get, task.place, proof), self.get(get, task.place, proof)
            if (self.role is not Role.FLOOR and not first == second == task.kept) or task.computed != 1:
                raise Unfit(f"computed {task.computed} times where once was enough, or brought another value")
        if not inspect.iscoroutinefunction(get):

            def run(calls: int) -> None:
                for _ in range(calls):
                    get(next_key())

            return run

        async def call() -> None:
            await get(next_key())

        return task.place.repeating(call)

    @staticmethod
    def get(get: Get, place: Place, key: str) -> Any:
        answer = get(key)
        return place.wait(answer) if inspect.isawaitable(answer) else answer


# --- the limit and the floor ------------------------------------------------------------------------------------------


def _bare_socket(task: Task) -> Get:
    wire = Socket(task.place)
    packed = json.dumps(task.kept, separators=(",", ":")).encode()

    def get(key: str) -> None:
        name = key.encode()
        if wire.ask(command(b"GET", name)) == b"$-1\r\n":
            wire.ask(command(b"SET", name, packed, b"EX", str(TTL).encode()))

    return get


def _redis_py(task: Task) -> Get:
    from redis.asyncio import Redis

    client = Redis.from_url(task.place.url, max_connections=512)
    task.place.close_with(client.aclose)
    packed = json.dumps(task.kept, separators=(",", ":")).encode()

    async def get(key: str) -> None:
        if await client.get(key) is None:
            await task.load(key)
            await client.set(key, packed, ex=TTL)

    return get


# --- ours -------------------------------------------------------------------------------------------------------------


def _ours(task: Task, **policy: Any) -> Get:
    from serverless_session import Cache, CachePolicy

    cache = Cache(shared_state(task.place), policy=CachePolicy(ttl=TTL, **policy))

    async def menu(key: str) -> dict[str, Any]:
        return await task.load(key)

    get: Get = cache.cached(tags=list(task.tags))(menu)
    return get


def _ours_local(task: Task) -> Get:
    return _ours(task, local_ttl=TTL)


# --- peers ------------------------------------------------------------------------------------------------------------


def _aiocache(task: Task) -> Get:
    from aiocache import RedisCache, cached

    return _aiocached(cached, RedisCache, task)


def _aiocache_guarded(task: Task) -> Get:
    from aiocache import RedisCache, cached_stampede

    return _aiocached(cached_stampede, RedisCache, task, lease=2)


def _aiocache_local(task: Task) -> Get:
    from aiocache import SimpleMemoryCache, cached

    return _aiocached(cached, SimpleMemoryCache, task)


def _aiocached(decorator: Any, backend: Any, task: Task, **more: Any) -> Get:
    from aiocache.serializers import JsonSerializer

    where = {"endpoint": "127.0.0.1", "port": task.place.port} if backend.__name__ == "RedisCache" else {}
    if where:
        more["serializer"] = JsonSerializer()
    decorate = decorator(
        ttl=TTL, cache=backend, namespace="menu", key_builder=lambda function, key: key, **more, **where
    )

    async def menu(key: str) -> dict[str, Any]:
        return await task.load(key)

    if where:
        task.place.close_with(decorate.cache.close if hasattr(decorate.cache, "close") else _nothing)
    get: Get = decorate(menu)
    return get


async def _nothing() -> None: ...


def _cashews(task: Task, url: str = "", **more: Any) -> Get:
    from cashews import Cache

    cache = Cache()
    cache.setup(url or task.place.url)
    task.place.wait(cache.init())
    task.place.close_with(cache.close)

    async def menu(key: str) -> dict[str, Any]:
        return await task.load(key)

    get: Get = cache(ttl=TTL, key="menu:{key}", tags=task.tags, **more)(menu)
    return get


def _cashews_guarded(task: Task) -> Get:
    return _cashews(task, lock=True)


def _cashews_local(task: Task) -> Get:
    return _cashews(task, "mem://")


def _dogpile(task: Task, **more: Any) -> Get:
    from dogpile.cache import make_region

    arguments = {"url": task.place.url, "redis_expiration_time": TTL + 30, **more}
    region = make_region().configure("dogpile.cache.redis", expiration_time=TTL, arguments=arguments)
    get: Get = region.cache_on_arguments()(_plain(task))
    return get


def _dogpile_guarded(task: Task) -> Get:
    return _dogpile(task, distributed_lock=True, thread_local_lock=False)


def _dogpile_local(task: Task) -> Get:
    from dogpile.cache import make_region

    region = make_region().configure("dogpile.cache.memory", expiration_time=TTL)
    get: Get = region.cache_on_arguments()(_plain(task))
    return get


def _plain(task: Task) -> Callable[[str], dict[str, Any]]:
    def menu(key: str) -> dict[str, Any]:
        return task.load_blocking(key)

    return menu


def _fastapi_cache(task: Task) -> Get:
    from fastapi_cache.backends.redis import RedisBackend
    from redis.asyncio import Redis

    client = Redis.from_url(task.place.url)
    task.place.close_with(client.aclose)
    return _fastapi_cached(task, RedisBackend(client))


def _fastapi_cache_local(task: Task) -> Get:
    from fastapi_cache.backends.inmemory import InMemoryBackend

    return _fastapi_cached(task, InMemoryBackend())


def _fastapi_cached(task: Task, backend: Any) -> Get:
    from fastapi_cache import FastAPICache
    from fastapi_cache.decorator import cache

    FastAPICache.reset()  # it is one for the process
    FastAPICache.init(backend, prefix="menu")

    async def menu(key: str) -> dict[str, Any]:
        return await task.load(key)

    get: Get = cache(expire=TTL)(menu)
    return get


_OLD_REDIS: Final = "its own extra asks for redis<5; measured beside redis-py 8, with which it works"

ALL: Final = (
    CacheContender(name="bare socket", role=Role.LIMIT, make=_bare_socket),
    CacheContender(name=FLOOR, role=Role.FLOOR, make=_redis_py),
    CacheContender(name=OURS, role=Role.OURS, make=_ours, takes_tags=True, guards=True),
    CacheContender(name=OURS_LOCAL, role=Role.OURS, make=_ours_local, is_local=True, note="`local_ttl=`"),
    CacheContender(name="aiocache", role=Role.PEER, make=_aiocache),
    CacheContender(
        name="aiocache, cached_stampede", role=Role.PEER, make=_aiocache_guarded, guards=True, note="`lease=2`"
    ),
    CacheContender(name="aiocache, memory", role=Role.PEER, make=_aiocache_local, is_local=True),
    CacheContender(name="cashews", role=Role.PEER, make=_cashews, takes_tags=True),
    CacheContender(name="cashews, lock=True", role=Role.PEER, make=_cashews_guarded, guards=True),
    CacheContender(name="cashews, memory", role=Role.PEER, make=_cashews_local, is_local=True),
    CacheContender(name="dogpile.cache", role=Role.PEER, make=_dogpile, note="synchronous; pickle"),
    CacheContender(
        name="dogpile.cache, distributed_lock",
        role=Role.PEER,
        make=_dogpile_guarded,
        guards=True,
        note="synchronous; pickle",
    ),
    CacheContender(
        name="dogpile.cache, memory", role=Role.PEER, make=_dogpile_local, is_local=True, note="synchronous"
    ),
    CacheContender(name="fastapi-cache2", role=Role.PEER, make=_fastapi_cache, note=_OLD_REDIS),
    CacheContender(name="fastapi-cache2, memory", role=Role.PEER, make=_fastapi_cache_local, is_local=True),
)


def racing(which: Callable[[CacheContender], bool], keys: Keys, **task: Any) -> list[Contender]:
    """Those of all that `which` takes."""

    def of(contender: CacheContender) -> Contender:
        def prepare(place: Place) -> Run:
            return contender.prepared(Task(place=place, **task), keys(contender.prefix))

        return Contender(name=contender.name, role=contender.role, prepare=prepare, note=contender.note)

    return [of(contender) for contender in ALL if which(contender)]
