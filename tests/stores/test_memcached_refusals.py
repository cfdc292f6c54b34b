"""What a Memcached refuses, and that the error says what to do: no memory, values too large, a server that wants to
know who asks, and answers that only look like its own."""

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from serverless_session.errors import StoreUnavailable, WriteUncertain
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Delete,
    Deleted,
    Found,
    Missing,
    Operation,
    Read,
    Store,
    Version,
    Written,
    new_version,
)
from serverless_session.testing.operations import new_key, one, present, write
from tests import servers
from tests.servers import Server
from tests.stores.fault_table import fill_up
from tests.stores.faults import says
from tests.stores.networked import (
    MEMCACHED,
    MEMCACHED_INLINE,
    Networked,
    closed_port,
    error_of,
    every_kind,
    kinds,
    timed,
)

BOTH = pytest.mark.parametrize("networked", [MEMCACHED, MEMCACHED_INLINE], ids=lambda networked: networked.name)


@contextlib.asynccontextmanager
async def filled(networked: Networked) -> AsyncIterator[tuple[Store, list[str]]]:
    """A store over a server that has no room and may not evict, and keys from before it was full."""
    with servers.memcached("-M", "-m", "3") as server:
        async with networked.to(server) as store:
            keys = [(await present(store))[0] for _ in range(4)]
            await asyncio.to_thread(fill_up, server.port)
            yield store, keys


@BOTH
async def test_a_full_server_refuses_each_write_of_a_call_and_answers_its_reads(networked: Networked) -> None:
    async with filled(networked) as (store, keys):
        read, *written = await timed(store, Read(keys[0]), *(write(new_key(), expect=ABSENT) for _ in range(3)))
        assert isinstance(read, Found)
        for refused in written:
            error = error_of(refused)
            assert type(error) is StoreUnavailable
            assert "memcached -m" in error.mend


def both(key: str, version: Version) -> list[Operation]:
    return [write(key, expect=version), Delete(key, expect=version)]


@BOTH
async def test_a_full_server_keeps_what_a_refused_write_wanted_to_replace(networked: Networked) -> None:
    async with filled(networked) as (store, keys):
        found = await store.read(keys[0])
        assert isinstance(found, Found)
        operations: list[Operation] = [
            write(keys[0], b"x" * 3, expect=found.version),
            Delete(keys[0], expect=found.version),
        ]
        for operation in operations:
            assert kinds(await timed(store, operation)) == [StoreUnavailable]
            assert await one(store, Read(keys[0])) == found
        assert await one(store, Delete(keys[0], expect=ANYTHING)) == Deleted(), "which takes no memory"


@BOTH
async def test_a_refused_write_over_anything_may_have_removed_it(networked: Networked) -> None:
    """Memcached removes what it cannot replace, so that nobody reads what is out of date."""
    async with filled(networked) as (store, keys):
        assert kinds(await timed(store, write(keys[0], expect=ANYTHING))) == [WriteUncertain]
        assert await one(store, Read(keys[0])) == Missing()


@BOTH
async def test_a_refusal_in_the_middle_of_a_call_costs_its_other_operations_nothing(networked: Networked) -> None:
    """Numbers that were read before it are of no use after it: what stands there is looked up again."""
    with servers.memcached("-I", "512k") as server:
        async with networked.to(server) as store:
            keys = [(await present(store))[0] for _ in range(2)]
            versions = [found.version for key in keys if isinstance(found := await store.read(key), Found)]
            outcomes = await timed(
                store,
                write(new_key(), bytes(600_000), expect=ABSENT),
                write(keys[0], expect=versions[0]),
                Delete(keys[1], expect=versions[1]),
                write(new_key(), bytes(600_000), expect=ABSENT),
                Read(new_key()),
                write(new_key(), expect=ABSENT),
            )
            assert kinds([outcomes[0], outcomes[3]]) == [StoreUnavailable] * 2
            assert [outcomes[1], outcomes[2], *outcomes[4:]] == [Written(), Deleted(), Missing(), Written()]


@BOTH
async def test_a_value_larger_than_the_server_takes_says_which_option(networked: Networked) -> None:
    with servers.memcached("-I", "512k") as server:
        async with networked.to(server) as store:
            key, version = await present(store)
            for operation in (
                write(new_key(), bytes(600_000), expect=ABSENT),
                write(key, bytes(600_000), expect=version),
            ):
                error = error_of((await timed(store, operation))[0])
                assert type(error) is StoreUnavailable
                assert "largest_value_bytes" in error.mend
            assert await one(store, Read(key)) == Found(b"old", version), "the old value stands"


@contextlib.contextmanager
def asks_who_is_there(folder: Path) -> Iterator[str]:
    """The address of a memcached that answers nobody who has not said who they are; `stats` neither."""
    (folder / "passwords").write_text("app:secret\n")
    program, port = servers.on_path("memcached"), closed_port()
    user = ["-u", "root"] if os.geteuid() == 0 else []
    options = ["-l", "127.0.0.1", "-p", str(port), "-U", "0", "-Y", str(folder / "passwords"), *user]
    with subprocess.Popen([program, *options]) as process:
        try:
            give_up_at = time.monotonic() + 10.0
            while time.monotonic() < give_up_at:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.01)
            yield f"memcached://127.0.0.1:{port}"
        finally:
            process.kill()


@BOTH
async def test_a_server_that_wants_credentials_says_so(networked: Networked, tmp_path: Path) -> None:
    with asks_who_is_there(tmp_path) as url:
        store = networked.store(url)
        for operation in every_kind():
            error = error_of((await timed(store, operation))[0])
            assert type(error) is StoreUnavailable
            assert "-Y" in error.mend
        await store.aclose()


@BOTH
@pytest.mark.parametrize("refusal", [b"ERROR\r\n", b"CLIENT_ERROR \r\n", b"CLIENT_ERROR \xff\xfe of a proxy\r\n"])
async def test_a_refusal_that_nobody_knows_is_unavailable_and_points_to_the_log(
    networked: Networked, refusal: bytes, memcached: Server
) -> None:
    async with networked.behind(memcached, then=says(refusal)) as (store, wire):
        for operation in (Read(new_key()), write(new_key(), expect=ABSENT), Delete(new_key(), expect=new_version())):
            error = error_of((await timed(store, operation))[0])
            assert type(error) is StoreUnavailable
            assert "memcached" in error.mend
        assert wire.connections == 3, "a refusal is an answer, and nothing is sent again"


@BOTH
@pytest.mark.parametrize("error", [b"SERVER_ERROR\r\n", b"SERVER_ERROR \xff\xfe of a proxy\r\n"])
async def test_an_error_that_nobody_knows_leaves_writes_in_doubt(
    networked: Networked, error: bytes, memcached: Server
) -> None:
    async with networked.behind(memcached, then=says(error)) as (store, _):
        assert kinds(await timed(store, Read(new_key()))) == [StoreUnavailable]
        assert kinds(await timed(store, write(new_key(), expect=ABSENT))) == [WriteUncertain]
        assert kinds(await timed(store, write(new_key(), expect=ANYTHING))) == [WriteUncertain]
