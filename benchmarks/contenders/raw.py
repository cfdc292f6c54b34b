"""The limit: a blocking socket that writes bytes and waits for an answer, without a client around it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tests.servers import LOOPBACK

if TYPE_CHECKING:
    from benchmarks.asking import Place


class Socket:
    """Asks one thing at a time, and reads just as much of an answer as tells where it ends."""

    def __init__(self, place: Place) -> None:
        self._socket = socket.create_connection((LOOPBACK, place.port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        place.close_socket(self._socket)

    def ask(self, question: bytes) -> bytes:
        self._socket.sendall(question)
        answer = self._socket.recv(131_072)
        if answer[:1] == b"$":
            head = answer.index(b"\r\n")
            length = int(answer[1:head])  # -1: there is nothing
            whole = head + 2 + (length + 2 if length >= 0 else 0)
            while len(answer) < whole:
                answer += self._socket.recv(131_072)
        return answer


def command(*words: bytes) -> bytes:
    """As Redis takes it: an array of bulk strings."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
