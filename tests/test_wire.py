"""The trip counter counts waits, however the bytes are cut. Raw sockets, so that each send is the test's own."""

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from tests.servers import Server
from tests.wire import TripCounter

PING = b"*1\r\n$4\r\nPING\r\n"
PONG = b"+PONG\r\n"


@pytest.fixture
def wire(valkey: Server) -> Iterator[TripCounter]:
    with TripCounter.to(valkey.port) as wire:
        yield wire


@pytest.fixture
def connection(wire: TripCounter) -> Iterator[socket.socket]:
    with connect(wire) as connection:
        yield connection


def connect(wire: TripCounter) -> socket.socket:
    return socket.create_connection(("127.0.0.1", wire.port), timeout=5.0)


def receive(connection: socket.socket, count_bytes: int) -> bytes:
    answer = b""
    while len(answer) < count_bytes:
        piece = connection.recv(count_bytes - len(answer))
        assert piece, f"the connection ended after {answer!r}"
        answer += piece
    return answer


def exchange(connection: socket.socket) -> None:
    connection.sendall(PING)
    assert receive(connection, len(PONG)) == PONG


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def test_nothing_sent_is_no_trip(wire: TripCounter, connection: socket.socket) -> None:
    assert wire.trips == 0


def test_one_command_is_one_trip(wire: TripCounter, connection: socket.socket) -> None:
    exchange(connection)
    assert (wire.trips, wire.connections, wire.sent_bytes, wire.received_bytes) == (1, 1, len(PING), len(PONG))


def test_ten_commands_in_one_burst_are_one_trip(wire: TripCounter, connection: socket.socket) -> None:
    connection.sendall(PING * 10)
    assert receive(connection, 10 * len(PONG)) == PONG * 10
    assert wire.trips == 1


def test_two_commands_one_after_the_other_are_two_trips(wire: TripCounter, connection: socket.socket) -> None:
    exchange(connection)
    exchange(connection)
    assert wire.trips == 2


def test_a_burst_sent_in_pieces_is_one_trip_although_the_server_answers_the_first(
    wire: TripCounter, connection: socket.socket
) -> None:
    for _ in range(20):
        connection.sendall(PING)
    assert receive(connection, 20 * len(PONG)) == PONG * 20
    assert wire.trips == 1


def test_a_burst_that_fits_no_buffer_is_one_trip(wire: TripCounter, connection: socket.socket) -> None:
    writes = [command(b"SET", b"wire:large:%d" % number, bytes(400_000)) for number in range(20)]
    connection.sendall(b"".join(writes))
    assert receive(connection, 20 * 5) == b"+OK\r\n" * 20
    assert wire.trips == 1
    assert wire.sent_bytes == sum(map(len, writes))


def test_an_answer_in_many_pieces_is_one_trip(wire: TripCounter, connection: socket.socket) -> None:
    connection.sendall(command(b"SET", b"wire:value", bytes(4_000_000)))
    assert receive(connection, 5) == b"+OK\r\n"
    wire.reset()
    connection.sendall(command(b"GET", b"wire:value"))
    assert len(receive(connection, 10 + 4_000_000 + 2)) == wire.received_bytes
    assert wire.trips == 1


def test_an_answer_that_takes_long_is_one_trip(wire: TripCounter, connection: socket.socket) -> None:
    connection.sendall(command(b"BLPOP", b"wire:nothing", b"0.05"))
    assert receive(connection, 5) == b"*-1\r\n"
    assert wire.trips == 1


def test_a_client_that_waits_is_never_counted_too_low(wire: TripCounter, connection: socket.socket) -> None:
    for _ in range(300):
        exchange(connection)
    assert wire.trips == 300


def test_connections_side_by_side_add_up(wire: TripCounter) -> None:
    with connect(wire) as first, connect(wire) as second:
        first.sendall(PING)
        second.sendall(PING)
        assert receive(first, len(PONG)) == receive(second, len(PONG)) == PONG
    assert (wire.trips, wire.connections) == (2, 2)


def test_reset_counts_from_there_and_keeps_connections(wire: TripCounter, connection: socket.socket) -> None:
    exchange(connection)
    wire.reset()
    assert (wire.trips, wire.connections, wire.sent_bytes, wire.received_bytes) == (0, 0, 0, 0)
    exchange(connection)
    assert (wire.trips, wire.connections) == (1, 0)


def test_a_cut_ends_the_connections_and_lets_others_in(wire: TripCounter, connection: socket.socket) -> None:
    exchange(connection)
    wire.cut()
    assert connection.recv(1) == b""
    with connect(wire) as another:
        exchange(another)
    assert wire.connections == 2


def test_a_trip_to_memcached(memcached: Server) -> None:
    with TripCounter.to(memcached.port, scheme="memcached") as wire, connect(wire) as connection:
        assert wire.url == f"memcached://127.0.0.1:{wire.port}"
        connection.sendall(b"set a 0 0 1\r\nx\r\nget a\r\n")
        expected = b"STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n"
        assert receive(connection, len(expected)) == expected
        assert wire.trips == 1


def test_the_end_of_the_server_reaches_the_client(wire: TripCounter, connection: socket.socket) -> None:
    connection.sendall(command(b"QUIT"))
    assert receive(connection, 5) == b"+OK\r\n"
    assert connection.recv(1) == b""


def test_a_server_that_is_not_there_hangs_up() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with TripCounter.to(unused.getsockname()[1]) as wire, connect(wire) as connection:
            assert connection.recv(1) == b""
            assert (wire.trips, wire.connections) == (0, 1)


def test_the_end_of_the_counter_ends_its_connections(valkey: Server) -> None:
    with TripCounter.to(valkey.port) as wire:
        connection = connect(wire)
        exchange(connection)
    with connection:
        assert connection.recv(1) == b""


async def test_it_runs_inside_the_loop_of_a_test(valkey: Server) -> None:
    async with TripCounter.to(valkey.port) as wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        for burst in (PING, PING * 3):
            writer.write(burst)
            await reader.readexactly(len(PONG) * (len(burst) // len(PING)))
        assert (wire.trips, wire.connections) == (2, 1)
        writer.close()
        await writer.wait_closed()


def test_holding_an_answer_costs_about_a_millisecond(wire: TripCounter, connection: socket.socket) -> None:
    started = time.perf_counter()
    for _ in range(50):
        exchange(connection)
    assert time.perf_counter() - started < 1.0
