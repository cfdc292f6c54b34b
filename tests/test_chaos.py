"""Each fault does what it says, and says so. Raw sockets, so that each send is the test's own."""

import random
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests import chaos, servers
from tests.chaos import Chaos, Fault
from tests.servers import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Of our own: it is paused."""
    with servers.valkey() as server:
        yield server


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5.0)


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def ask(connection: socket.socket, *words: bytes) -> bytes:
    """The answer, or what came of it before the connection ended."""
    connection.sendall(command(*words))
    answer = b""
    while not answer.endswith(b"\r\n"):
        piece = connection.recv(65536)
        if not piece:
            break
        answer += piece
    return answer


def stands(server: Server, key: bytes) -> bool:
    with connect(server.port) as direct:
        return ask(direct, b"EXISTS", key) == b":1\r\n"


def lands(server: Server, key: bytes) -> None:
    give_up_at = time.monotonic() + 5
    while not stands(server, key):
        assert time.monotonic() < give_up_at


def test_an_honest_wire_hands_everything_on(server: Server) -> None:
    with Chaos(server, script=[]) as wire, connect(wire.port) as client:
        value = random.Random(1).randbytes(1_000_000).hex().encode()
        assert ask(client, b"SET", b"honest", value) == b"+OK\r\n"
        assert ask(client, b"GET", b"honest") == b"$2000000\r\n" + value + b"\r\n"
        assert wire.injected == {Fault.HONEST: 2}


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.REFUSED])
def test_a_reset_burst_reaches_nobody(server: Server, fault: Fault) -> None:
    with Chaos(server, script=[fault]) as wire, connect(wire.port) as client:
        with pytest.raises(ConnectionResetError):
            ask(client, b"SET", fault.value.encode(), b"")
        assert not stands(server, fault.value.encode())
        assert wire.copies(fault.value.encode()) == 0


def test_after_a_refusal_nobody_is_let_in_for_a_while(server: Server) -> None:
    with Chaos(server, script=[Fault.REFUSED]) as wire, connect(wire.port) as client:
        with pytest.raises(ConnectionResetError):
            ask(client, b"PING")
        refused = 0
        while True:
            try:
                with connect(wire.port) as again:
                    assert ask(again, b"PING") == b"+PONG\r\n"
                    break
            except (ConnectionRefusedError, ConnectionResetError):  # reset: it knocked just before the door was shut
                refused += 1
        assert refused > 0


def test_silence_is_for_good(server: Server) -> None:
    with Chaos(server, script=[Fault.SILENT]) as wire, connect(wire.port) as client:
        client.settimeout(0.05)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                ask(client, b"SET", b"silent", b"")
        assert not stands(server, b"silent")


def test_what_is_late_lands_although_the_client_is_gone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with Chaos(server, script=[Fault.LATE]) as wire:
        monkeypatch.setattr(wire.random, "uniform", lambda _, longest: longest)
        with closing(connect(wire.port)) as client:
            client.sendall(command(b"SET", b"late", b"mark"))
            time.sleep(0.05)
        assert wire.copies(b"mark") == 0
        assert not stands(server, b"late")
        lands(server, b"late")
        assert wire.copies(b"mark") == 1
        assert wire.copies(b"another") == 0


def test_what_is_late_is_answered_to_who_waits(server: Server) -> None:
    with Chaos(server, script=[Fault.LATE, Fault.LATE]) as wire, connect(wire.port) as client:
        begun = time.monotonic()
        assert [ask(client, b"PING") for _ in range(2)] == [b"+PONG\r\n"] * 2
        assert time.monotonic() - begun > 0.01


def test_an_answer_is_lost_but_not_what_it_answered(server: Server) -> None:
    with Chaos(server, script=[Fault.ANSWER_LOST]) as wire, connect(wire.port) as client:
        assert ask(client, b"SET", b"lost", b"") == b""
        lands(server, b"lost")


def test_an_answer_is_cut_in_its_middle(server: Server) -> None:
    with Chaos(server, script=[Fault.ANSWER_CUT]) as wire, connect(wire.port) as client:
        assert ask(client, b"ECHO", b"0123456789") == b"$10\r\n012"


def test_a_trickle_comes_whole_and_slowly(server: Server) -> None:
    with Chaos(server, script=[Fault.TRICKLE]) as wire, connect(wire.port) as client:
        begun = time.monotonic()
        assert ask(client, b"PING") == b"+PONG\r\n"
        assert time.monotonic() - begun >= 6 * 0.001
        assert ask(client, b"PING") == b"+PONG\r\n"


def test_a_pause_is_for_everybody_and_ends(server: Server) -> None:
    with Chaos(server, script=[Fault.PAUSED], seed=1) as wire, connect(wire.port) as client:
        pause = random.Random(1).uniform(0, chaos.PAUSE)
        begun = time.monotonic()
        client.sendall(command(b"PING"))
        assert ask(client, b"PING").startswith(b"+PONG\r\n")
        assert time.monotonic() - begun > pause / 2


def test_faults_come_by_their_odds_and_the_same_for_the_same_seed(server: Server) -> None:
    def drawn(seed: int) -> list[Fault]:
        wire = Chaos(server, seed=seed, odds={Fault.LATE: 0.1, Fault.RESET: 0.01})
        return [wire.draw() for _ in range(10_000)]

    faults = drawn(1)
    assert faults == drawn(1) != drawn(2)
    assert 800 < faults.count(Fault.LATE) < 1200
    assert 50 < faults.count(Fault.RESET) < 150
