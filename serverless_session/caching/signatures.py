"""Which call of a function is which: its key and its tags, from its signature, settled when it is decorated.

All parameters make the key, by name, whether they are given by place, by name or by default. Left out, by their type,
are those that say nothing of the value: the response, database handles, clients; and the request, as long as nothing of
it is read (`requests`). An object that a method belongs to, and a session, say too much or too little: what of them
counts must be named (`key=`).
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final

from serverless_session.caching.context import CacheContext
from serverless_session.caching.keys import key_bytes, takes
from serverless_session.codec.sealing import length_prefixed
from serverless_session.errors import ConfigurationError
from serverless_session.records.keypaths import path_of, template_of

KeyPaths = str | Sequence[str] | Callable[..., Hashable]
"""What tells one call from another: a path (`"user.id"`), several, or a function of the same arguments."""

_OF_A_REQUEST: Final = {
    "starlette": {"HTTPConnection", "Response", "BackgroundTasks"},
    "fastapi": {"SecurityScopes"},
}
# fmt: off
_HANDLES: Final = frozenset({
    "Session", "AsyncSession", "scoped_session", "Connection", "AsyncConnection", "Engine", "AsyncEngine", "Cursor",
    "AsyncCursor", "Pool", "ConnectionPool", "AsyncConnectionPool", "Client", "AsyncClient", "ClientSession",
    "BaseClient", "Redis", "Database", "MongoClient", "AsyncMongoClient", "AsyncIOMotorClient",
})
_OF_HANDLES: Final = frozenset({
    "sqlalchemy", "sqlite3", "aiosqlite", "asyncpg", "psycopg", "psycopg_pool", "psycopg2", "pymysql", "aiomysql",
    "asyncmy", "pymongo", "motor", "redis", "httpx", "httpx2", "aiohttp", "requests", "botocore", "aiobotocore",
    "boto3", "databases", "google", "elasticsearch",
})
# fmt: on
"""Handles of databases and clients, by the names of their types and of the packages that these come from."""


class CallSignature:
    """How the calls of one function are told apart.

    `public`: the signature without the parameter that is a `CacheContext` (`takes_context`). Raises
    `ConfigurationError` for what cannot be keyed.
    """

    def __init__(self, function: Callable[..., Any], tags: Sequence[str], key: KeyPaths | None) -> None:
        self.called = f"{function.__module__}.{function.__qualname__}"
        self._said = f"{function.__qualname__}()"
        hints = typing.get_type_hints(function, include_extras=True)
        self.returns: Any = hints.pop("return", Any)
        given = inspect.signature(function)
        parameters = [
            parameter.replace(annotation=hints.get(parameter.name, parameter.annotation))
            for parameter in given.parameters.values()
        ]
        self.is_method = _is_method(function, parameters)
        at = 1 if self.is_method else 0
        self.takes_context = len(parameters) > at and _bare(parameters[at].annotation) is CacheContext
        if self.takes_context:
            del parameters[at]
        if any(_bare(parameter.annotation) is CacheContext for parameter in parameters):
            raise self._cannot("the CacheContext is not its first parameter", "def f(context: CacheContext, ...)")
        is_annotated = given.return_annotation is not inspect.Signature.empty
        self.public = given.replace(
            parameters=parameters, return_annotation=self.returns if is_annotated else inspect.Signature.empty
        )
        self.is_open = _is_open(key, parameters)
        self._tags = [template_of(tag, self.public, looked_at="tags=") for tag in _texts(tags)]
        self._has_paths_in_tags = any("{" in tag for tag in tags)
        self._places: list[int] = []
        self._counted: tuple[str, ...] = ()
        self._values = self._values_of(key)
        if function.__name__ == "<lambda>" and key is None:
            raise self._cannot("it has no name", "a `def`, or key= with something that tells it from others")
        self._prefix = length_prefixed(self.called.encode(), key_bytes(_enclosed(function)), key_bytes(self._counted))
        self._names = tuple(parameter.name for parameter in parameters)
        by_place = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self._is_plain = key is None and all(parameter.kind is by_place for parameter in parameters)

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Of one call. Raises `TypeError` for arguments that it does not take, or that are not known by their value."""
        try:
            if self._is_plain and not kwargs and len(args) == len(self._names):
                values: Any = tuple([args[place] for place in self._places])
            else:
                values = self._values(args, kwargs)
            encoded = key_bytes(values)
            if self.is_method:
                self._check_class(args[0])
                return self._prefix + _class_of(args[0]) + encoded
            return self._prefix + encoded
        except TypeError as error:
            error.add_note(f"in a call of {self._said}, which is cached")
            raise

    def _check_class(self, owner: Any) -> None:
        """From Python 3.13 on, what a class method gains (`C.f.invalidate`) is not bound to the class."""
        if next(iter(self.public.parameters)) == "cls" and not isinstance(owner, type):
            raise TypeError(f"{self._said} is a class method: give it the class first, as C.f.invalidate(C, ...)")

    def tags(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, ...]:
        """Of one call."""
        if not self._tags:
            return ()
        arguments = self._arguments(args, kwargs) if self._has_paths_in_tags else {}
        return tuple([tag(arguments) for tag in self._tags])

    # --- inside -------------------------------------------------------------------------------------------------------

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Any]:
        bound = self.public.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    def _values_of(self, key: KeyPaths | None) -> Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, ...]]:
        parameters = list(self.public.parameters.values())
        sessions = {parameter.name for parameter in parameters if _is_session(_bare(parameter.annotation))}
        if callable(key):
            return lambda args, kwargs: (key(*args, **kwargs),)
        if key is not None:
            paths = _texts([key] if isinstance(key, str) else key)
            if sessions and not any(path.partition(".")[0] in sessions for path in paths):
                raise self._cannot_share_a_session(sorted(sessions)[0])
            found = [path_of(path, self.public, looked_at="key=") for path in paths]
            self._counted = tuple(paths)

            def values(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
                arguments = self._arguments(args, kwargs)
                return tuple([path(arguments) for path in found])

            return values
        if self.is_method:
            raise self._cannot(
                "it is a method, and nothing says what of its object tells one value from another",
                f'key=("{parameters[0].name}.shop_id", ...), or the parameters alone: key=(...)',
            )
        if sessions:
            raise self._cannot_share_a_session(sorted(sessions)[0])
        kept = [
            parameter
            for parameter in parameters
            if not (_is_of_a_request(parameter.annotation) or _is_handle(parameter.annotation))
        ]
        for parameter in kept:
            if not takes(parameter.annotation):
                raise self._cannot(
                    f"the values of its parameter {parameter.name} are not known by their value",
                    f'key="{parameter.name}.id", or whatever tells one from another',
                )
        names = [parameter.name for parameter in kept]
        self._counted = tuple(names)
        self._places = [parameters.index(parameter) for parameter in kept]

        def of_all(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
            arguments = self._arguments(args, kwargs)
            return tuple([arguments[name] for name in names])

        return of_all

    def _cannot_share_a_session(self, name: str) -> ConfigurationError:
        return self._cannot(
            "it is given a session, and its key has nothing of it, so one visitor would be shown what is another's",
            f'key=("{name}.user_id", ...)',
        )

    def _cannot(self, why: str, mend: str) -> ConfigurationError:
        return ConfigurationError(
            "cannot-key", f"{self._said} cannot be cached: {why}", looked_at="its signature, key=", mend=mend
        )


def _texts(given: Sequence[str]) -> list[str]:
    if isinstance(given, str) or not all(isinstance(text, str) for text in given):
        raise ConfigurationError(
            "bad-key-path", "tags and paths are a list of texts", looked_at="tags=, key=", mend='tags=["menu"]'
        )
    return list(given)


def _enclosed(function: Callable[..., Any], around: tuple[Any, ...] = ()) -> dict[str, bytes]:
    """What a function has from around it and is known by its value: so two that one function made are told apart."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError, TypeError):  # it is not set yet, or not known by its value
            content = cell.cell_contents
            if not inspect.isfunction(content):
                found[name] = key_bytes(content)
            elif content not in around:
                found[name] = _of_function(content, (*around, function))
    return found


def _of_function(function: Callable[..., Any], around: tuple[Any, ...]) -> bytes:
    name = f"{function.__module__}.{function.__qualname__}:{function.__code__.co_firstlineno}"
    return length_prefixed(name.encode(), key_bytes(_enclosed(function, around)))


def _class_of(owner: Any) -> bytes:
    """What a method does depends on the class of its object, too."""
    kind = owner if isinstance(owner, type) else type(owner)
    return length_prefixed(f"{kind.__module__}.{kind.__qualname__}".encode())


def _is_method(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> bool:
    """Written in a class: its name stands behind that of a class, and its first parameter is called as usual."""
    owner = function.__qualname__.rpartition(".")[0]
    in_class = bool(owner) and not owner.endswith("<locals>")
    return in_class and bool(parameters) and parameters[0].name in ("self", "cls")


def _bare(annotation: Any) -> Any:
    """The type in `Annotated[T, ...]` and `T | None`."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _bare(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        return _bare(members[0]) if len(members) == 1 else annotation
    return annotation


def _is_session(kind: Any) -> bool:
    module = sys.modules.get("serverless_session.sessions.session")
    return module is not None and isinstance(kind, type) and issubclass(kind, module.Session)


def _is_of_a_request(annotation: Any) -> bool:
    return any(name in _OF_A_REQUEST.get(package, ()) for package, name in _ancestry(annotation))


def _is_open(key: KeyPaths | None, parameters: list[inspect.Parameter]) -> bool:
    """Is it given a request of which its key says nothing?"""
    requests = {parameter.name for parameter in parameters if _is_of_a_request(parameter.annotation)}
    if callable(key) or not requests:
        return False
    paths = [] if key is None else [key] if isinstance(key, str) else key
    return not any(path.partition(".")[0] in requests for path in paths)


def _is_handle(annotation: Any) -> bool:
    return any(package in _OF_HANDLES and name in _HANDLES for package, name in _ancestry(annotation))


def _ancestry(annotation: Any) -> list[tuple[str, str]]:
    """Package and name of a type and of those it derives from."""
    kind = _bare(annotation)
    if not isinstance(kind, type):
        kind = typing.get_origin(kind)
    if not isinstance(kind, type):
        return []
    return [(ancestor.__module__.partition(".")[0].lstrip("_"), ancestor.__name__) for ancestor in kind.__mro__]
