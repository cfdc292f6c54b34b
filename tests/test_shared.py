"""What the copies of an app share: settings are checked before the first request, and no secret is ever shown."""

import contextlib
import logging
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.datastructures import Secret

from serverless_session import SharedState
from serverless_session.codec import KeyRing, Serializer
from serverless_session.deadline import Clock, SystemClock
from serverless_session.errors import ConfigurationError
from serverless_session.records.records import Records
from serverless_session.stores import MemoryStore, Read, RedisStore, Store, open_store
from serverless_session.testing import CountingStore, ManualClock
from serverless_session.testing.operations import present

SECRET, OLD, OLDER = (
    "k3Vt9xQzL0pWm7RbYc2NfHs8DgJ5aEu1",
    "p8Zc4rTn6yVb1QmKx9WsJd3LhGf7eUa2",
    "w2Xn5vBq8LcRj4TzYs7KdMh1PfGe9UaQ",
)
PLAIN = Serializer("plain", lambda value: b"", lambda body: None)


@pytest.fixture(autouse=True)
def _a_bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SERVERLESS_SESSION_"):
            monkeypatch.delenv(name)
    for marker in ("AWS_LAMBDA_FUNCTION_NAME", "K_SERVICE", "FUNCTIONS_WORKER_RUNTIME", "VERCEL"):
        monkeypatch.delenv(marker, raising=False)
    monkeypatch.setattr(SharedState, "_default", None)


def refusal(make: Callable[[], object], code: str) -> ConfigurationError:
    """The error of this code, in three lines: what cannot be, what was looked at, what to write."""
    with pytest.raises(ConfigurationError) as refused:
        make()
    error = refused.value
    assert error.code == code
    lines = str(error).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"[{code}] ")
    assert lines[1].startswith("  looked at: ")
    assert lines[2] == f"  write:     {error.mend}"
    assert error.__cause__ is None
    return error


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- the environment --------------------------------------------------------------------------------------------------


def test_everything_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVERLESS_SESSION_STORE", "redis://somewhere.example")
    monkeypatch.setenv("SERVERLESS_SESSION_SECRET_KEY", SECRET)
    monkeypatch.setenv("SERVERLESS_SESSION_SECRET_KEY_FALLBACKS", f"{OLD} {OLDER}")
    monkeypatch.setenv("SERVERLESS_SESSION_NAMESPACE", "shop.eu-1")
    monkeypatch.setenv("SERVERLESS_SESSION_TIMEOUT", "0.25")
    shared = SharedState()
    assert shared.store is open_store("redis://somewhere.example")
    assert shared.key_ring.sealing_id == KeyRing(SECRET).sealing_id
    for secret in (OLD, OLDER):
        assert KeyRing(secret).sealing_id in shared.key_ring
    assert (shared.namespace, shared.timeout) == ("shop.eu-1", 0.25)


def test_an_argument_beats_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVERLESS_SESSION_STORE", "redis://somewhere.example")
    monkeypatch.setenv("SERVERLESS_SESSION_SECRET_KEY", OLD)
    monkeypatch.setenv("SERVERLESS_SESSION_SECRET_KEY_FALLBACKS", OLD)
    monkeypatch.setenv("SERVERLESS_SESSION_NAMESPACE", "one")
    monkeypatch.setenv("SERVERLESS_SESSION_TIMEOUT", "0.25")
    shared = SharedState(
        "memory://", secret_key=SECRET, secret_key_fallbacks=[OLDER], namespace="two", timeout=timedelta(seconds=2)
    )
    assert isinstance(shared.store, MemoryStore)
    assert shared.key_ring.sealing_id == KeyRing(SECRET).sealing_id
    assert KeyRing(OLD).sealing_id not in shared.key_ring
    assert KeyRing(OLDER).sealing_id in shared.key_ring
    assert (shared.namespace, shared.timeout) == ("two", 2.0)


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STORE", "SECRET_KEY", "SECRET_KEY_FALLBACKS", "NAMESPACE", "TIMEOUT"):
        monkeypatch.setenv(f"SERVERLESS_SESSION_{name}", "")
    shared = SharedState(secret_key=SECRET)
    assert isinstance(shared.store, MemoryStore)
    assert (shared.namespace, shared.timeout) == ("app", 1.0)


def test_the_environment_is_read_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedState(secret_key=SECRET)
    monkeypatch.setenv("SERVERLESS_SESSION_NAMESPACE", "later")
    assert shared.namespace == "later"
    monkeypatch.setenv("SERVERLESS_SESSION_NAMESPACE", "too-late")
    assert shared.namespace == "later"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SERVERLESS_SESSION_SECRET", "SERVERLESS_SESSION_SECRET_KEY"),
        ("SERVERLESS_SESSION_SECRETKEY", "SERVERLESS_SESSION_SECRET_KEY"),
        ("SERVERLESS_SESSION_FALLBACKS", "SERVERLESS_SESSION_SECRET_KEY_FALLBACKS"),
        ("SERVERLESS_SESSION_STORE_URL", "SERVERLESS_SESSION_STORE"),
        ("SERVERLESS_SESSION_TIME_OUT", "SERVERLESS_SESSION_TIMEOUT"),
        ("SERVERLESS_SESSION_NAME_SPACE", "SERVERLESS_SESSION_NAMESPACE"),
    ],
)
def test_an_unknown_variable_names_the_nearest(monkeypatch: pytest.MonkeyPatch, name: str, nearest: str) -> None:
    monkeypatch.setenv(name, "HUNTER2")
    error = refusal(SharedState("memory://", secret_key=SECRET).check, "unknown-variable")
    assert name in str(error)
    assert error.mend == nearest
    assert "HUNTER2" not in str(error)


@pytest.mark.parametrize("name", ["SERVERLESS_OTHER", "SESSION_SECRET", "MY_SERVERLESS_SESSION_STORE"])
def test_variables_of_others_are_nobodys_business(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    SharedState("memory://", secret_key=SECRET).check()


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1s", "one"])
def test_a_time_out_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SERVERLESS_SESSION_TIMEOUT", value)
    error = refusal(SharedState("memory://", secret_key=SECRET).check, "bad-timeout")
    assert "looked at: SERVERLESS_SESSION_TIMEOUT" in str(error)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), timedelta(0), timedelta(seconds=-1)])
def test_a_time_out_is_checked_where_it_is_given(value: float | timedelta) -> None:
    assert "looked at: timeout=" in str(refusal(lambda: SharedState("memory://", timeout=value), "bad-timeout"))


@pytest.mark.parametrize("value", ["", "a:b", "a b", ".a", "__a", "x" * 65, "ä", "a/b", "a\n"])
def test_a_namespace_can_stand_in_a_key(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert "looked at: namespace=" in str(refusal(lambda: SharedState("memory://", namespace=value), "bad-namespace"))
    if value:
        monkeypatch.setenv("SERVERLESS_SESSION_NAMESPACE", value)
        error = refusal(SharedState("memory://", secret_key=SECRET).check, "bad-namespace")
        assert "looked at: SERVERLESS_SESSION_NAMESPACE" in str(error)


def test_the_longest_names_make_a_key_that_every_store_can_hold() -> None:
    Read(SharedState("memory://", secret_key=SECRET, namespace="n" * 64).records("idempotency").key(b"id"))


# --- the store --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", ["AWS_LAMBDA_FUNCTION_NAME", "K_SERVICE", "FUNCTIONS_WORKER_RUNTIME", "VERCEL"])
def test_on_a_serverless_platform_no_store_is_an_error(monkeypatch: pytest.MonkeyPatch, marker: str) -> None:
    monkeypatch.setenv(marker, "my-function")
    error = refusal(SharedState(secret_key=SECRET).check, "no-store")
    assert marker in str(error)
    assert "SERVERLESS_SESSION_STORE=redis://HOST" in error.mend
    SharedState("memory://", secret_key=SECRET).check()
    monkeypatch.setenv("SERVERLESS_SESSION_STORE", "memory://")
    SharedState(secret_key=SECRET).check()


def test_elsewhere_no_store_is_memory_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(SharedState(secret_key=SECRET).store, MemoryStore)
    (message,) = warnings_in(caplog)
    assert (
        message
        == "shared.defaults: no store is set (SERVERLESS_SESSION_STORE), so memory:// keeps everything in this process"
    )


def test_all_that_was_left_to_defaults_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    SharedState().check()
    (message,) = warnings_in(caplog)
    assert "no store is set" in message
    assert "no secret key is set" in message


def test_what_cannot_work_is_said_at_every_attempt_until_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedState("redis://somewhere.example")
    for _ in range(2):
        refusal(shared.check, "no-secret")
        refusal(lambda: shared.store, "no-secret")
        refusal(lambda: shared.records("session"), "no-secret")
    monkeypatch.setenv("SERVERLESS_SESSION_SECRET_KEY", SECRET)
    assert isinstance(shared.store, RedisStore)


def test_an_unknown_store_or_a_bad_address_is_said_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVERLESS_SESSION_STORE", "mysql://:HUNTER2@host")
    assert "HUNTER2" not in str(refusal(SharedState(secret_key=SECRET).check, "unknown-store"))
    monkeypatch.setenv("SERVERLESS_SESSION_STORE", "redis://:HUNTER2@host:port")
    assert "HUNTER2" not in str(refusal(SharedState(secret_key=SECRET).check, "bad-store-url"))


def test_a_store_of_ones_own_is_used_as_it_is() -> None:
    store = CountingStore(MemoryStore())
    assert SharedState(store, secret_key=SECRET).store is store


def test_memory_is_one_store_for_all_but_those_with_a_clock_of_their_own() -> None:
    assert SharedState("memory://").store is SharedState("memory://").store
    clock = ManualClock()
    assert SharedState("memory://", clock=clock).store is not SharedState("memory://", clock=clock).store


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_without_a_secret_a_store_in_this_process_gets_one_of_this_process(caplog: pytest.LogCaptureFixture) -> None:
    one, other = SharedState("memory://"), SharedState("memory://")
    assert one.key_ring.sealing_id == other.key_ring.sealing_id, "they share a store"
    assert set(warnings_in(caplog)) == {
        "shared.defaults: no secret key is set (SERVERLESS_SESSION_SECRET_KEY), so one was made for this process"
    }


def test_without_a_secret_any_other_store_is_an_error() -> None:
    error = refusal(SharedState("redis://somewhere.example").check, "no-secret")
    assert "SERVERLESS_SESSION_SECRET_KEY=$(serverless-session keygen)" in error.mend


WEAK = {
    "HUNTER2": "has 7 characters",
    "HUNTER2" + "x" * 24: "has 31 characters",
    "HUNTER2" * 10: "has 7 different characters",
    "HUNTER2-change-me-0123456789abcdefgh": "placeholder",
    "HUNTER2-your-secret-key-goes-here-0123456789": "placeholder",
    "django-insecure-HUNTER2-0123456789abcdefgh": "placeholder",
    "HUNTER2-my_secret_key-0123456789-abcdefgh": "placeholder",
    "HUNTER2-EXAMPLE-0123456789-abcdefgh-ijklm": "placeholder",
    "arn:aws:secretsmanager:eu-central-1:123456789012:secret:HUNTER2-AbCdEf": "ARN",
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7": "placeholder",
}


@pytest.mark.parametrize("secret", WEAK)
def test_a_weak_secret_is_an_error_wherever_it_is_given(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    def over_redis(**more: Any) -> Callable[[], None]:
        return SharedState("redis://somewhere.example", **more).check

    for refused in (
        over_redis(secret_key=secret),
        over_redis(secret_key=Secret(secret)),
        over_redis(secret_key=SECRET, secret_key_fallbacks=[OLD, secret]),
    ):
        error = refusal(refused, "weak-secret")
        assert WEAK[secret] in str(error)
        assert "serverless-session keygen" in error.mend
        assert "HUNTER2" not in str(error)
        assert secret not in str(error)
    monkeypatch.setenv("SERVERLESS_SESSION_SECRET_KEY", secret)
    refusal(over_redis(), "weak-secret")
    monkeypatch.setenv("SERVERLESS_SESSION_SECRET_KEY", SECRET)
    monkeypatch.setenv("SERVERLESS_SESSION_SECRET_KEY_FALLBACKS", f"{OLD} {secret}")
    refusal(over_redis(), "weak-secret")


@pytest.mark.parametrize("secret", WEAK)
def test_a_weak_secret_over_memory_is_a_warning(secret: str, caplog: pytest.LogCaptureFixture) -> None:
    SharedState("memory://", secret_key=secret).check()
    (message,) = warnings_in(caplog)
    assert message.startswith("shared.weak_secret: ")
    assert WEAK[secret] in message
    assert "HUNTER2" not in message
    assert secret not in message


@pytest.mark.parametrize("secret", [SECRET, Secret(SECRET), SecretStr(SECRET)])
def test_strong_secrets_of_all_kinds_are_accepted_in_silence(
    secret: str | Secret | SecretStr, caplog: pytest.LogCaptureFixture
) -> None:
    shared = SharedState("redis://somewhere.example", secret_key=secret, secret_key_fallbacks=[secret])
    assert shared.key_ring.sealing_id == KeyRing(SECRET).sealing_id
    assert warnings_in(caplog) == []


def test_a_key_ring_is_used_as_it_is() -> None:
    ring = KeyRing(SECRET, open=[OLD])
    assert SharedState("redis://somewhere.example", secret_key=ring).key_ring is ring
    refusal(lambda: SharedState("memory://", secret_key=ring, secret_key_fallbacks=[OLDER]), "two-key-rings")


def test_what_is_no_secret_is_refused() -> None:
    given: Any = b"HUNTER2"
    assert "HUNTER2" not in str(refusal(SharedState("memory://", secret_key=given).check, "bad-secret"))
    assert "HUNTER2" not in str(refusal(SharedState("memory://", address_key=given).check, "bad-secret"))


def test_no_secret_is_ever_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shared = SharedState(
        f"redis://user:{OLDER}@somewhere.example", secret_key=SECRET, secret_key_fallbacks=[OLD], address_key=OLD + "x"
    )
    shared.check()
    shown = [repr(shared), str(shared), repr(shared.key_ring), repr(shared.store), repr(shared.packer), caplog.text]
    shown += [repr(shared.records("session")), repr(shared.records("session")._sealer)]
    for secret in (SECRET, OLD, OLDER):
        for text in shown:
            assert secret not in text


def test_a_serializer_is_one() -> None:
    assert SharedState("memory://", secret_key=SECRET).packer.pack(1) == b"\0\x04json1"
    refusal(lambda: SharedState("memory://", serializer="pickle"), "bad-serializer")  # type: ignore[arg-type]
    refusal(lambda: SharedState("memory://", serializer=len), "bad-serializer")  # type: ignore[arg-type]


# --- default, replace, override, aclose -------------------------------------------------------------------------------


def test_the_default_is_one_and_all_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVERLESS_SESSION_NAMESPACE", "from-the-environment")
    shared = SharedState.default()
    assert shared is SharedState.default()
    assert shared.namespace == "from-the-environment"


def test_replace_is_another_like_it_but_for_what_is_given() -> None:
    clock = ManualClock()
    shared = SharedState(
        "redis://somewhere.example",
        secret_key=SECRET,
        secret_key_fallbacks=[OLD],
        namespace="one",
        address_key=OLDER,
        serializer=PLAIN,
        timeout=2,
        clock=clock,
    )
    same = shared.replace()
    assert same is not shared
    assert same.store is shared.store
    assert KeyRing(OLD).sealing_id in same.key_ring
    assert same.key_ring.sealing_id == shared.key_ring.sealing_id
    assert same.address_key == shared.address_key is not None
    assert (same.namespace, same.timeout, same.clock) == ("one", 2.0, clock)
    assert same.records("x").key(b"a") == shared.records("x").key(b"a")
    store = MemoryStore()
    other = shared.replace(store=store, namespace="two", timeout=timedelta(seconds=3))
    assert other.store is store
    assert (other.namespace, other.timeout) == ("two", 3.0)
    assert other.key_ring.sealing_id == shared.key_ring.sealing_id
    assert (shared.namespace, shared.timeout) == ("one", 2.0), "and it stays what it was"


def test_replace_can_give_another_serializer() -> None:
    shared = SharedState("memory://", secret_key=SECRET)
    assert shared.replace(serializer=PLAIN).packer is not shared.packer
    assert shared.replace(serializer="msgpack").packer.pack(b"x")[1:9] == b"\x07msgpack"


def test_replace_refuses_what_the_constructor_refuses() -> None:
    shared = SharedState("memory://", secret_key=SECRET)
    refusal(lambda: shared.replace(timeout=0), "bad-timeout")
    refusal(lambda: shared.replace(namespace="a b"), "bad-namespace")


def test_replace_and_override_keep_how_values_are_packed() -> None:
    shared = SharedState("memory://", secret_key=SECRET, serializer="msgpack", compress_above_bytes=0)
    with shared.override(store="memory://"):
        for other in (shared, shared.replace(namespace="two")):
            assert other.packer.pack("x" * 100, compress=True)[:9] == b"\1\x07msgpack"
    never = SharedState("memory://", secret_key=SECRET, compress_above_bytes=None).replace(namespace="two")
    assert never.packer.pack("x" * 5_000, compress=True)[0] == 0


def test_override_swaps_the_store_and_clock_and_gives_them_back() -> None:
    def in_force() -> tuple[Store, Clock]:
        return shared.store, shared.clock

    store, outer, inner, mine = MemoryStore(), ManualClock(), ManualClock(), MemoryStore()
    shared = SharedState(store, secret_key=SECRET)
    before = in_force()
    assert before[0] is store
    assert isinstance(before[1], SystemClock)
    with shared.override(clock=outer) as kept:
        assert kept is store, "only what is given is swapped"
        assert in_force() == (store, outer)
    with shared.override(store="memory://", clock=outer) as fresh:
        assert isinstance(fresh, MemoryStore)
        assert fresh is not store
        assert in_force() == (fresh, outer)
        with shared.override(store=mine, clock=inner) as given:
            assert given is mine
            assert in_force() == (mine, inner)
        assert in_force() == (fresh, outer)
        with contextlib.suppress(RuntimeError), shared.override(store="memory://") as another:
            assert in_force() == (another, outer), "the clock of the one around it"
            raise RuntimeError
        assert in_force() == (fresh, outer)
    assert in_force() == before


def test_each_override_opens_a_fresh_memory() -> None:
    shared = SharedState("memory://", secret_key=SECRET)
    seen: list[Store] = [shared.store]
    for _ in range(3):
        with shared.override(store="memory://") as store:
            assert store not in seen
            seen.append(store)


async def test_the_clock_of_an_override_moves_its_memory() -> None:
    shared, clock = SharedState("memory://", secret_key=SECRET), ManualClock()
    with shared.override(store="memory://", clock=clock) as store:
        key, _ = await present(store, ttl=10)
        clock.advance(timedelta(seconds=9))
        assert await store.read(key) != (missing := await store.read("nothing"))
        clock.advance(1)
        assert await store.read(key) == missing


def test_what_holds_a_shared_state_sees_an_override() -> None:
    shared = SharedState("memory://", secret_key=SECRET)
    records: Records = shared.records("session")
    with shared.override(store="memory://") as store:
        assert records._shared.store is store


class ClosingStore(CountingStore):
    closed = 0

    async def aclose(self) -> None:
        self.closed += 1


async def test_closing_closes_the_store_in_force_and_nothing_that_was_never_opened() -> None:
    await SharedState("redis://somewhere.example").aclose()
    store, inner = ClosingStore(MemoryStore()), ClosingStore(MemoryStore())
    shared = SharedState(store, secret_key=SECRET)
    await shared.aclose()
    assert store.closed == 0
    shared.check()
    await shared.aclose()
    assert store.closed == 1
    with shared.override(store=inner):
        await shared.aclose()
    assert (store.closed, inner.closed) == (1, 1)


def test_an_override_of_nothing_is_an_error() -> None:
    """A test that swaps nothing tests nothing: `override(store=None)` from a call that returns nothing, say."""
    shared = SharedState("memory://")
    with pytest.raises(TypeError, match="nothing to swap"), shared.override(store=None):
        pass
