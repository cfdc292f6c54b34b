"""Trips are counted on the wire, for each operation on each store; docs/reference/stores.md shows the same table."""

from pathlib import Path

import pytest

from serverless_session.stores import Failed
from serverless_session.stores.opening import open_anew
from tests.servers import Server
from tests.stores import trips
from tests.stores.trips import ROWS, Row
from tests.wire import TripCounter

SERVERS = {"valkey": 0, "redis7": 0, "redis62": 0, "memcached": 1}
"""The fixture of each server, and its column in the table."""

PAGE = Path(__file__).parent.parent.parent / "docs/reference/stores.md"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("name", SERVERS)
async def test_each_call_takes_the_trips_that_its_row_says(name: str, row: Row, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(name)
    async with TripCounter.to(server.port, scheme=server.url.partition(":")[0]) as wire:
        store, other = open_anew(wire.url), open_anew(server.url)
        operations = await row.prepare(store, other)
        wire.reset()
        outcomes = await store.perform(*operations)
        assert not any(isinstance(outcome, Failed) for outcome in outcomes)
        assert wire.trips == row.trips[SERVERS[name]]
        await store.aclose()
        await other.aclose()


def test_the_documentation_shows_this_table() -> None:
    assert trips.table() in PAGE.read_text()
