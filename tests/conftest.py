"""The servers that tests ask for by name: started at the first use, once in each worker, shared by its tests.

Tests that share a server keep apart by names of their own; one that pauses or kills its server starts it itself with
`tests.servers`.
"""

from collections.abc import Iterator

import pytest

from tests import servers
from tests.servers import Server


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
