"""A sandbox as Lambda runs it: `python -m awslambdaric` as a process of its own, behind our server of its Runtime API.

What Lambda does to a function is a method here: an event, a freeze between two events, the kill when an event's time is
over, a new process after that or after a crash, SIGTERM, a snapshot and its restore. What can be seen of a process from
outside is a property: its threads, its memory, its sockets. Linux only, as Lambda is.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.aws.runtime_api import FunctionError, RuntimeApi
from tests.servers import dies_with_us
from tests.sessions.apps import SECRET

ROOT: Final = Path(__file__).parent.parent.parent
LIMIT: Final = 30.0
"""Seconds after which a wait has failed, however busy the machine."""
POLLS_IN_A_THREAD: Final = "AWS_Lambda_python3.13"
"""As an execution environment: one of those (3.12 and later) in which the client waits for the next event in another
thread, so that the main thread can hear signals. It goes by this name, not by the Python that runs."""
WAITS_ITSELF: Final = "AWS_Lambda_python3.11"


def over(url: str) -> dict[str, str]:
    """The configuration of a function whose sessions are in the store at `url`."""
    return {
        "SERVERLESS_SESSION_STORE": url,
        "SERVERLESS_SESSION_SECRET_KEY": SECRET,
        "SERVERLESS_SESSION_TIMEOUT": str(LIMIT),  # a busy machine is no failure
    }


class LambdaSandbox:
    """One sandbox of the function `handler`, "module.name". `with` starts it, and ends it as Lambda does: by a kill.

    `environment`: what the function is configured with. `execution_environment`: Lambda's name of its Python.
    `initialization`: "on-demand" or "snap-start", where `restore()` must follow. `workers`: of a managed instance, each
    a fork that serves events; 0: there is one process, and it serves one event at a time.
    """

    def __init__(
        self,
        handler: str,
        environment: Mapping[str, str],
        *,
        execution_environment: str = POLLS_IN_A_THREAD,
        initialization: str = "on-demand",
        workers: int = 0,
    ) -> None:
        self._handler = handler
        self._workers = workers
        self._initialization = "lambda-managed-instances" if workers else initialization
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "_HANDLER": handler,
            "LAMBDA_TASK_ROOT": str(ROOT),
            "AWS_REGION": "eu-west-1",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_EXECUTION_ENV": execution_environment,
            "AWS_LAMBDA_FUNCTION_NAME": "shop",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/shop",
            "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0123456789abcdef0123456789abcdef",
            "AWS_LAMBDA_INITIALIZATION_TYPE": self._initialization,
            **({"AWS_LAMBDA_MAX_CONCURRENCY": str(workers)} if workers else {}),
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.is_frozen = False
        self.starts = 0
        """How many processes it has had."""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="sandbox-")
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._folder.cleanup()

    # --- what Lambda does ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process, until it asks for its first event, or for its restore. Raises what it reports instead."""
        self.kill()  # what may be left of the one before
        self._api = RuntimeApi()
        self._api.__enter__()
        self.is_frozen = False
        self.starts += 1
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [*dies_with_us(), sys.executable, "-m", "awslambdaric", self._handler],
                cwd=ROOT,
                env={**self._environment, "AWS_LAMBDA_RUNTIME_API": self._api.address},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a process group, workers included
            )
        threading.Thread(target=_watch, args=(self._process, self._api), daemon=True).start()
        if self._initialization == "snap-start":
            self._api.wait_until(lambda: self._api.is_snapshot_due or self._api.init_error is not None, LIMIT)
            is_up = self._api.is_snapshot_due
        else:
            is_up = self._wait_until_up()
        if self._api.init_error is not None:
            self._wait_for_the_end()
            raise self._api.init_error
        if not is_up:
            raise FunctionError("Runtime.ExitError", f"it did not start. Its output:\n{self.output}")

    def restore(self) -> None:
        """Go on after the snapshot, until it asks for its first event. Raises what it reports instead."""
        self._api.restore()
        is_up = self._wait_until_up()
        if self._api.restore_error is not None:
            self._wait_for_the_end()
            raise self._api.restore_error
        if not is_up:
            raise FunctionError("Runtime.ExitError", f"it was not restored. Its output:\n{self.output}")

    def _wait_until_up(self) -> bool:
        def is_up() -> bool:
            api = self._api
            return api.waiting >= max(self._workers, 1) or api.init_error is not None or api.restore_error is not None

        return self._api.wait_until(is_up, LIMIT)

    def invoke(self, event: Any, *, timeout: float = LIMIT) -> Any:
        """The answer to `event`; a sandbox that has ended starts anew for it, and a frozen one goes on.

        Returns when the process asks for the next event, as that is when Lambda freezes it. Raises `FunctionError` with
        what the function reports, or with what Lambda says of a process that ended or was not done in time.
        """
        if self.pid is None:
            self.start()
        self.thaw()
        invocation = self._api.send(event, timeout)
        self._api.wait_until(lambda: invocation.is_over, timeout)
        if not invocation.is_over:
            self._gave_no_answer(timeout)
        if not self._workers:  # of many, one always waits
            self._api.wait_until(lambda: self._api.waiting > 0, LIMIT)
        if invocation.error is not None:
            raise invocation.error
        return invocation.answer

    def _gave_no_answer(self, timeout: float) -> None:
        if self._api.has_ended:
            code = self._wait_for_the_end()
            raise FunctionError("Runtime.ExitError", f"Runtime exited with error: exit status {code}")
        self.kill()
        raise FunctionError("Sandbox.Timedout", f"Task timed out after {timeout:.2f} seconds")

    def freeze(self) -> None:
        """Stop it; returns when it has."""
        assert self._process is not None
        if not self.is_frozen:
            self._signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            self.is_frozen = True

    def thaw(self) -> None:
        if self.is_frozen:
            self._signal(signal.SIGCONT)
            self.is_frozen = False

    def terminate(self, *, grace: float = LIMIT) -> int | None:
        """SIGTERM, then so many seconds; the exit code, or None if it had to be killed."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def kill(self) -> None:
        """End it, and all of its workers, at once."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._wait_for_the_end()
            self._process = None
            self._api.__exit__(None, None, None)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _wait_for_the_end(self) -> int:
        assert self._process is not None
        return self._process.wait(LIMIT)

    # --- what is seen of it -------------------------------------------------------------------------------------------

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "log"

    @property
    def output(self) -> str:
        """What it has printed and logged, all of its processes."""
        return self._log.read_text(errors="replace")

    @property
    def asked(self) -> list[str]:
        """What the process has asked of the Runtime API, in order."""
        return list(self._api.log)

    @property
    def pid(self) -> int | None:
        """Of the process that there is now, if any."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    @property
    def worker_pids(self) -> list[int]:
        """Of a managed instance's workers."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    @property
    def threads(self) -> int:
        return int(self._status("Threads"))

    @property
    def resident_kib(self) -> int:
        return int(self._status("VmRSS").removesuffix(" kB"))

    def _status(self, name: str) -> str:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))

    def sockets(self, port: int) -> dict[str, int]:
        """Its TCP sockets to `port`; of a managed instance the main process's."""
        assert self.pid is not None
        return sockets_of(self.pid, port)


def _watch(process: subprocess.Popen[bytes], api: RuntimeApi) -> None:
    with suppress(ChildProcessError):  # somebody was faster
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is reaped by whoever asks for its exit code
    api.ended()


def sockets_of(pid: int, port: int) -> dict[str, int]:
    """The TCP sockets of a process to `port`: "socket:[inode]", the same for two that share one, and its own port."""
    opened = set[str]()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            opened.add(str(descriptor.readlink()))
    found = {}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, here, there, *_, inode = line.split()[:10]
        if _port(there) == port and (name := f"socket:[{inode}]") in opened:
            found[name] = _port(here)
    return found


def _port(address: str) -> int:
    return int(address.partition(":")[2], 16)
