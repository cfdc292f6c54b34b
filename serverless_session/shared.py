"""`SharedState`: what the copies of an app share. Store, key ring, namespace, serializer, time-out and clock.

It is injected into features and makes none, so it stands below them. Arguments are checked when it is made; what they
leave open is read from the environment at first use, or when the app starts. Features hold the SharedState and ask it
for its store at every call, so `override` swaps the store under all of them.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import ClassVar, Final, Literal, Protocol

from serverless_session.codec.keys import KeyRing, SecretKey, hkdf_expand, hkdf_extract, reveal, weakness_of
from serverless_session.codec.packing import COMPRESS_ABOVE_BYTES, Packer
from serverless_session.codec.serializers import Serializer, serializer_for
from serverless_session.deadline import DEFAULT_SECONDS, Clock, Duration, SystemClock, seconds, within
from serverless_session.errors import ConfigurationError, StoreError
from serverless_session.events import tell
from serverless_session.records.records import Records
from serverless_session.stores.contract import Read, Store
from serverless_session.stores.opening import open_anew, open_store

PREFIX: Final = "SERVERLESS_SESSION_"
_VARIABLES: Final = ("STORE", "SECRET_KEY", "SECRET_KEY_FALLBACKS", "NAMESPACE", "TIMEOUT")
_SERVERLESS_MARKERS: Final = ("AWS_LAMBDA_FUNCTION_NAME", "K_SERVICE", "FUNCTIONS_WORKER_RUNTIME", "VERCEL")

_NAMESPACE: Final = re.compile(r"(?!\.|__)[A-Za-z0-9._=~-]{1,64}")


class Holder(Protocol):
    """Holds values of the store in this process."""

    def drop(self, *keys: str) -> None:
        """What stands under these keys of the store was changed."""
        ...

    def drop_tags(self, tags: frozenset[str], /) -> None:
        """Those with one of these tags (the keys of their stamps) were invalidated."""
        ...

    def forget_all(self) -> None:
        """The store is another one."""
        ...


class SharedState:
    """What the copies of an app share; give one to every feature.

    `store`: a URL (`redis://host`, `memory://`, ...) or a `Store`. `secret_key`: seals what is stored, 32 characters or
    more (`serverless-session keygen` makes one), or a `KeyRing`; `secret_key_fallbacks` only open, for rotation.
    `namespace`: tells apps apart that share a store and a secret ("app" unless given). `address_key`: also hides from a
    reader of the store which key belongs to whom; never rotated. `serializer`: "json", "msgpack", or your own.
    `compress_above_bytes`: from which size on the features that compress do so; sessions never are. `timeout`: seconds
    or `timedelta` that one store call may take, 1 s unless given. `clock`: for tests.

    What is not given is read from `SERVERLESS_SESSION_STORE`, `_SECRET_KEY`, `_SECRET_KEY_FALLBACKS`, `_NAMESPACE` and
    `_TIMEOUT`. Without any store: `memory://`, except on a serverless platform, where that is an error. Without a
    secret: one made for this process if the store is in this process, else an error. Raises `ConfigurationError`.
    """

    _default: ClassVar[SharedState | None] = None

    def __init__(
        self,
        store: str | Store | None = None,
        *,
        secret_key: SecretKey | KeyRing | None = None,
        secret_key_fallbacks: Sequence[SecretKey] = (),
        namespace: str | None = None,
        address_key: SecretKey | None = None,
        serializer: Serializer | Literal["json", "msgpack"] = "json",
        compress_above_bytes: int | None = COMPRESS_ABOVE_BYTES,
        timeout: Duration | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(store, str | Store | None):
            raise ConfigurationError(
                "bad-store",
                f"a store cannot be of type {type(store).__name__}",
                looked_at="store=",
                mend='a URL, as "redis://localhost", or a Store from serverless_session.stores',
            )
        self._given_store = store
        self._given_secret = secret_key
        self._given_fallbacks = tuple(secret_key_fallbacks)
        self._given_namespace = None if namespace is None else _checked_namespace(namespace, "namespace=")
        self._given_timeout = None if timeout is None else _checked_timeout(timeout, "timeout=")
        self._given_clock = clock
        self._address_secret = address_key
        if isinstance(secret_key_fallbacks, str):
            raise ConfigurationError(
                "bad-fallbacks",
                "secret_key_fallbacks= takes several secrets, and was given one text",
                looked_at="secret_key_fallbacks=",
                mend="secret_key_fallbacks=[OLD]",
            )
        if clock is not None and not callable(getattr(clock, "time", None)):
            raise ConfigurationError(
                "bad-clock",
                f"a clock has a method time(), and a {type(clock).__name__} has none",
                looked_at="clock=",
                mend="clock=ManualClock() in tests, and none elsewhere",
            )
        if isinstance(secret_key, KeyRing) and secret_key_fallbacks:
            raise ConfigurationError(
                "two-key-rings",
                "a KeyRing and secret_key_fallbacks= cannot both be given",
                looked_at="secret_key=, secret_key_fallbacks=",
                mend="KeyRing(seal=NEW, open=[OLD]) alone",
            )
        self._given_serializer = serializer
        self._serializer = serializer_for(serializer)
        self._compress_above = _checked_size(compress_above_bytes)
        self._overrides: list[tuple[Store, Clock | None]] = []
        self._holders: weakref.WeakSet[Holder] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._ready = False

    @classmethod
    def default(cls) -> SharedState:
        """The one of this process, all of it from the environment."""
        if SharedState._default is None:
            SharedState._default = cls()
        return SharedState._default

    def replace(
        self,
        *,
        store: str | Store | None = None,
        namespace: str | None = None,
        serializer: Serializer | Literal["json", "msgpack"] | None = None,
        timeout: Duration | None = None,
    ) -> SharedState:
        """Another SharedState, like this one but for what is given."""
        return SharedState(
            store if store is not None else self._given_store,
            secret_key=self._given_secret,
            secret_key_fallbacks=self._given_fallbacks,
            namespace=namespace if namespace is not None else self._given_namespace,
            address_key=self._address_secret,
            serializer=serializer if serializer is not None else self._given_serializer,
            compress_above_bytes=self._compress_above,
            timeout=timeout if timeout is not None else self._given_timeout,
            clock=self._given_clock,
        )

    @contextmanager
    def override(self, *, store: str | Store | None = None, clock: Clock | None = None) -> Iterator[Store]:
        """Inside, everything that holds this SharedState uses this store or clock or both; for tests, process-wide.

        `store="memory://"` opens a fresh one, which goes by the clock. Yields the store that is used inside. What is
        not swapped (the secret key, say) must still be in order. Raises `TypeError` where nothing is given.
        """
        if store is None and clock is None:
            raise TypeError("nothing to swap: override(store=...), override(clock=...), or both")
        swapped = self.store if store is None else _opened_with(store, clock or self.clock)
        self._overrides.append((swapped, clock))
        self._forget_what_was_held()
        try:
            yield swapped
        finally:
            self._overrides.remove((swapped, clock))
            self._forget_what_was_held()

    def _forget_what_was_held(self) -> None:
        for holder in list(self._holders):
            holder.forget_all()

    async def aclose(self) -> None:
        """Close what the running loop holds open of the store. It opens anew when used again."""
        if self._ready or self._overrides:
            await self.store.aclose()

    def records(self, purpose: str, *, compress: bool = False, marks: bool = False) -> Records:
        """The records of one purpose, for a feature. `compress`: never where sizes could tell secrets. `marks`: some
        values say nothing of anybody, and need no seal."""
        self.check()
        return Records(self, purpose, compress=compress, marks=marks)

    # --- tags ---------------------------------------------------------------------------------------------------------

    async def invalidate_tags(self, *tags: str, stale: bool = False) -> None:
        """Nobody who asks from now on gets what is cached under one of these tags, in any cache of this SharedState.

        `stale`: each value is computed anew at its next use, and shown meanwhile. Raises `StoreError` if it was not
        done.
        """
        if not all(isinstance(tag, str) for tag in tags):
            raise TypeError('tags are texts, as invalidate_tags("menu", "product:7")')
        if not tags:
            return
        from serverless_session.records import tags as rules
        from serverless_session.records.steps import surely

        keys = list(dict.fromkeys(map(self.tag_key, tags)))
        change, perform = rules.make_tags_stale if stale else rules.invalidate_tags, self._tag_records.perform
        try:
            await surely(lambda: change(keys, self.tag_watch), perform, self.clock)
        finally:
            self.drop_held(tags=frozenset(keys))

    def tag_key(self, tag: str) -> str:
        """Where the stamp of a tag stands."""
        return self._tag_records.key(b"tag", tag.encode("utf-8", "surrogatepass"))

    @property
    def tag_watch(self) -> str:
        """Where the watch over late tags stands (`records.tags`)."""
        return self._tag_records.key(b"watch")

    def add_holder(self, holder: Holder) -> None:
        """Tell it what changes in this process; it is not kept alive."""
        self._holders.add(holder)

    def drop_held(self, *keys: str, tags: frozenset[str] = frozenset()) -> None:
        """Nobody in this process holds what stood under these keys, or has one of these tags, any more."""
        for holder in list(self._holders):
            if keys:
                holder.drop(*keys)
            if tags:
                holder.drop_tags(tags)

    @functools.cached_property
    def _tag_records(self) -> Records:
        # The purpose of caches: a value names its tags by the end of their keys, which begin as its own does.
        return self.records("cache", marks=True)

    # --- what features and records read -------------------------------------------------------------------------------

    @property
    def store(self) -> Store:
        """Where everything is kept."""
        if self._overrides:
            return self._overrides[-1][0]
        self.check()
        return self._store

    @property
    def clock(self) -> Clock:
        """Decides what has expired."""
        if self._overrides:
            for _, clock in reversed(self._overrides):
                if clock is not None:
                    return clock
        return self._given_clock or _SYSTEM_CLOCK

    @property
    def key_ring(self) -> KeyRing:
        """Seals and opens what is kept."""
        self.check()
        return self._key_ring

    @property
    def packer(self) -> Packer:
        """Turns objects into bytes and back."""
        self.check()
        return self._packer

    @property
    def namespace(self) -> str:
        """Stands in front of every store key, and is sealed with every value and id."""
        self.check()
        return self._namespace

    @property
    def address_key(self) -> bytes | None:
        """Keys the hashes in store keys; None: they are plain hashes."""
        self.check()
        return self._address_key

    @property
    def timeout(self) -> float:
        """Seconds that one store call may take."""
        self.check()
        return self._timeout

    # --- settling what was given and what the environment says --------------------------------------------------------

    def check(self) -> None:
        """Settle all settings, once. Raises `ConfigurationError`, each time, while they cannot work."""
        if not self._ready:
            with self._lock:
                if not self._ready:
                    self._settle()
                    self._ready = True
                    _settled.add(self)

    def _settle(self) -> None:
        environment = _environment()
        if self._given_namespace is not None:
            self._namespace = self._given_namespace
        else:
            self._namespace = _checked_namespace(environment.get("NAMESPACE", "app"), PREFIX + "NAMESPACE")
        if self._given_timeout is not None:
            self._timeout = self._given_timeout
        else:
            self._timeout = _timeout_of(environment.get("TIMEOUT"))
        self._packer = Packer(self._serializer, compress_above_bytes=self._compress_above)
        defaults: list[str] = []
        self._store = self._settle_store(environment.get("STORE"), defaults)
        self._key_ring = self._settle_keys(environment, defaults)
        self._address_key = self._settle_address_key()
        if defaults:
            tell("shared.defaults", {"defaults": "; ".join(defaults)})

    def _settle_store(self, variable: str | None, defaults: list[str]) -> Store:
        store = self._given_store if self._given_store is not None else variable
        if store is None:
            marker = next((name for name in _SERVERLESS_MARKERS if os.environ.get(name)), None)
            if marker is not None:
                raise ConfigurationError(
                    "no-store",
                    "a store is needed that outlives this sandbox and that its other copies see",
                    looked_at=f"store=, shared=, {PREFIX}STORE (unset), {marker} (set)",
                    mend=f'{PREFIX}STORE=redis://HOST, or store="memory://" if losing everything is fine',
                )
            defaults.append(f"no store is set ({PREFIX}STORE), so memory:// keeps everything in this process")
            store = "memory://"
        if isinstance(store, str) and store.startswith("memory://") and self._given_clock is not None:
            return _opened_with(store, self._given_clock)
        return open_store(store) if isinstance(store, str) else store

    def _settle_keys(self, environment: dict[str, str], defaults: list[str]) -> KeyRing:
        in_process = self._store.limits.one_process
        if isinstance(self._given_secret, KeyRing):
            ring = self._given_secret
        else:
            secret = self._given_secret if self._given_secret is not None else environment.get("SECRET_KEY")
            fallbacks: Sequence[SecretKey] = (
                self._given_fallbacks or environment.get("SECRET_KEY_FALLBACKS", "").split()
            )
            if secret is None:
                if not in_process:
                    raise ConfigurationError(
                        "no-secret",
                        "what is kept in this store must be sealed, and there is no secret key",
                        looked_at=f"secret_key=, {PREFIX}SECRET_KEY (unset)",
                        mend=f"{PREFIX}SECRET_KEY=$(serverless-session keygen), the same for all copies of the app",
                    )
                defaults.append(f"no secret key is set ({PREFIX}SECRET_KEY), so one was made for this process")
                secret = _secret_of_this_process()
            ring = KeyRing(secret, open=fallbacks)
        if self._given_secret is not None or self._given_fallbacks:
            looked_at = "secret_key=, secret_key_fallbacks= (arguments beat variables)"
            mend = f"what `serverless-session keygen` prints in its place, or no argument and {PREFIX}SECRET_KEY"
        else:
            looked_at = f"{PREFIX}SECRET_KEY, {PREFIX}SECRET_KEY_FALLBACKS"
            mend = f"{PREFIX}SECRET_KEY=$(serverless-session keygen)"
        _check_strength(ring.weakness, looked_at, mend, only_warn=in_process)
        return ring

    def _settle_address_key(self) -> bytes | None:
        if self._address_secret is None:
            return None
        revealed = reveal(self._address_secret)
        mend = "address_key= with what `serverless-session keygen` prints"
        _check_strength(weakness_of(revealed), "address_key=", mend, only_warn=self._store.limits.one_process)
        return hkdf_expand(hkdf_extract(b"", revealed.encode()), b"address", 32)


_SYSTEM_CLOCK: Final = SystemClock()
_settled: Final[weakref.WeakSet[SharedState]] = weakref.WeakSet()


async def connect_all() -> None:
    """Ask each store in use for something it does not have, so that its connection stands before it is needed.

    Each within its own time-out; what fails shows at the first call that matters.
    """
    for shared in list(_settled):
        with contextlib.suppress(StoreError), within(shared.timeout):
            await shared.store.perform(Read(f"{shared.namespace}:connect"))


@functools.cache
def _secret_of_this_process() -> str:
    return os.urandom(32).hex()


def _opened_with(store: str | Store, clock: Clock) -> Store:
    """The store at a URL; a memory store is one of its own, because it goes by the clock."""
    if not isinstance(store, str):
        return store
    if not store.startswith("memory://"):
        return open_store(store)
    return open_anew(store, clock=clock)


def _environment() -> dict[str, str]:
    found = {}
    for name, value in os.environ.items():
        if not name.startswith(PREFIX):
            continue
        short = name.removeprefix(PREFIX)
        if short not in _VARIABLES:
            import difflib  # 0.7 ms that only this error pays

            near = difflib.get_close_matches(short, _VARIABLES, n=1, cutoff=0.0)
            raise ConfigurationError(
                "unknown-variable",
                f"the environment variable {name} is none of ours",
                looked_at=f"all variables that begin with {PREFIX}",
                mend=PREFIX + near[0],
            )
        if value:
            found[short] = value
    return found


def _checked_namespace(namespace: str, looked_at: str) -> str:
    if not _NAMESPACE.fullmatch(namespace):
        raise ConfigurationError(
            "bad-namespace",
            "the namespace cannot stand in a store key",
            looked_at=looked_at,
            mend="1-64 characters of A-Za-z0-9._=~- that begin neither with '.' nor '__'",
        )
    return namespace


def _checked_size(size: int | None) -> int | None:
    if size is not None and (type(size) is not int or size < 0):
        raise ConfigurationError(
            "bad-size",
            "what is compressed begins at a number of bytes",
            looked_at="compress_above_bytes=",
            mend="compress_above_bytes=1024, or None: nothing is compressed",
        )
    return size


def _checked_timeout(timeout: Duration, looked_at: str) -> float:
    span = seconds(timeout) if isinstance(timeout, int | float | timedelta) else math.nan
    if not 0 < span < math.inf:
        raise ConfigurationError(
            "bad-timeout", "a store call needs a time above 0", looked_at=looked_at, mend="seconds, as in 1.0"
        )
    return span


def _timeout_of(variable: str | None) -> float:
    if variable is None:
        return DEFAULT_SECONDS
    try:
        span = float(variable)
    except ValueError:
        span = math.nan
    return _checked_timeout(span, PREFIX + "TIMEOUT")


def _check_strength(weakness: str | None, looked_at: str, mend: str, *, only_warn: bool) -> None:
    if weakness is None:
        return
    if only_warn:
        tell("shared.weak_secret", {"weakness": weakness})
        return
    raise ConfigurationError("weak-secret", weakness, looked_at=looked_at, mend=mend)
