"""Records: what features keep is sealed on the way down, opened on the way up, and ends when it was said to."""

import base64
import hashlib
import hmac
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from serverless_session import SharedState
from serverless_session.codec import KeyRing
from serverless_session.codec.keys import hkdf_expand, hkdf_extract
from serverless_session.errors import DamagedValue, StoreTimeout, UnknownFormat, UnknownKey
from serverless_session.records.records import Kept, Records
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Failed,
    Found,
    MemcachedStore,
    MemoryStore,
    Missing,
    Outcome,
    Read,
    RedisStore,
    Store,
    Write,
    Written,
    new_version,
)
from serverless_session.testing import CountingStore, ManualClock
from serverless_session.testing.operations import new_key
from tests.servers import Server
from tests.stores.faults import FaultyWire, silent

SECRET, OLD = "k3Vt9xQzL0pWm7RbYc2NfHs8DgJ5aEu1", "p8Zc4rTn6yVb1QmKx9WsJd3LhGf7eUa2"
YEAR = timedelta(days=365).total_seconds()


def shared_over(
    store: str | Store = "memory://", *, clock: ManualClock | None = None, secret: str | KeyRing = SECRET, **more: str
) -> SharedState:
    return SharedState(store, secret_key=secret, clock=clock or ManualClock(1_800_000_000.0), **more)  # type: ignore[arg-type]


async def one(records: Records, operation: Read | Write | Delete) -> Outcome:
    (outcome,) = await records.perform(operation)
    return outcome


def write(records: Records, key: str, value: object, *, ttl: float = 60.0) -> Write:
    return Write(key, records.pack(value), ttl=ttl, version=new_version(), expect=ABSENT)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_is_namespace_purpose_and_a_digest_of_length_prefixed_parts() -> None:
    records = shared_over(namespace="shop").records("session")
    digest = hashlib.sha256(b"\0\0\0\2id\0\0\0\1x").digest()
    assert records.key(b"id", b"x") == "shop:session:" + base64.urlsafe_b64encode(digest).decode().rstrip("=")
    Read(records.key(b"id", b"x"))  # is a key that every store can hold


def test_other_parts_are_another_key() -> None:
    records = shared_over().records("session")
    keys = {
        records.key(*parts)
        for parts in ([b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"abc", b""], [b"", b"abc"], [], [b""], [b"c", b"ab"])
    }
    assert len(keys) == 8


def test_no_part_stands_in_the_key() -> None:
    records = shared_over().records("session")
    key = records.key(b"user-4711", b"hunter2")
    for part in (b"user-4711", b"hunter2"):
        for shown in (part, base64.urlsafe_b64encode(part).rstrip(b"="), part.hex().encode()):
            assert shown not in key.encode()


def test_purposes_namespaces_and_address_keys_keep_apart() -> None:
    keys = {
        records.key(b"id")
        for records in (
            shared_over().records("session"),
            shared_over().records("idempotency"),
            shared_over(namespace="other").records("session"),
            shared_over(address_key="k" * 40).records("session"),
            shared_over(address_key="l" * 40).records("session"),
        )
    }
    assert len(keys) == 5
    assert len({key.rpartition(":")[2] for key in keys}) == 3, "namespace and purpose stand in front"


def test_an_address_key_makes_the_digest_an_hmac() -> None:
    address_key = hkdf_expand(hkdf_extract(b"", b"a secret of its own"), b"address", 32)
    digest = hmac.digest(address_key, b"\0\0\0\2id", "sha256")
    key = shared_over(address_key="a secret of its own").records("session").key(b"id")
    assert key == "app:session:" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def test_rotating_the_secret_changes_no_key() -> None:
    assert shared_over(secret=SECRET).records("x").key(b"id") == shared_over(secret=OLD).records("x").key(b"id")


# --- values -----------------------------------------------------------------------------------------------------------


async def test_what_was_written_is_kept_with_its_end() -> None:
    clock = ManualClock(1_800_000_000.0)
    records = shared_over(clock=clock).records("session")
    operation = write(records, records.key(b"id"), {"user": 7})
    assert await one(records, operation) == Written()
    kept = await one(records, Read(operation.key))
    assert isinstance(kept, Kept)
    assert records.unpack(kept.value) == {"user": 7}
    assert (kept.version, kept.ends_at) == (operation.version, 1_800_000_060.0)
    assert await one(records, Delete(operation.key, expect=operation.version)) == Deleted()
    assert await one(records, Read(operation.key)) == Missing()


async def test_the_store_sees_only_sealed_bytes_and_digests() -> None:
    store = CountingStore(MemoryStore())
    records = shared_over(store).records("session")
    operation = write(records, records.key(b"user-4711"), {"name": "hunter2"})
    await records.perform(operation, Read(records.key(b"other")))
    (sent, _) = store.operations
    assert isinstance(sent, Write)
    assert sent == replace(operation, value=sent.value), "all but the value is handed on as it is"
    assert sent.value.startswith(b"ss\1\1")
    for secret in (b"hunter2", b"name", b"json", b"user-4711"):
        assert secret not in sent.value + sent.key.encode()
    assert store.calls == 1


async def test_no_repr_of_what_is_kept_shows_it() -> None:
    kept = Kept(b"VALVALVAL", new_version(), ends_at=5.0)
    assert repr(kept) == "Kept(ends_at=5.0)"


async def test_a_conflict_shows_what_stands_there_opened() -> None:
    records = shared_over().records("session")
    key = records.key(b"id")
    first = write(records, key, ["first"])
    await one(records, first)
    refused = await one(records, write(records, key, ["second"]))
    assert isinstance(refused, Conflict)
    assert isinstance(refused.stands, Kept)
    assert records.unpack(refused.stands.value) == ["first"]
    assert refused.stands.version == first.version
    refused = await one(records, Delete(key, expect=new_version()))
    assert isinstance(refused, Conflict)
    assert isinstance(refused.stands, Kept)
    assert records.unpack(refused.stands.value) == ["first"]


async def test_outcomes_stand_in_the_order_of_operations() -> None:
    records = shared_over().records("session")
    writes = [write(records, records.key(b"%d" % number), number) for number in range(10)]
    assert list(await records.perform(*writes)) == [Written()] * 10
    kept = await records.perform(*(Read(operation.key) for operation in reversed(writes)))
    assert [records.unpack(each.value) for each in kept if isinstance(each, Kept)] == list(reversed(range(10)))
    assert await records.perform() == []


# --- the sealed end ---------------------------------------------------------------------------------------------------


def whole_seconds() -> ManualClock:
    """The machine's time without its fraction: sealed ends are kept to the millisecond."""
    return ManualClock(float(int(time.time())))


async def recorded(records: Records, store: Store, key: str, *, ttl: float = 60.0) -> bytes:
    """What stands in the store after a write, as somebody with access to it could keep it."""
    await one(records, write(records, key, {"user": 7}, ttl=ttl))
    found = await store.read(key)
    assert isinstance(found, Found)
    return found.value


async def test_past_its_end_it_is_missing_though_the_store_still_has_it() -> None:
    clock, store = whole_seconds(), MemoryStore()  # the store goes by the machine's clock
    records = shared_over(store, clock=clock).records("session")
    key = records.key(b"id")
    await recorded(records, store, key)
    clock.advance(59.9)
    assert isinstance(await one(records, Read(key)), Kept)
    clock.advance(0.1)
    assert await one(records, Read(key)) == Missing()
    assert await one(records, write(records, key, "new")) == Written(), "and what is absent can be created"
    assert isinstance(await one(records, Read(key)), Kept)
    assert isinstance(await store.read(key), Found)


async def test_of_many_that_create_over_the_dead_one_succeeds(memcached: Server) -> None:
    """A Memcached holds what has ended for up to 2 s more; nobody has to wait for it, and nobody spins."""
    clock = ManualClock()
    store = MemcachedStore(memcached.url)
    counted = CountingStore(store)
    records = shared_over(counted, clock=clock).records("session")
    key = records.key(new_key().encode())
    assert await one(records, write(records, key, "old", ttl=0.5)) == Written()
    clock.advance(0.501)
    assert await one(records, Read(key)) == Missing()
    counted.reset()
    outcomes = [await one(records, write(records, key, number)) for number in range(3)]
    assert outcomes[0] == Written()
    for refused in outcomes[1:]:
        assert isinstance(refused, Conflict)
        assert isinstance(refused.stands, Kept)
        assert records.unpack(refused.stands.value) == 0
    assert counted.calls == 2 + 1 + 1
    await store.aclose()


async def test_recorded_bytes_put_back_for_a_year_end_when_they_were_to() -> None:
    clock, store = whole_seconds(), MemoryStore()
    records = shared_over(store, clock=clock).records("session")
    key = records.key(b"id")
    bytes_of_old = await recorded(records, store, key)
    await store.delete(key, expect=ANYTHING)
    await store.write(key, bytes_of_old, ttl=YEAR, version=new_version(), expect=ANYTHING)
    assert isinstance(await one(records, Read(key)), Kept), "which nobody can tell from never having been deleted"
    clock.advance(60)
    assert await one(records, Read(key)) == Missing()


async def test_a_redis_that_still_has_it_is_not_believed_either(valkey: Server) -> None:
    clock, store = whole_seconds(), RedisStore(valkey.url)
    records = shared_over(store, clock=clock).records("session")
    key = records.key(new_key().encode())
    await recorded(records, store, key, ttl=100.0)
    assert isinstance(await one(records, Read(key)), Kept)
    clock.advance(100)
    assert await one(records, Read(key)) == Missing()
    await store.aclose()


# --- what does not open -----------------------------------------------------------------------------------------------


async def error_of(records: Records, key: str) -> type[Exception]:
    outcome = await one(records, Read(key))
    assert isinstance(outcome, Failed)
    return type(outcome.error)


async def test_damage_is_a_failure_of_that_operation_alone() -> None:
    store = MemoryStore()
    records = shared_over(store).records("session")
    key, beside = records.key(b"id"), records.key(b"beside")
    sealed = await recorded(records, store, key)
    await one(records, write(records, beside, "beside"))
    for damaged in (sealed[:-1], b"", b"anything", sealed[:20] + b"#" + sealed[21:]):
        version = new_version()
        await store.write(key, damaged, ttl=60, version=version, expect=ANYTHING)
        failed, kept = await records.perform(Read(key), Read(beside))
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, DamagedValue)
        assert isinstance(kept, Kept)
        for refused in (
            await one(records, write(records, key, "x")),
            await one(records, Delete(key, expect=new_version())),
        ):
            assert isinstance(refused, Failed), "a conflict with something that does not open"
            assert isinstance(refused.error, DamagedValue)
        found = await store.read(key)
        assert found == Found(damaged, version), "nothing was changed"


async def test_a_value_moved_to_another_key_purpose_or_namespace_is_damage() -> None:
    store = MemoryStore()
    records = shared_over(store).records("session")
    sealed = await recorded(records, store, records.key(b"id"))
    for others in (
        records,
        shared_over(store).records("idempotency"),
        shared_over(store, namespace="other").records("session"),
    ):
        key = others.key(b"another")
        await store.write(key, sealed, ttl=60, version=new_version(), expect=ANYTHING)
        assert await error_of(others, key) is DamagedValue


async def test_an_unknown_secret_or_format_is_no_damage() -> None:
    store = MemoryStore()
    records = shared_over(store, secret=OLD).records("session")
    key = records.key(b"id")
    sealed = await recorded(records, store, key)
    assert await error_of(shared_over(store, secret=SECRET).records("session"), key) is UnknownKey
    rotated = shared_over(store, secret=KeyRing(SECRET, open=[OLD])).records("session")
    assert isinstance(await one(rotated, Read(key)), Kept)
    await store.write(key, b"ss\2" + sealed[3:], ttl=60, version=new_version(), expect=ANYTHING)
    assert await error_of(records, key) is UnknownFormat


# --- time -------------------------------------------------------------------------------------------------------------


async def test_the_shared_time_out_ends_a_call(valkey: Server) -> None:
    async with FaultyWire(valkey.port, then=silent) as wire:
        shared = SharedState(wire.url, secret_key=SECRET, timeout=timedelta(seconds=0.1))
        outcome = await one(shared.records("session"), Read("app:session:a"))
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, StoreTimeout)
        assert outcome.error.seconds == pytest.approx(0.1, abs=0.05)
        await shared.aclose()


async def test_the_store_in_force_is_asked_at_every_call() -> None:
    shared = shared_over()
    records = shared.records("session")
    operation = write(records, records.key(b"id"), 1)
    await one(records, operation)
    with shared.override(store="memory://"):
        assert await one(records, Read(operation.key)) == Missing()
    assert isinstance(await one(records, Read(operation.key)), Kept)
