"""The stores over a network, as tests that hold for each of them want them: where they are, and how they wait.

@pytest.mark.parametrize("kind", KINDS)
async def test_something(kind: Kind, request: pytest.FixtureRequest) -> None:
    server = kind.server(request)
    store = kind.store(server.port)
"""

from dataclasses import dataclass

import pytest

from serverless_session.deadline import may_block
from serverless_session.stores import Store
from serverless_session.stores.opening import open_anew
from tests.servers import Server


@dataclass(frozen=True, slots=True)
class Kind:
    """`fixture`: the server's. `inline`: a client that blocks does so on the loop, as under our Lambda handler."""

    fixture: str
    scheme: str
    inline: bool = False

    def server(self, request: pytest.FixtureRequest) -> Server:
        server: Server = request.getfixturevalue(self.fixture)
        return server

    def store(self, port: int, **options: object) -> Store:
        """A store of its own at a port of this machine; from here on the running context waits as `inline` says."""
        may_block.set(self.inline)
        return open_anew(f"{self.scheme}://127.0.0.1:{port}", **options)

    def __str__(self) -> str:
        return self.fixture + (", inline" if self.inline else "")


KINDS = [Kind("valkey", "redis"), Kind("memcached", "memcached"), Kind("memcached", "memcached", inline=True)]

each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
