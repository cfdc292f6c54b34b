"""SIGTERM, and who else hears it."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

BEGIN = """
    import asyncio, os, signal, sys, time
    from contextlib import asynccontextmanager
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from serverless_session import LambdaHandler
    from tests.aws.events import Context, event_v2

    def served(name):
        @asynccontextmanager
        async def lifespan(app):
            yield
            os.write(1, f"stopped {name}\\n".encode())  # in one piece: the other may stop at the same time

        async def ok(request):
            return PlainTextResponse("ok")

        handler = LambdaHandler(Starlette(routes=[Route("/", ok)], lifespan=lifespan))
        handler(event_v2(), Context())
        return handler

    def users_exit(number, frame):
        sys.exit(5)
"""


def ended(program: str) -> tuple[list[str], int, str]:
    """What a program prints that gets SIGTERM once it has printed "ready", its exit code, and its complaints."""
    process = subprocess.Popen(
        # Not by `print`: a handler that prints in the middle of it would fail.
        [sys.executable, "-c", textwrap.dedent(BEGIN + program) + "\nos.write(1, b'ready\\n'); time.sleep(30)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    said, complained = process.communicate(timeout=30)
    return said.splitlines(), process.returncode, complained


def test_every_handler_of_a_module_is_ended_and_then_the_process() -> None:
    assert ended("""
    first, second = served("first"), served("second")
    """) == (["stopped second", "stopped first"], 0, "")


@pytest.mark.parametrize("handlers", [1, 2])
def test_a_handler_of_the_user_from_before_decides_and_nothing_is_ended_twice(handlers: int) -> None:
    said, code, complained = ended(f"""
    signal.signal(signal.SIGTERM, users_exit)
    kept = [served(str(number)) for number in range({handlers})]
    """)
    assert sorted(said) == ["stopped 0", "stopped 1"][:handlers]
    assert (code, complained) == (5, "")


def test_a_handler_of_the_user_from_since_decides() -> None:
    said, code, complained = ended("""
    def users_slow(number, frame):
        time.sleep(0.5)
        print("the user's", flush=True)
        sys.exit(6)

    kept = served("app")
    signal.signal(signal.SIGTERM, users_slow)
    """)
    assert said == ["stopped app", "the user's"]
    assert (code, complained) == (6, "")


@pytest.mark.parametrize(("since", "child_code", "code"), [("users_exit", 5, 5), ("None", -signal.SIGTERM, 0)])
def test_a_fork_hears_what_the_user_has_set_since_and_nothing_of_ours(since: str, child_code: int, code: int) -> None:
    assert ended(f"""
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads

    kept = served("app")
    if {since}:
        signal.signal(signal.SIGTERM, {since})
    child = os.fork()
    if child == 0:
        signal.raise_signal(signal.SIGTERM)
        os._exit(7)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == {child_code:d}, code
    """) == (["stopped app"], code, "")


def test_a_descriptor_of_somebody_else_does_not_swallow_the_signal() -> None:
    assert ended("""
    kept = served("app")

    async def hear_something_else():
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)

    asyncio.run(hear_something_else())
    """) == (["stopped app"], 0, "")


def test_a_child_that_is_ended_at_once_ends_alone() -> None:
    """What a signal writes between the fork and the child's first step would be in the pipe that its parent hears."""
    said, code, complained = ended("""
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads

    kept = served("app")
    ends = set()
    for _ in range(200):
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        ends.add(os.waitpid(child, 0)[1])
    assert ends == {signal.SIGTERM}, ends
    """)
    assert said == ["stopped app"]
    assert (code, complained) == (0, "")
