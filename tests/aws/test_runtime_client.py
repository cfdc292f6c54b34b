"""The handler under the client that AWS runs, through everything that Lambda does to a sandbox, over real stores."""

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from serverless_session.codec.xaes import NONCE_BYTES
from serverless_session.stores.contract import VERSION_BYTES
from tests import servers
from tests.aws.runtime_api import FunctionError
from tests.aws.visitors import Visitor
from tests.servers import Server
from tests.wire import TripCounter

if sys.platform == "linux":
    from tests.aws.sandboxes import LIMIT, POLLS_IN_A_THREAD, WAITS_ITSELF, LambdaSandbox, over, sockets_of
else:
    pytest.skip("Lambda is Linux, and so are the wheels of its client", allow_module_level=True)

LAMBDAS_DEFAULT = 3.0
"""Seconds that a function may take where nobody said otherwise."""
LEAK_KIB = 2048
"""More than 1,000 invocations may leave behind; an array of 10 KiB each would be five times as much."""


@pytest.fixture(params=["valkey", "memcached"])
def wire(request: pytest.FixtureRequest) -> Iterator[TripCounter]:
    """The way to a real store, which can be cut."""
    server: Server = request.getfixturevalue(request.param)
    with TripCounter.to(server.port, scheme=server.url.partition("://")[0]) as counter:
        yield counter


def sandbox_over(
    wire: TripCounter,
    handler: str = "tests.aws.shop.handler",
    *,
    execution_environment: str = POLLS_IN_A_THREAD,
    initialization: str = "on-demand",
    workers: int = 0,
    **variables: str,
) -> LambdaSandbox:
    return LambdaSandbox(
        handler,
        {**over(wire.url), **variables},
        execution_environment=execution_environment,
        initialization=initialization,
        workers=workers,
    )


@pytest.fixture
def sandbox(wire: TripCounter) -> Iterator[LambdaSandbox]:
    with sandbox_over(wire) as started:
        yield started


@pytest.fixture
def ann() -> Visitor:
    return Visitor()


def log_in(ann: Visitor, sandbox: LambdaSandbox) -> None:
    assert ann.take(sandbox.invoke(ann.event("POST", "/login", body="ann"))) == {"user": "ann"}


@pytest.mark.parametrize("execution_environment", [POLLS_IN_A_THREAD, WAITS_ITSELF])
def test_a_session_from_login_to_logout(wire: TripCounter, ann: Visitor, execution_environment: str) -> None:
    with sandbox_over(wire, execution_environment=execution_environment) as sandbox:
        log_in(ann, sandbox)
        for number in range(1, 6):
            assert ann.take(sandbox.invoke(ann.event("POST", "/count"))) == {"user": "ann", "count": number}
        copied = Visitor()
        copied.cookies = dict(ann.cookies)
        assert ann.take(sandbox.invoke(ann.event("POST", "/logout"))) == {}
        assert ann.cookies == {}
        assert copied.take(sandbox.invoke(copied.event("GET", "/view"))) == {}
        assert sandbox.output.splitlines() == ["the shop opens"]


def test_a_slow_request_is_answered_if_its_time_is_enough(sandbox: LambdaSandbox, ann: Visitor) -> None:
    assert ann.take(sandbox.invoke(ann.event("POST", "/slow", query="seconds=0.2"))) == {"count": 1}


def test_a_thousand_invocations_share_one_connection_and_leave_nothing(
    wire: TripCounter, sandbox: LambdaSandbox, ann: Visitor
) -> None:
    """THREATS 49: one loop that is started anew for every event would start threads and connections anew, too."""

    def invoke(numbers: range) -> None:
        for number in numbers:
            ann.take(sandbox.invoke(ann.event("POST", "/thread" if number % 2 else "/count")))

    log_in(ann, sandbox)
    invoke(range(10))
    threads = fewest_threads(sandbox)
    invoke(range(10, 200))
    resident = sandbox.resident_kib
    invoke(range(200, 1000))
    kept = ann.take(sandbox.invoke(ann.event("GET", "/view")))
    assert (kept["count"], kept["in a thread"], len(kept["threads"])) == (500, 500, 1)
    assert fewest_threads(sandbox) <= threads
    assert sandbox.resident_kib <= resident + LEAK_KIB
    assert wire.connections == len(sandbox.sockets(wire.port)) == 1
    assert sandbox.starts == 1


def fewest_threads(sandbox: LambdaSandbox) -> int:
    """A thread that has been joined is seen for a moment yet."""
    seen = []
    for _ in range(20):
        seen.append(sandbox.threads)
        time.sleep(0.005)
    return min(seen)


def test_the_first_write_after_a_freeze_succeeds_though_the_connection_was_cut(
    wire: TripCounter, sandbox: LambdaSandbox, ann: Visitor
) -> None:
    log_in(ann, sandbox)
    bob = Visitor()  # of whom nothing is read before the write
    for visitor, kept in ((ann, {"user": "ann", "count": 1}), (bob, {"count": 1})):
        sandbox.freeze()
        wire.cut()
        time.sleep(1)
        connections = wire.connections
        assert visitor.take(sandbox.invoke(visitor.event("POST", "/count"))) == kept
        assert visitor.take(sandbox.invoke(visitor.event("GET", "/view"))) == kept
        assert wire.connections == connections + 1
        assert len(sandbox.sockets(wire.port)) == 1
    assert sandbox.starts == 1


def test_a_kill_at_the_end_of_the_time_leaves_the_session_as_it_was(sandbox: LambdaSandbox, ann: Visitor) -> None:
    log_in(ann, sandbox)
    ann.take(sandbox.invoke(ann.event("POST", "/count")))
    with pytest.raises(FunctionError, match=r"Task timed out after 3\.00 seconds"):
        sandbox.invoke(ann.event("POST", "/use-up"), timeout=LAMBDAS_DEFAULT)
    assert "using up the time" in sandbox.output
    assert ann.take(sandbox.invoke(ann.event("GET", "/view"))) == {"user": "ann", "count": 1}
    assert ann.take(sandbox.invoke(ann.event("POST", "/count"))) == {"user": "ann", "count": 2}
    assert sandbox.starts == 2


def test_a_request_that_waits_too_long_is_503_before_lambda_ends_it(sandbox: LambdaSandbox, ann: Visitor) -> None:
    """THREATS 40."""
    log_in(ann, sandbox)
    answer = sandbox.invoke(ann.event("POST", "/slow", query="seconds=60"), timeout=LAMBDAS_DEFAULT)
    assert answer["statusCode"] == 503
    assert ann.take(sandbox.invoke(ann.event("GET", "/view"))) == {"user": "ann"}
    assert sandbox.starts == 1


def test_a_crash_leaves_the_session_as_it_was(sandbox: LambdaSandbox, ann: Visitor) -> None:
    log_in(ann, sandbox)
    with pytest.raises(FunctionError, match="exit status 3"):
        sandbox.invoke(ann.event("POST", "/crash"))
    assert ann.take(sandbox.invoke(ann.event("POST", "/count"))) == {"user": "ann", "count": 1}
    assert sandbox.starts == 2


def test_what_the_app_raises_is_500_and_the_sandbox_lives(sandbox: LambdaSandbox, ann: Visitor) -> None:
    log_in(ann, sandbox)
    assert sandbox.invoke(ann.event("POST", "/fail"))["statusCode"] == 500
    assert "the shop's own fault" in sandbox.output
    assert ann.take(sandbox.invoke(ann.event("POST", "/count"))) == {"user": "ann", "count": 1}
    assert sandbox.starts == 1


def test_an_event_of_another_kind_is_an_error_that_names_those_that_are_known(
    sandbox: LambdaSandbox, ann: Visitor
) -> None:
    with pytest.raises(FunctionError, match=r"unknown-event(.|\n)*write:") as told:
        sandbox.invoke({"Records": []})
    assert told.value.kind == "ServerlessSessionError"
    log_in(ann, sandbox)
    assert sandbox.starts == 1


def test_without_a_store_lambda_is_told_so_before_the_first_event() -> None:
    """THREATS 23: memory:// would give every sandbox sessions of its own."""
    with pytest.raises(FunctionError) as told, LambdaSandbox("tests.aws.shop.handler", {}):
        pass
    assert told.value.kind == "ConfigurationError"
    what, looked_at, write = told.value.message.splitlines()
    assert what.startswith("[no-store] ")
    assert "SERVERLESS_SESSION_STORE" in looked_at
    assert "AWS_LAMBDA_FUNCTION_NAME" in looked_at
    assert write.strip().startswith("write: ")


@pytest.mark.parametrize(
    "execution_environment",
    # In the second the main thread waits in C, and Python runs no signal handler of its own.
    [POLLS_IN_A_THREAD, WAITS_ITSELF],
)
def test_sigterm_between_two_events_ends_the_lifespan(
    wire: TripCounter, ann: Visitor, execution_environment: str
) -> None:
    with sandbox_over(wire, execution_environment=execution_environment) as sandbox:
        log_in(ann, sandbox)
        ended = sandbox.terminate(grace=5.0)
        assert sandbox.output.splitlines() == ["the shop opens", "the shop closes"]
        assert ended is not None


def test_hooks_run_before_a_snapshot_and_after_its_restore(wire: TripCounter, ann: Visitor) -> None:
    with sandbox_over(wire, "tests.aws.snapshot.handler", initialization="snap-start") as sandbox:
        assert sandbox.asked == ["restore/next"]
        assert sandbox.output.splitlines() == ["before the snapshot"]
        sandbox.freeze()
        sandbox.thaw()
        sandbox.restore()
        assert sandbox.asked == ["restore/next", "next"]
        assert sandbox.output.splitlines() == ["before the snapshot", "after the restore"]
        log_in(ann, sandbox)
        assert sandbox.output.splitlines() == ["before the snapshot", "after the restore", "the shop opens"]


def test_a_prewarmed_sandbox_is_connected_before_its_first_event(wire: TripCounter, ann: Visitor) -> None:
    with sandbox_over(wire, "tests.aws.prewarmed.handler") as sandbox:
        assert sandbox.output.splitlines() == ["the shop opens"]
        assert len(sandbox.sockets(wire.port)) == wire.connections == 1
        log_in(ann, sandbox)
        assert wire.connections == 1


def test_no_connection_goes_into_a_snapshot_and_each_restore_makes_its_own(wire: TripCounter, ann: Visitor) -> None:
    """THREATS 30: the prewarmed sandbox had one."""
    with sandbox_over(wire, "tests.aws.prewarmed.handler", initialization="snap-start") as sandbox:
        assert wire.connections == 1
        assert sandbox.sockets(wire.port) == {}
        sandbox.freeze()
        sandbox.thaw()
        sandbox.restore()
        log_in(ann, sandbox)
        assert ann.take(sandbox.invoke(ann.event("POST", "/count"))) == {"user": "ann", "count": 1}
        assert len(sandbox.sockets(wire.port)) == 1
        assert wire.connections == 2
        assert sandbox.output.splitlines() == ["the shop opens"], "the lifespan is in the snapshot"


def test_a_hook_that_raises_after_the_restore_is_reported(wire: TripCounter) -> None:
    with sandbox_over(wire, "tests.aws.snapshot.handler", initialization="snap-start", RESTORE_FAILS="1") as sandbox:
        with pytest.raises(FunctionError, match="no new connection"):
            sandbox.restore()
        assert sandbox.asked == ["restore/next", "restore/error"]


def test_two_restores_of_one_snapshot_draw_nothing_alike() -> None:
    """THREATS 30: randomness that was buffered before the snapshot would be the same in each of its restores."""
    restores, visitors = 3, [Visitor() for _ in range(4)]
    with (
        servers.valkey() as server,
        Redis(port=server.port) as client,
        LambdaSandbox("tests.aws.restored.handler", over(server.url)) as sandbox,
    ):
        first, *others = visitors
        event = first.event("POST", "/count")
        answers = [sandbox.invoke(event), *sandbox.invoke({"restores": restores, "event": event})]
        for visitor, answer in zip([first, *others], answers, strict=True):
            assert visitor.take(answer) == {"count": 1}
        kept = [client.get(key) for key in client.scan_iter()]
        versions = {value[:VERSION_BYTES] for value in kept if isinstance(value, bytes)}
        nonce = slice(VERSION_BYTES + 8, VERSION_BYTES + 8 + NONCE_BYTES)  # see `codec.sealing`
        nonces = {value[nonce] for value in kept if isinstance(value, bytes)}
        ids = {visitor.cookies["session"] for visitor in visitors}
        assert [len(kept), len(versions), len(nonces), len(ids)] == [restores + 1] * 4


def test_workers_of_a_managed_instance_share_no_socket(wire: TripCounter) -> None:
    """THREATS 53."""
    visitors = [Visitor() for _ in range(6)]
    with sandbox_over(wire, workers=3) as sandbox, ThreadPoolExecutor(len(visitors)) as browsers:
        served_by = set[int]()
        everybody_served = threading.Event()
        give_up_at = time.monotonic() + LIMIT

        def shop(visitor: Visitor) -> int:
            visitor.take(sandbox.invoke(visitor.event("POST", "/login", body="ann")))
            counted = 0
            while counted < 20 or not everybody_served.is_set():
                assert time.monotonic() < give_up_at, f"{len(served_by)} workers have served"
                counted += 1
                kept = visitor.take(sandbox.invoke(visitor.event("POST", "/count")))
                assert kept == {"user": "ann", "count": counted}
                served_by.add(visitor.take(sandbox.invoke(visitor.event("GET", "/process"))))
                if len(served_by) == 3:
                    everybody_served.set()
            return counted

        counts = list(browsers.map(shop, visitors))
        assert served_by == set(sandbox.worker_pids)
        sockets = [sockets_of(pid, wire.port) for pid in served_by]
        assert [len(those) for those in sockets] == [1, 1, 1]
        assert len(set[str]().union(*sockets)) == wire.connections == 3
        assert sandbox.sockets(wire.port) == {}
        for visitor, counted in zip(visitors, counts, strict=True):
            assert visitor.take(sandbox.invoke(visitor.event("GET", "/view"))) == {"user": "ann", "count": counted}


def test_two_requests_of_one_visitor_to_two_workers_both_count(wire: TripCounter, ann: Visitor) -> None:
    with sandbox_over(wire, workers=2) as sandbox, ThreadPoolExecutor(4) as tabs:
        log_in(ann, sandbox)
        for _ in range(10):
            answers = list(tabs.map(lambda _: sandbox.invoke(ann.event("POST", "/count")), range(4)))
            assert [answer["statusCode"] for answer in answers] == [200] * 4
        assert ann.take(sandbox.invoke(ann.event("GET", "/view"))) == {"user": "ann", "count": 40}
