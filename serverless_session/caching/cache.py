"""`Cache`: values that are computed once and found again by everybody.

Between processes, leases see to it that one computes (`records.leases`); within one, those who ask at the same time
share a look (`flights`). A store that fails costs next to nothing (`guarded`): values are computed as if there were no
cache. What changes what is kept is never swallowed like that: it is done, or it raises.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar, overload

from serverless_session.caching.answers import PATIENCE_WITH_OTHERS, Answered, Loaded, Wanted, answered
from serverless_session.caching.computation import is_computing, loader
from serverless_session.caching.context import CacheContext
from serverless_session.caching.flights import Flights, Impatient, Shared, alone
from serverless_session.caching.functions import CacheDecorator, Keeper, decorated
from serverless_session.caching.guarded import GuardedStore
from serverless_session.caching.keys import CallKey, key_bytes
from serverless_session.caching.local import LocalLevel
from serverless_session.caching.lookup import Lookup
from serverless_session.caching.policy import CachePolicy
from serverless_session.caching.shapes import ANYTHING, Shape, shape_of
from serverless_session.caching.signatures import KeyPaths
from serverless_session.caching.stats import Answer, CacheStats, Counters
from serverless_session.codec.keys import SecretKey
from serverless_session.deadline import Duration, seconds
from serverless_session.errors import ConfigurationError, StoreError
from serverless_session.records import leases
from serverless_session.records import tags as tags_
from serverless_session.records.leases import Computed, Place, Unfit
from serverless_session.records.records import Records
from serverless_session.shared import SharedState
from serverless_session.stores.contract import Store

_T = TypeVar("_T")
_D = TypeVar("_D")
_K = TypeVar("_K", bound=Hashable)

LOCAL_BYTES: Final = 16 * 1024 * 1024


class Cache:
    """Keeps values in the store of `shared`; `store=` and `secret_key=` are short for a SharedState of its own.

    `ttl`, or a whole `policy`: how long values are kept, unless a function or a call says otherwise. `name`: tells
    caches apart that share a store and have the same keys. `local_bytes` (16 MiB): the most that this process holds of
    values whose policy has a `local_ttl`. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        shared: SharedState | None = None,
        *,
        store: str | Store | None = None,
        secret_key: SecretKey | None = None,
        ttl: Duration | None = None,
        policy: CachePolicy | None = None,
        name: str = "",
        local_bytes: int = LOCAL_BYTES,
    ) -> None:
        if shared is not None and (store is not None or secret_key is not None):
            raise ConfigurationError(
                "two-stores", "shared= already says where", looked_at="shared=, store=, secret_key=", mend="one of them"
            )
        if shared is not None and not isinstance(shared, SharedState):
            raise ConfigurationError(
                "bad-shared",
                f"a cache needs a SharedState, and was given a {type(shared).__name__}",
                looked_at="shared=",
                mend="Cache(SharedState(...)), or Cache(store=URL)",
            )
        if store is not None or secret_key is not None:
            shared = SharedState(store, secret_key=secret_key)
        self._shared = shared if shared is not None else SharedState.default()
        self._policy = _one_policy(ttl, policy, None)
        if type(local_bytes) is not int or local_bytes < 0:
            raise ConfigurationError(
                "bad-size",
                "what a process holds is bounded by a number of bytes",
                looked_at="local_bytes=",
                mend="local_bytes=16_777_216",
            )
        self._name = name.encode()
        self._local = LocalLevel(local_bytes, wall=lambda: self._shared.clock.time())
        self._flights: Flights[Answered] = Flights(
            lambda answered: answered.for_all, lambda answered: answered.answer is Answer.WAIT
        )
        self._seen: dict[str, _Seen] = {}
        self._here = _Here(self._local, self._flights, self._seen)
        self._shared.add_holder(self._here)
        self._counters = Counters()

    def stats(self) -> CacheStats:
        """What it has answered in this process so far."""
        return self._counters.stats()

    # --- values that are computed -------------------------------------------------------------------------------------

    def cached(
        self,
        *,
        ttl: Duration | None = None,
        tags: Sequence[str] = (),
        key: KeyPaths | None = None,
        policy: CachePolicy | None = None,
    ) -> CacheDecorator:
        """Keep what a function returns. Async or not; a method needs `key=`.

        `ttl`: in the place of that of the cache's policy; `policy`: in the place of all of it. `tags`: what its values
        belong to, with parts of the call in braces: `["menu", "product:{product_id}"]`. `key`: what tells one call from
        another, if that is not all of its arguments: a path as `"user.id"`, several, or a function of the same
        arguments. Raises `ConfigurationError` where a value could not be told, kept or restored.
        """
        chosen, keeper = self._chosen(ttl, policy), Keeper(self._held, self._answer, self.invalidate)

        def decorate(function: Callable[..., Any]) -> Any:
            return decorated(keeper, function, chosen, tags, key)

        return decorate

    @overload
    async def get_or_compute(
        self,
        key: Hashable,
        compute: Callable[[CacheContext], Awaitable[_T]],
        *,
        ttl: Duration | None = None,
        tags: Sequence[str] = (),
        type: type[_T] | None = None,
        policy: CachePolicy | None = None,
    ) -> _T: ...
    @overload
    async def get_or_compute(
        self,
        key: Hashable,
        compute: Callable[[], Awaitable[_T]],
        *,
        ttl: Duration | None = None,
        tags: Sequence[str] = (),
        type: type[_T] | None = None,
        policy: CachePolicy | None = None,
    ) -> _T: ...
    async def get_or_compute(
        self,
        key: Hashable,
        compute: Callable[..., Awaitable[Any]],
        *,
        ttl: Duration | None = None,
        tags: Sequence[str] = (),
        type: type[Any] | None = None,
        policy: CachePolicy | None = None,
    ) -> Any:
        """The value under `key`, computed by `compute()`, or `compute(context)`, where there is none.

        One of all who ask for it at once computes; where the store fails, each process for itself. None is a value.
        `ttl`, `policy`: as for `cached`. `tags`: what it belongs to. `type`: what is restored; else plain types. Raises
        what `compute` raises, `TypeError` for a key that cannot be one, and `ValueNotSerializable` for a value that
        would not come back as it is.
        """
        chosen = self._chosen(ttl, policy)
        encoded, shape = self._encoded(key, type)
        local = self._held(encoded, shape, chosen)
        if local is not None:
            return local[0]
        takes_context = _takes_context(compute)
        computation = compute if takes_context else lambda context: compute()
        named = _texts(tags)
        return await self._answer(encoded, computation, chosen, shape, named, takes_context=takes_context)

    # --- values that are put and taken --------------------------------------------------------------------------------

    @overload
    async def get(self, key: Hashable, default: _D, *, type: type[_T]) -> _T | _D: ...
    @overload
    async def get(self, key: Hashable, *, type: type[_T]) -> _T | None: ...
    @overload
    async def get(self, key: Hashable, default: object = None) -> Any: ...
    async def get(self, key: Hashable, default: Any = None, *, type: type[Any] | None = None) -> Any:
        """The value under `key`, or `default` where there is none, or the store cannot tell. Nothing is computed.

        `type`: what is restored; else plain types. One call of the store, and one more if the value has tags.
        """
        encoded, shape = self._encoded(key, type)
        (found,) = await self._look([encoded], shape)
        return default if found is None else found.value

    async def get_many(self, keys: Iterable[_K]) -> dict[_K, Any]:
        """The values that there are, by their keys; in one call of the store, and one more if they have tags."""
        asked = list(dict.fromkeys(keys))
        shaped = [self._encoded(key, None) for key in asked]
        found = await self._look([encoded for encoded, _ in shaped], ANYTHING)
        values: dict[_K, Any] = {}
        for key, (_, shape), loaded in zip(asked, shaped, found, strict=True):
            if loaded is not None:
                with contextlib.suppress(Unfit):
                    values[key] = shape.load(loaded.plain)
        return values

    async def set(self, key: Hashable, value: object, *, ttl: Duration | None = None, tags: Sequence[str] = ()) -> None:
        """Keep a value whatever is kept there, and whoever computes one meanwhile: his is not kept.

        `ttl`: in the place of that of the cache's policy. `tags`: what it belongs to. Raises `StoreError` if it was not
        done, `TypeError` for a key that cannot be one, and `ValueNotSerializable` for a value that would not come back.
        """
        policy = self._chosen(ttl, None)
        encoded, shape = self._encoded(key, None)
        place = self._place(encoded, _texts(tags))
        packed = self._records.pack(shape.dump(value))
        now = self._shared.clock.time()
        computed = Computed(packed, policy.ends(now, 0.0), 0.0)
        try:
            await self._store.surely(lambda: leases.put(place, computed, now))
        finally:
            self._shared.drop_held(place.key)

    async def invalidate(self, *keys: Hashable) -> None:
        """Nobody who asks from now on gets what is kept under these keys. Raises `StoreError` if it was not done."""
        stored = [self._value_key(self._encoded(key, None)[0]) for key in keys]
        if not stored:
            return
        try:
            await self._store.surely(lambda: leases.invalidate(stored))
        finally:
            self._shared.drop_held(*stored)

    async def invalidate_tags(self, *tags: str, stale: bool = False) -> None:
        """As `SharedState.invalidate_tags`."""
        await self._shared.invalidate_tags(*tags, stale=stale)

    async def clear(self) -> None:
        """Nobody who asks from now on gets anything that is kept. Raises `StoreError` if it was not done."""
        try:
            await self._store.surely(lambda: tags_.renew([self._generation]))
        finally:
            self._shared.drop_held(tags=frozenset(self._generations))

    # --- inside, and of it, for functions: a `Keeper` -----------------------------------------------------------------

    def _held(self, encoded: bytes, shape: Shape, policy: CachePolicy) -> tuple[Any] | None:
        """What this process holds, in a tuple, because None is a value."""
        if not policy.local_ttl:
            return None
        local = self._local.get(self._value_key(encoded), seconds(policy.local_ttl))
        if local is None:
            return None
        try:
            value = local.value if shape is ANYTHING else shape.load(local.value)
        except Unfit:  # it is of another type than is asked for now
            return None
        self._counters.count(Answer.LOCAL, local.cost)
        return (value,)

    async def _answer(
        self,
        encoded: bytes,
        compute: Callable[[CacheContext], Awaitable[Any]],
        policy: CachePolicy,
        shape: Shape,
        tags: tuple[str, ...],
        *,
        takes_context: bool = False,
        refresh: bool = False,
        may_wait: bool = True,
    ) -> Any:
        place = self._place(encoded, tags)
        if is_computing(place.key):
            return await compute(CacheContext(tags))
        age, seen, known, expects = self._local.age, self._seen.get(place.key), place, False
        if seen is not None:
            expects = self._shared.clock.time() < seen.fresh_until
            if seen.late:
                known = place._replace(late=seen.late)
        wanted = Wanted(
            known,
            compute,
            policy,
            shape,
            tags=tags,
            takes_context=takes_context,
            refresh=refresh,
            expects=expects,
            patience=PATIENCE_WITH_OTHERS if may_wait else 0.0,
        )
        found, of_another, waited = await self._shared_look(wanted, shape)
        answer = found.answer
        if waited and (answer is Answer.HIT or (of_another and answer is Answer.MISS)):
            answer = Answer.WAIT
        self._counters.count(answer, 0.0 if answer is Answer.MISS or answer is Answer.ERROR else found.cost)
        if found.error is not None:
            raise found.error
        loaded = found.loaded
        assert loaded is not None
        if found.is_kept:
            if refresh:  # nothing that was asked for before may come after it
                self._shared.drop_held(place.key)
                age = self._local.age
            if seen is None or seen.fresh_until != found.fresh_until:
                self._remember(place, found)
            if policy.local_ttl:
                self._hold(place.key, policy, found, age)
        elif found.tags:  # the next computation reads their stamps before it, and needs no watch over them
            self._remember(place, found)
        return loaded.value

    async def _shared_look(self, wanted: Wanted, shape: Shape) -> Shared[Answered]:
        """Looked up, together with others who ask at the same time."""
        lookup, key = self._lookup, wanted.place.key
        if lookup.is_unkept(key):
            return Shared(await alone(lookup.look(wanted)), False, False)
        try:
            shared = await self._flights.share(
                (key, wanted.refresh), lambda: lookup.look(wanted), patience=wanted.patience
            )
            if not shared.of_another:
                return shared
            with contextlib.suppress(Unfit):  # it was looked up as another type
                return shared._replace(outcome=lookup.again(shared.outcome, shape))
        except Impatient:
            wanted = wanted._replace(patience=0.0)
        return Shared(await alone(lookup.look(wanted)), False, True)

    def _remember(self, place: Place, found: Answered) -> None:
        """Of a value that the store holds, what makes the next look shorter."""
        if len(self._seen) >= _REMEMBERED:
            self._seen.clear()
        self._seen[place.key] = _Seen(found.fresh_until, tuple([tag for tag in found.tags if tag not in place.tags]))

    def _hold(self, key: str, policy: CachePolicy, found: Answered, age: int) -> None:
        """A value that the store holds, for as long as that is wanted."""
        assert found.loaded is not None
        ttl = min(seconds(policy.local_ttl), found.fresh_until - self._shared.clock.time())
        _, plain, packed = found.loaded
        tags, unpack = frozenset(found.tags), self._records.unpack
        self._local.put(key, plain, packed, unpack, ttl=ttl, cost=found.cost, tags=tags, age=age)

    async def _look(self, encoded: list[bytes], shape: Shape) -> list[Loaded | None]:
        """What the store holds under each, or None."""
        if not encoded:
            return []
        load = loader(self._records, shape, None)
        keys = [self._place(key, ()).key for key in encoded]
        try:
            entries = await self._store.carry_out(leases.look(keys, load, self._generation))
        except StoreError:
            self._counters.count(Answer.ERROR)
            return [None] * len(encoded)
        found: list[Loaded | None] = []
        for entry in entries:
            if entry is None or entry.is_error:
                found.append(None)
                continue
            self._counters.count(answered(entry).answer, entry.cost)
            found.append(entry.value)
        return found

    def _chosen(self, ttl: Duration | None, policy: CachePolicy | None) -> CachePolicy:
        chosen = _one_policy(ttl, policy, self._policy) or self._policy
        if chosen is None:
            raise ConfigurationError(
                "no-ttl", "nothing says how long this value is kept", looked_at="ttl=, policy=", mend="Cache(ttl=60)"
            )
        return chosen

    def _encoded(self, key: Hashable, kind: type[Any] | None) -> tuple[bytes, Shape]:
        if isinstance(key, CallKey):
            return key.encoded, key.shape
        return key_bytes(key), ANYTHING if kind is None else _shape(kind)  # type: ignore[arg-type]  # a type can be hashed

    def _place(self, encoded: bytes, tags: Sequence[str]) -> Place:
        key = self._value_key(encoded)
        if not tags:
            return Place(key, self._generations)
        return Place(key, [self._generation, *dict.fromkeys(map(self._tag_key, tags))])

    @functools.cached_property
    def _records(self) -> Records:
        return self._shared.records("cache", compress=True, marks=True)

    @functools.cached_property
    def _store(self) -> GuardedStore:
        return GuardedStore(self._shared, self._records)

    @functools.cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self._shared, self._records, self._store, self._tag_key, self._shared.tag_watch)

    @functools.cached_property
    def _generation(self) -> str:
        """The stamp that all values of this cache have."""
        return self._records.key(b"generation", self._name)

    @functools.cached_property
    def _generations(self) -> list[str]:
        return [self._generation]

    @functools.cached_property
    def _value_key(self) -> Callable[[bytes], str]:
        """The last ones are remembered, if they are short: a hash and its text take 4 us."""

        def hashed(encoded: bytes) -> str:
            return self._records.key(b"value", self._name, encoded)

        remembered = functools.lru_cache(_REMEMBERED)(hashed)
        return lambda encoded: remembered(encoded) if len(encoded) <= _SHORT else hashed(encoded)

    @functools.cached_property
    def _tag_key(self) -> Callable[[str], str]:
        return functools.lru_cache(_REMEMBERED)(self._shared.tag_key)


_REMEMBERED: Final = 4096
_SHORT: Final = 256
_MOST_TAGS: Final = 255


class _Here:
    """What of a cache is in this process, as its `SharedState` tells it of changes."""

    def __init__(self, local: LocalLevel, flights: Flights[Answered], seen: dict[str, _Seen]) -> None:
        self._local, self._flights, self._seen = local, flights, seen

    def drop(self, *keys: str) -> None:
        """What stands under these keys of the store was changed: nothing of before is held, or waited for."""
        self._local.drop(*keys)
        for key in keys:
            self._seen.pop(key, None)
            self._flights.let_go((key, False), (key, True))

    def drop_tags(self, tags: frozenset[str]) -> None:
        """What has one of these tags was invalidated."""
        self._local.drop_tags(tags)
        self._flights.let_go()

    def forget_all(self) -> None:
        """The store is another one."""
        self._local.clear()
        self._seen.clear()
        self._flights.let_go()


class _Seen(NamedTuple):
    """What this process saw in the store: until when it is fresh, and the tags that only the value knows."""

    fresh_until: float
    late: tuple[str, ...]


def _texts(tags: Sequence[str]) -> tuple[str, ...]:
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
        raise TypeError('tags are a list of texts, as tags=["menu"]')
    if len(tags) > _MOST_TAGS:
        raise ValueError(f"a value has at most {_MOST_TAGS} tags, and was given {len(tags)}")
    return tuple(tags)


def _one_policy(ttl: Duration | None, policy: CachePolicy | None, of_cache: CachePolicy | None) -> CachePolicy | None:
    """`ttl` alone: the policy of the cache, with that."""
    if ttl is not None and policy is not None:
        raise ConfigurationError(
            "two-policies", "a policy already says how long", looked_at="ttl=, policy=", mend="one of the two"
        )
    if policy is not None and not isinstance(policy, CachePolicy):
        raise ConfigurationError(
            "bad-policy", "how long a value is kept cannot be so", looked_at="policy=", mend="CachePolicy(ttl=60)"
        )
    return policy if policy is not None else None if ttl is None else _policy_of(ttl, of_cache)


@functools.lru_cache
def _policy_of(ttl: Duration, of_cache: CachePolicy | None) -> CachePolicy:
    return CachePolicy(ttl=ttl) if of_cache is None else dataclasses.replace(of_cache, ttl=ttl)


@functools.lru_cache
def _shape(kind: Hashable) -> Shape:
    return shape_of(kind, called="type=")


def _takes_context(compute: Callable[..., Any]) -> bool:
    """Must it be given something? That is its `CacheContext`, whatever the parameter is called."""
    code = getattr(compute, "__code__", None)
    if code is not None and not getattr(compute, "__self__", None):
        return bool(code.co_argcount > len(compute.__defaults__ or ()))
    try:
        parameters = inspect.signature(compute).parameters.values()
    except (ValueError, TypeError):
        return False
    return any(
        parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        for parameter in parameters
    )
