"""Lambda's side of the Runtime API (2018-06-01), which AWS documents and `awslambdaric` speaks, on loopback.

One server stands before one process of a sandbox, so whoever asks it for the next event is that process or a worker of
it. It hands out events, takes answers and errors, and knows who waits; what follows from that (time-outs, the end of
the process) is decided in `sandboxes`.
"""

import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

LOOPBACK: Final = "127.0.0.1"
PREFIX: Final = "/2018-06-01/runtime/"
FUNCTION_ARN: Final = "arn:aws:lambda:eu-west-1:123456789012:function:shop"
ERROR_TYPE: Final = "Lambda-Runtime-Function-Error-Type"


class FunctionError(Exception):
    """What Lambda tells the caller in place of an answer. `kind`: as Lambda names it; `message`: for people."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


@dataclass(eq=False)
class Invocation:
    """One event on its way. `ends`: when its time is over, in seconds since 1970, which is what the process is told."""

    event: Any
    ends: float
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    answer: Any = None
    error: FunctionError | None = None
    is_over: bool = False


class RuntimeApi:
    """The server. Every method may be called from any thread; each wait ends early when the process has ended."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[Invocation] = deque()
        self._open: dict[str, Invocation] = {}
        self._is_restored = False
        self.has_ended = False
        self.init_error: FunctionError | None = None
        self.restore_error: FunctionError | None = None
        self.waiting = 0
        """How many wait for the next event."""
        self.is_snapshot_due = False
        """The process has done what comes before a snapshot, and waits to be restored."""
        self.log: list[str] = []
        """What was asked of us, in order, without the ids of invocations."""

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._server = _Server(self)
        # The default, 0.5 s, would be waited for at every end.
        serve = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        serve.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended()
        self._server.shutdown()
        self._server.server_close()

    # --- for the sandbox ----------------------------------------------------------------------------------------------

    def send(self, event: Any, timeout: float) -> Invocation:
        """Put an event in the queue of those to hand out."""
        invocation = Invocation(event, time.time() + timeout)
        with self._changed:
            self._queue.append(invocation)
            self._open[invocation.id] = invocation
            self._changed.notify_all()
        return invocation

    def restore(self) -> None:
        """Let the process go on, as one of many that a snapshot was restored to."""
        with self._changed:
            self._is_restored = True
            self._changed.notify_all()

    def wait_until(self, happened: Callable[[], bool], timeout: float) -> bool:
        """Has it happened, within so many seconds? The process's end ends the wait, too."""
        with self._changed:
            self._changed.wait_for(lambda: happened() or self.has_ended, timeout)
            return happened()

    def ended(self) -> None:
        """The process is no more: nobody need wait."""
        with self._changed:
            self.has_ended = True
            self._changed.notify_all()

    # --- for the process ----------------------------------------------------------------------------------------------

    def next(self) -> Invocation | None:
        with self._changed:
            self.log.append("next")
            self.waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._queue or self.has_ended)
            self.waiting -= 1
            return None if self.has_ended else self._queue.popleft()

    def take(self, path: str, body: bytes, kind: str) -> bool:
        """What the process posts; False: nobody here knows what it is for."""
        with self._changed:
            match path.split("/"):
                case ["invocation", id, what] if id in self._open and what in ("response", "error"):
                    invocation = self._open.pop(id)
                    if what == "response":
                        invocation.answer = json.loads(body)
                    else:
                        invocation.error = _error(body, kind)
                    invocation.is_over = True
                    self.log.append(what)
                case ["init", "error"]:
                    self.init_error = _error(body, kind)
                    self.log.append("init/error")
                case ["restore", "error"]:
                    self.restore_error = _error(body, kind)
                    self.log.append("restore/error")
                case _:
                    return False
            self._changed.notify_all()
            return True

    def restore_next(self) -> None:
        with self._changed:
            self.log.append("restore/next")
            self.is_snapshot_due = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_restored or self.has_ended)


def _error(body: bytes, kind: str) -> FunctionError:
    told = json.loads(body)
    return FunctionError(told.get("errorType") or kind, told.get("errorMessage", ""))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: RuntimeApi) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self.api = api

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A process that was killed leaves its connections in disorder: that is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer leaves in one piece: else the client's delayed acknowledgement costs 40 ms
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        match self.path.removeprefix(PREFIX):
            case "invocation/next":
                invocation = self.server.api.next()
                if invocation is None:
                    self.close_connection = True
                    return
                headers = {
                    "Content-Type": "application/json",
                    "Lambda-Runtime-Aws-Request-Id": invocation.id,
                    "Lambda-Runtime-Deadline-Ms": str(int(invocation.ends * 1000)),
                    "Lambda-Runtime-Invoked-Function-Arn": FUNCTION_ARN,
                    "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419",
                }
                self._answer(HTTPStatus.OK, json.dumps(invocation.event).encode(), headers)
            case "restore/next":
                self.server.api.restore_next()
                self._answer(HTTPStatus.OK, b"", {})
            case _:
                self._answer(HTTPStatus.NOT_FOUND, b"", {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        known = self.server.api.take(self.path.removeprefix(PREFIX), body, self.headers.get(ERROR_TYPE, ""))
        self._answer(HTTPStatus.ACCEPTED if known else HTTPStatus.BAD_REQUEST, b"", {})

    def _answer(self, status: HTTPStatus, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nobody reads it."""
