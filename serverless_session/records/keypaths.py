"""Parts of a call, named in text: `"payment.id"` and `"product:{product_id}"`, resolved against a signature.

A path begins with a parameter; each further name is an attribute, or the key of a mapping, as in
`"request.headers.x-who"`. What names no parameter is an error where it is written. No function is called, and no format
is given: a path says where something stands.
"""

from __future__ import annotations

import inspect
import string
from collections.abc import Callable, Mapping
from typing import Any

from serverless_session.errors import ConfigurationError

Arguments = Mapping[str, Any]
"""Of one call, by the names of the parameters."""


def path_of(path: str, signature: inspect.Signature, *, looked_at: str) -> Callable[[Arguments], Any]:
    """What finds what stands at a path, as `"payment.id"`; it raises `LookupError` where a call has nothing there.

    Raises `ConfigurationError` for what is no path into this signature.
    """
    first, *rest = path.split(".")
    if not first.isidentifier() or not all(rest):
        raise _bad_path(f"{path!r} is no path", looked_at)
    if first not in signature.parameters:
        raise _bad_path(
            f"{path!r} begins with no parameter ({', '.join(signature.parameters) or 'there is none'})", looked_at
        )

    def value(arguments: Arguments) -> Any:
        found = arguments[first]
        for name in rest:
            found = _below(found, name, path)
        return found

    return value


def template_of(template: str, signature: inspect.Signature, *, looked_at: str) -> Callable[[Arguments], str]:
    """A text with paths in it, as `"product:{product_id}"`. Raises as `path_of` does."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise _bad_path(f"{template!r} cannot be read ({error})", looked_at) from None
    if any(format_ or conversion for _, _, format_, conversion in parsed):
        raise _bad_path(f"{template!r} has a format; only paths stand in it", looked_at)
    parts = [
        (text, None if path is None else path_of(path, signature, looked_at=looked_at)) for text, path, _, _ in parsed
    ]
    if all(path is None for _, path in parts):
        constant = "".join(text for text, _ in parts)
        return lambda arguments: constant
    return lambda arguments: "".join(text + ("" if path is None else str(path(arguments))) for text, path in parts)


def _below(found: Any, name: str, path: str) -> Any:
    if type(found) is not dict and hasattr(found, name):  # a request is a mapping, too
        return getattr(found, name)
    if isinstance(found, Mapping) and name in found:
        return found[name]
    raise LookupError(f"nothing stands at {path!r}: there is no {name!r} in a {type(found).__qualname__}")


def _bad_path(why: str, looked_at: str) -> ConfigurationError:
    return ConfigurationError(
        "bad-key-path", why, looked_at=looked_at, mend='a path that begins with a parameter, as "payment.id"'
    )
