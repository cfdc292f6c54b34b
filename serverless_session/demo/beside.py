"""The store, seen from beside the shop: opened, asked whether it answers, looked into, and cleaned.

The shop itself never comes here; what it keeps, it keeps through the package alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar
from urllib.parse import urlsplit

from serverless_session.codec.keys import KEY_ID_BYTES
from serverless_session.codec.xaes import NONCE_BYTES, TAG_BYTES
from serverless_session.demo.report import Part
from serverless_session.errors import ConfigurationError, StoreError
from serverless_session.stores.contract import ANYTHING, Found, Store
from serverless_session.stores.opening import open_anew

_T = TypeVar("_T")


def opener(store: Store | str) -> Callable[[], Store]:
    """What opens it for one more copy of the shop: anew, but for a store that lives in this process."""
    if isinstance(store, Store):
        return lambda: store
    opened = open_anew(store)
    return (lambda: opened) if opened.limits.one_process else (lambda: open_anew(store))


async def with_store(open_store: Callable[[], Store], work: Callable[[Store], Awaitable[_T]]) -> _T:
    """Work on a store from a loop of its own."""
    store = open_store()
    try:
        return await work(store)
    finally:
        await store.aclose()


async def probe(store: Store, key: str) -> None:
    """Raise `ConfigurationError` if it does not answer."""
    try:
        await store.read(key)
    except StoreError as error:
        raise ConfigurationError(
            "store-does-not-answer",
            str(error).partition("] ")[2].partition("\n")[0],
            looked_at="--store",
            mend="--store with the address of a server that answers, or nothing for memory://",
        ) from error


async def remove(store: Store, keys: Iterable[str]) -> None:
    """Remove what stands under these keys, as far as the store can be reached."""
    with contextlib.suppress(StoreError):  # what cannot be removed has a short life anyway
        for key in keys:
            await store.delete(key, expect=ANYTHING)


def parts_of(found: Found) -> tuple[Part, ...]:
    """The stored bytes of a session, taken apart."""
    sealed, parts, place = found.value, [], 0
    parts.append(Part(name="version", content=found.version, meaning="new at every write"))
    for name, length, meaning in (
        ("format", 4, "format 1, XAES-256-GCM"),
        ("key id", KEY_ID_BYTES, "which secret sealed it"),
        ("nonce", NONCE_BYTES, "random, never used twice"),
        ("ciphertext", len(sealed) - 4 - KEY_ID_BYTES - NONCE_BYTES - TAG_BYTES, "the session and its end"),
        ("tag", TAG_BYTES, "fits these bytes only"),
    ):
        parts.append(Part(name=name, content=sealed[place : place + length], meaning=meaning))
        place += length
    return tuple(parts)


def printable(content: bytes) -> str:
    """Bytes as a hex dump shows them beside the hex: ASCII, and a dot for the rest."""
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in content)


def described(store: Store | str) -> str:
    """A store's name without user and password."""
    if isinstance(store, Store):
        return type(store).__name__
    parts = urlsplit(store)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
