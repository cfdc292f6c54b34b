"""The servers, and the browser, that tests ask for by name: started at the first use, once in each worker, shared by
its tests.

Tests that share a server keep apart by names of their own; one that pauses or kills its server starts it itself with
`tests.servers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests import servers
from tests.servers import Server

if TYPE_CHECKING:
    from tests.browser import Browser


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    with servers.valkey() as server:
        yield server


@pytest.fixture(scope="session")
def redis7() -> Iterator[Server]:
    with servers.redis() as server:
        yield server


@pytest.fixture(scope="session")
def redis62() -> Iterator[Server]:
    with servers.redis_62() as server:
        yield server


@pytest.fixture(scope="session")
def memcached() -> Iterator[Server]:
    with servers.memcached() as server:
        yield server


@pytest.fixture(scope="session", params=["valkey", "redis7", "redis62"])
def redis_server(request: pytest.FixtureRequest) -> Server:
    """Each of the servers that speak Redis's protocol."""
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="session")
def redis_url(redis_server: Server) -> str:
    return redis_server.url


@pytest.fixture(scope="session")
def chromium_of_this_worker() -> Iterator[Browser]:
    from tests.browser import chromium  # Selenium takes a while to import, and few tests need it

    with chromium() as browser:
        yield browser


@pytest.fixture
def browser(chromium_of_this_worker: Browser) -> Iterator[Browser]:
    """A fresh one, that must not have anything to complain of in the end."""
    chromium_of_this_worker.fresh()
    yield chromium_of_this_worker
    assert chromium_of_this_worker.errors() == []
