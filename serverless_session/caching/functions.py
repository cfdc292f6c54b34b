"""`@cache.cached`: functions whose values are kept. What a caller, a framework and a type checker see of them.

A cached function stays what it was: async or not, with its name, its signature and its docstring. It gains
`invalidate`, `refresh`, `key` and, where it is not async, `aio`. A method is bound as usual, and so is what it gains.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar, overload

from serverless_session.caching.context import CacheContext
from serverless_session.caching.keys import CallKey
from serverless_session.caching.policy import CachePolicy
from serverless_session.caching.shapes import Shape, shape_of
from serverless_session.caching.signatures import CallSignature, KeyPaths
from serverless_session.errors import ConfigurationError
from serverless_session.events import tell

if TYPE_CHECKING:
    from serverless_session.caching.blocking import Here
    from serverless_session.caching.requests import Watch

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R", covariant=True)
S = TypeVar("S", contravariant=True)
M = TypeVar("M")


class CachedAsync(Protocol[P, R]):
    """An async function whose values are kept. `key(...)`: what a call is kept under, for `Cache.get` and the like.

    `invalidate(...)`: nobody who asks from now on gets what is kept; raises `StoreError` if it was not done.
    `refresh(...)`: computes anew whatever is kept, which is shown meanwhile.
    """

    __name__: str

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None: ...
    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def key(self, *args: P.args, **kwargs: P.kwargs) -> Hashable: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> CachedAsync[P, R]: ...
    @overload
    def __get__(
        self: CachedAsync[Concatenate[S, Q], R], instance: S, owner: type | None = None, /
    ) -> CachedAsync[Q, R]: ...


class CachedSync(Protocol[P, R]):
    """A plain function whose values are kept; as `CachedAsync`, and `aio(...)`: the same for async code."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None: ...
    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def key(self, *args: P.args, **kwargs: P.kwargs) -> Hashable: ...
    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> CachedSync[P, R]: ...
    @overload
    def __get__(
        self: CachedSync[Concatenate[S, Q], R], instance: S, owner: type | None = None, /
    ) -> CachedSync[Q, R]: ...


class CacheDecorator(Protocol):
    """What `Cache.cached` returns. A first parameter that is a `CacheContext` is given by the cache."""

    # What is async is also a function that returns something: the more special stands first, and mypy minds.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[CacheContext, P], Coroutine[Any, Any, R]], /
    ) -> CachedAsync[P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[CacheContext, P], R], /
    ) -> CachedSync[P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[M, CacheContext, P], Coroutine[Any, Any, R]], /
    ) -> CachedAsync[Concatenate[M, P], R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[M, CacheContext, P], R], /
    ) -> CachedSync[Concatenate[M, P], R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> CachedAsync[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedSync[P, R]: ...


class UnknownName(ConfigurationError):
    """An annotation names what is not there, or not yet."""

    def __init__(self, function: str, name: object) -> None:
        super().__init__(
            "cannot-key",
            f"an annotation of {function}, which is cached, names {name}, which is not there",
            looked_at="its annotations, in its module",
            mend=f"import {name} where the program runs, not under `if TYPE_CHECKING:`; local types into the module",
        )


class Answers(Protocol):
    """What stands under a key, or what `compute` brings where nothing does."""

    async def __call__(
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
    ) -> Any: ...


class Keeper(NamedTuple):
    """What functions need of the cache that keeps their values. `held`: what this process holds, or None."""

    held: Callable[[bytes, Shape, CachePolicy], tuple[Any] | None]
    answer: Answers
    invalidate: Callable[[CallKey], Awaitable[None]]


def decorated(
    keeper: Keeper,
    function: Callable[..., Any],
    policy: CachePolicy,
    tags: Sequence[str],
    key: KeyPaths | None,
) -> Any:
    """The cached function. Raises `ConfigurationError` for one that cannot be cached."""
    if (
        not inspect.isfunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    ):
        raise ConfigurationError(
            "cannot-cache",
            "only functions that return their value can be cached, and no generators or other objects",
            looked_at="what is decorated",
            mend="an `async def` or `def` that returns a list in place of a generator",
        )
    if inspect.iscoroutinefunction(inspect.unwrap(function)) and not inspect.iscoroutinefunction(function):
        raise ConfigurationError(
            "cannot-cache",
            f"{function.__qualname__}() is not async and wraps a function that is, so its value is a coroutine",
            looked_at="what is decorated",
            mend="@cache.cached below the other decorator, or an `async def` in that",
        )
    calls = _Calls(keeper, function, policy, tags, key)
    if not calls.is_async and (policy.soft_timeout or policy.hard_timeout):
        raise ConfigurationError(
            "cannot-cancel",
            f"{function.__qualname__}() is not async, and nothing can cancel it",
            looked_at="soft_timeout=, hard_timeout=",
            mend="an `async def`, or a time-out in what it calls",
        )
    return _Method(calls) if calls.is_method else calls.bound()


class _Calls:
    """The calls of one cached function. `function`: what it was made of.

    Its signature is settled when it is decorated or, if annotations name what is written further down, at first use.
    """

    def __init__(
        self,
        keeper: Keeper,
        function: Callable[..., Any],
        policy: CachePolicy,
        tags: Sequence[str],
        key: KeyPaths | None,
    ) -> None:
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function)
        self._keeper = keeper
        self._policy = policy
        self._given = tags, key
        self._has_warned = False
        with contextlib.suppress(UnknownName):
            _ = self.signature, self.shape

    @functools.cached_property
    def signature(self) -> CallSignature:
        try:
            return CallSignature(self.function, *self._given)
        except NameError as error:
            raise UnknownName(f"{self.function.__qualname__}()", error.name) from None

    @functools.cached_property
    def shape(self) -> Shape:
        return shape_of(self.signature.returns, called=f"the value of {self.function.__qualname__}()")

    @property
    def is_method(self) -> bool:
        return "." in self.function.__qualname__.rpartition("<locals>.")[2] and (
            "signature" not in vars(self) or self.signature.is_method
        )

    # --- what a caller does -------------------------------------------------------------------------------------------

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallKey:
        return CallKey(self.signature.key(args, kwargs), self.shape)

    async def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, refresh: bool = False) -> Any:
        signature = self.signature
        encoded = signature.key(args, kwargs)
        if not refresh and (local := self._keeper.held(encoded, self.shape, self._policy)) is not None:
            return local[0]
        compute = self._computation(args, kwargs) if self.is_async else self._in_a_thread(args, kwargs)
        return await self._wanted(encoded, compute, args, kwargs, refresh=refresh)

    def answer_here(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, refresh: bool = False) -> Any:
        encoded = self.signature.key(args, kwargs)
        if not refresh and (local := self._keeper.held(encoded, self.shape, self._policy)) is not None:
            return local[0]
        on_a_loop = self._warn_on_a_loop()  # whoever else computes may need that loop

        def make(here: Here[Any]) -> Coroutine[Any, Any, Any]:
            def compute(context: CacheContext) -> Awaitable[Any]:
                return here(lambda: self._call_here(context, args, kwargs))

            return self._wanted(encoded, compute, args, kwargs, refresh=refresh, may_wait=not on_a_loop)

        return _blocking().run(make)

    async def invalidate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        await self._keeper.invalidate(self.key(args, kwargs))

    def invalidate_here(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._warn_on_a_loop()
        _blocking().run(lambda here: self.invalidate(args, kwargs))

    # --- what a caller sees -------------------------------------------------------------------------------------------

    def bound(self, *to: Any) -> Any:
        """The function as it is called: `to` the object of a method."""
        wrapper: Any
        if self.is_async:

            @functools.wraps(self.function)
            async def cached_async(*args: Any, **kwargs: Any) -> Any:
                return await self.answer((*to, *args), kwargs)

            async def invalidate(*args: Any, **kwargs: Any) -> None:
                await self.invalidate((*to, *args), kwargs)

            async def refresh(*args: Any, **kwargs: Any) -> Any:
                return await self.answer((*to, *args), kwargs, refresh=True)

            wrapper = cached_async
            wrapper.invalidate, wrapper.refresh = invalidate, refresh
        else:

            @functools.wraps(self.function)
            def cached(*args: Any, **kwargs: Any) -> Any:
                return self.answer_here((*to, *args), kwargs)

            def invalidate_here(*args: Any, **kwargs: Any) -> None:
                self.invalidate_here((*to, *args), kwargs)

            def refresh_here(*args: Any, **kwargs: Any) -> Any:
                return self.answer_here((*to, *args), kwargs, refresh=True)

            async def aio(*args: Any, **kwargs: Any) -> Any:
                return await self.answer((*to, *args), kwargs)

            wrapper = cached
            wrapper.invalidate, wrapper.refresh, wrapper.aio = invalidate_here, refresh_here, aio
        wrapper.key = lambda *args, **kwargs: self.key((*to, *args), kwargs)
        if "signature" in vars(self):
            del wrapper.__wrapped__  # frameworks would look at the function behind it, and see the CacheContext
            public = self.signature.public
            wrapper.__signature__ = (
                public.replace(parameters=list(public.parameters.values())[len(to) :]) if to else public
            )
        return wrapper

    # --- inside -------------------------------------------------------------------------------------------------------

    def _wanted(
        self,
        encoded: bytes,
        compute: Callable[[CacheContext], Awaitable[Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        refresh: bool,
        may_wait: bool = True,
    ) -> Coroutine[Any, Any, Any]:
        signature = self.signature
        return self._keeper.answer(
            encoded,
            compute,
            self._policy,
            self.shape,
            signature.tags(args, kwargs),
            takes_context=signature.takes_context,
            refresh=refresh,
            may_wait=may_wait,
        )

    def _computation(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[CacheContext], Awaitable[Any]]:
        if not self.signature.is_open:
            return lambda context: self._call(context, args, kwargs)

        async def compute(context: CacheContext) -> Any:
            watch = _watch()
            try:
                return await self._call(context, *_watched(watch, args, kwargs))
            finally:
                self._settle(watch, context)

        return compute

    def _in_a_thread(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[CacheContext], Awaitable[Any]]:
        from anyio import to_thread

        return lambda context: to_thread.run_sync(lambda: self._call_here(context, args, kwargs))

    def _call_here(self, context: CacheContext, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What is not async, in the thread that we are in."""
        if not self.signature.is_open:
            return self._call(context, args, kwargs)
        watch = _watch()
        try:
            return self._call(context, *_watched(watch, args, kwargs))
        finally:
            self._settle(watch, context)

    def _settle(self, watch: Watch, context: CacheContext) -> None:
        """What was computed from a request is one visitor's, and not kept."""
        if watch.was_read:
            context.store = False
            tell("cache.request_was_read", {"function": f"{self.function.__qualname__}()"})

    def _call(self, context: CacheContext, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.signature.takes_context:
            return self.function(*args, **kwargs)
        at = 1 if self.is_method else 0
        return self.function(*args[:at], context, *args[at:], **kwargs)

    def _warn_on_a_loop(self) -> bool:
        on_a_loop: bool = _blocking().is_on_a_loop()
        if on_a_loop and not self._has_warned:
            self._has_warned = True
            tell("cache.blocks_the_loop", {"function": self.function.__qualname__})
        return on_a_loop


def _blocking() -> Any:
    from serverless_session.caching import blocking  # for functions that are not async, and nobody else

    return blocking


def _watch() -> Watch:
    from serverless_session.caching.requests import Watch  # whoever is given a request has Starlette

    return Watch()


def _watched(watch: Watch, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(watch.over, args)), {name: watch.over(value) for name, value in kwargs.items()}


class _Method:
    """A cached function in a class, bound to the object that it is asked of."""

    def __init__(self, calls: _Calls) -> None:
        self._calls = calls
        self._unbound = calls.bound()
        functools.update_wrapper(self, self._unbound)

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        return self._unbound if instance is None else self._calls.bound(instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._unbound(*args, **kwargs)
