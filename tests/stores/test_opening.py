"""From a URL to a store: what cannot be is said when the store is opened, in three lines, before anything is sent."""

import subprocess
import sys

import pytest

from serverless_session.errors import ConfigurationError
from serverless_session.stores import MemcachedStore, MemoryStore, RedisStore, open_store
from serverless_session.stores.memory import ENTRY_BYTES
from serverless_session.stores.opening import open_anew


def lines(error: ConfigurationError) -> list[str]:
    """An error's lines; each has three: what cannot be, what was looked at, what to write."""
    lines = str(error).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"[{error.code}] ")
    assert lines[1].startswith("  looked at: ")
    assert lines[2] == f"  write:     {error.mend}"
    return lines


def test_equal_urls_are_one_store() -> None:
    assert open_store("memory://") is open_store("memory://")
    assert open_store("redis://a.example") is open_store("redis://a.example")
    assert open_store("redis://a.example", max_connections=3) is open_store("redis://a.example", max_connections=3)


def test_other_urls_or_options_are_other_stores() -> None:
    stores = [
        open_store("redis://a.example"),
        open_store("redis://a.example/1"),
        open_store("redis://b.example"),
        open_store("redis://a.example", max_connections=3),
        open_store("redis://a.example", max_connections=4),
        open_store("redis://a.example", may_forget=False),
    ]
    assert len(set(stores)) == len(stores)


def test_opened_anew_is_shared_with_nobody() -> None:
    assert open_anew("memory://") is not open_anew("memory://")
    assert open_anew("memory://") is not open_store("memory://")


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://user:secret@host:6380/2",
        "rediss://host",
        "unix:///run/valkey.sock",
        "redis://[::1]:6379",
    ],
)
def test_the_scheme_chooses_the_store_and_nothing_is_connected_yet(url: str) -> None:
    assert isinstance(open_anew(url), RedisStore)


def test_options_reach_the_store() -> None:
    store = open_anew("memory://", capacity_bytes=1_000)
    assert isinstance(store, MemoryStore)
    assert store.limits.largest_value_bytes == 1_000 - ENTRY_BYTES
    assert open_anew("redis://host").limits.may_forget
    assert not open_anew("redis://host", may_forget=False).limits.may_forget


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("mysql://user:hunter2@host/db", "mysql://"),
        ("memcache://host", "memcache://"),
        ("", "an address without a scheme"),
        ("localhost:6379", "an address without a scheme"),
        ("redis:/host", "an address without a scheme"),
        ("hunter2", "an address without a scheme"),
    ],
)
def test_an_unknown_scheme_is_a_configuration_error(url: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_store(url)
    what, _, mend = lines(refused.value)
    assert refused.value.code == "unknown-store"
    assert named in what
    assert "memory://, redis://, rediss://, unix://" in mend
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2@host:port",
        "redis://:hunter2@host:99999999",
        "redis://:hunter2@host?no_such_option=1",
        "redis://:hunter2@host?socket_timeout=hunter2",
        "rediss://:hunter2@host?ssl_min_version=hunter2",
        "redis://[::1:hunter2",
    ],
)
def test_an_address_that_cannot_be_one_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_store(url)
    assert refused.value.code == "bad-store-url"
    assert "redis://[user:password@]host" in lines(refused.value)[2]
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "memcached://",
        "memcached://user:hunter2@host",
        "memcached://host:hunter2",
        "memcached://host:0",
        "memcached://host:65536",
        "memcached://host/hunter2",
        "memcached://host?hunter2",
        "memcached://one,,two",
        "memcached://one,two,one:11211",
        "memcached://::1",
        "memcached://[hunter2]",
    ],
)
def test_a_memcached_address_that_cannot_be_one_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_store(url)
    assert refused.value.code == "bad-store-url"
    assert "memcached://h1:11211,h2:11211" in lines(refused.value)[2]
    named = {"memcached://one,,two": "node 2 of 3 is no host", "memcached://one,two,one:11211": "node 3 of 3 stands"}
    assert named.get(url, "node 1 of 1 is no host") in lines(refused.value)[1]
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["memcached://host", "MEMCACHED://Host:11211/", "memcached://[::1]:11211,10.0.0.1"])
def test_a_memcached_address_names_one_node_or_several(url: str) -> None:
    assert isinstance(open_anew(url), MemcachedStore)


@pytest.mark.parametrize(
    ("scheme", "package", "extra"), [("redis", "redis", "redis"), ("memcached", "pymemcache", "memcached")]
)
def test_a_missing_client_library_is_named_with_the_command_that_brings_it(
    scheme: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes = (f"{package}.", f"serverless_session.stores.{scheme}")
    for module in [name for name in sys.modules if name == package or name.startswith(homes)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [_No(package), *sys.meta_path])
    import serverless_session.stores as stores

    name = {"redis": "RedisStore", "memcached": "MemcachedStore"}[scheme]
    monkeypatch.delattr(stores, name, raising=False)
    with pytest.raises(ConfigurationError, match=f"{name} needs the package {package}"):
        getattr(stores, name)
    with pytest.raises(ConfigurationError) as refused:
        open_anew(f"{scheme}://:hunter2@host")
    what, _, mend = lines(refused.value)
    assert refused.value.code == "missing-extra"
    assert f"{scheme}://" in what
    assert f'pip install "serverless-session[{extra}]"' in mend
    assert "hunter2" not in str(refused.value)


class _No:
    """An importer that does not find a package."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == self._package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_store_is_imported_only_when_chosen() -> None:
    program = (
        "import sys, serverless_session, serverless_session.stores as stores\n"
        "stores.open_store('memory://')\n"
        "assert 'redis' not in sys.modules, 'redis'\n"
        "stores.open_store('redis://host')\n"
        "assert 'redis' in sys.modules\n"
        "from serverless_session.stores import MemoryStore, RedisStore\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_other_name_is_made_up_by_the_package() -> None:
    import serverless_session.stores

    with pytest.raises(AttributeError, match=r"has no attribute 'MysqlStore'"):
        _ = serverless_session.stores.MysqlStore
