"""Each store keeps the contract: ours on memory and every real server, and the one in the contract's docstring."""

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serverless_session.deadline import may_block
from serverless_session.errors import StoreTimeout
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Failed,
    Found,
    MemcachedStore,
    MemoryStore,
    Missing,
    Read,
    RedisStore,
    Store,
    Write,
    contract,
    memcached_links,
    new_version,
    redis_links,
)
from serverless_session.testing import StoreConformance
from tests.servers import Server


class TestMemoryStore(StoreConformance):
    async def open_store(self) -> Store:
        return MemoryStore()


class TestTheStoreOfTheDocstring(StoreConformance):
    async def open_store(self) -> Store:
        assert contract.__doc__ is not None
        (program,) = re.findall(r"^```python\n(.*?)^```$", contract.__doc__, re.MULTILINE | re.DOTALL)
        names: dict[str, Any] = {}
        exec(compile(program, "the docstring of stores/contract.py", "exec"), names)
        store = names["DictStore"]()
        assert isinstance(store, Store)
        return store


@pytest.fixture
def _time_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a connection takes longer than it may; that it may not is tested elsewhere."""
    for module in (redis_links, memcached_links):
        monkeypatch.setattr(module, "CONNECT_SECONDS", 2.0)


@pytest.mark.usefixtures("_time_to_connect")
class TestRedisStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _server(self, redis_server: Server) -> None:
        self.url = redis_server.url

    async def open_store(self) -> Store:
        return RedisStore(self.url)


@pytest.mark.usefixtures("_time_to_connect")
class TestMemcachedStore(StoreConformance):
    """In threads, as everywhere but under our Lambda handler."""

    @pytest.fixture(autouse=True)
    def _server(self, memcached: Server) -> None:
        self.url = memcached.url

    async def open_store(self) -> Store:
        return MemcachedStore(self.url)


class TestMemcachedStoreOnItsLoop(TestMemcachedStore):
    """As under our Lambda handler."""

    @pytest.fixture(autouse=True)
    def _blocking(self, memcached: Server) -> Iterator[None]:
        token = may_block.set(True)
        yield
        may_block.reset(token)
        assert not any(thread.name.startswith("memcached") for thread in threading.enumerate())


# --- wrong use is refused where the operation is made -----------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["", "x" * 201, ".x", "__x", "a b", "a/b", "a\nb", "a\n", "naïve", "a\0", "a*", "{a}", "a%b", "٣"]
)
def test_a_key_that_some_store_could_not_hold_is_refused_by_all(key: str) -> None:
    makers: list[Callable[[str], object]] = [
        Read,
        lambda key: Write(key, b"", ttl=1, version=new_version(), expect=ABSENT),
        lambda key: Delete(key, expect=ANYTHING),
    ]
    for make in makers:
        with pytest.raises(ValueError, match="a store key has 1-200 characters") as refused:
            make(key)
        assert len(key) < 3 or key not in str(refused.value)


@pytest.mark.parametrize("ttl", [0, -1, -0.001, float("inf"), float("nan"), 3.2e9, 1e17])
def test_a_ttl_is_above_0_and_at_most_100_years(ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl"):
        Write("a", b"", ttl=ttl, version=new_version(), expect=ABSENT)


@pytest.mark.parametrize("version", [b"", b"1234567", b"123456789", "12345678", None, 8])
def test_a_version_is_8_bytes(version: Any) -> None:
    makers: list[Callable[[], object]] = [
        lambda: Write("a", b"", ttl=1, version=version, expect=ABSENT),
        lambda: Write("a", b"", ttl=1, version=new_version(), expect=version),
        lambda: Delete("a", expect=version),
    ]
    for make in makers:
        with pytest.raises(ValueError, match="a version is 8 bytes"):
            make()


def test_nothing_can_be_deleted_that_is_expected_to_be_absent() -> None:
    with pytest.raises(ValueError, match="a version is 8 bytes"):
        Delete("a", expect=ABSENT)  # type: ignore[arg-type]


def test_new_versions_differ() -> None:
    versions = {new_version() for _ in range(10_000)}
    assert len(versions) == 10_000
    assert {len(version) for version in versions} == {8}


def test_no_repr_shows_a_key_a_value_or_a_version() -> None:
    key, value, version, expected = "KEYKEYKEY", b"VALVALVAL", b"VERVERVE", new_version()
    found = Found(value, contract.Version(version))
    shown = [
        Read(key),
        Write(key, value, ttl=1, version=contract.Version(version), expect=expected),
        Delete(key, expect=contract.Version(version)),
        found,
        Conflict(found),
        Conflict(Missing()),
        Failed(StoreTimeout("redis at 127.0.0.1 did not answer", seconds=1)),
    ]
    for one in shown:
        for secret in ("KEYKEYKEY", "VALVALVAL", "VERVERVE", repr(bytes(expected)), expected.hex()):
            assert secret not in repr(one)
            assert secret not in f"{one}"


def test_what_an_outcome_meets() -> None:
    version = new_version()
    found, missing = Found(b"", version), Missing()
    assert [found.meets(expected) for expected in (version, new_version(), ABSENT, ANYTHING)] == [
        True,
        False,
        False,
        True,
    ]
    assert [missing.meets(expected) for expected in (version, new_version(), ABSENT, ANYTHING)] == [
        False,
        False,
        True,
        True,
    ]
