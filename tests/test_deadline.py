"""Limits only ever become narrower, and reach every call of their context without an argument."""

import asyncio
import time
from datetime import timedelta

import pytest

from serverless_session.deadline import DEFAULT_SECONDS, SystemClock, seconds, set_invocation_end, time_left, within

CLOSE = 0.05


def about(expected: float) -> object:
    return pytest.approx(expected, abs=CLOSE)


def test_without_a_limit_there_is_the_default() -> None:
    assert time_left() == DEFAULT_SECONDS == 1.0
    assert time_left(5.0) == 5.0


def test_a_limit_runs_down_and_ends_with_its_block() -> None:
    with within(0.5):
        assert time_left() == about(0.5)
        assert time_left(100.0) == about(0.5)
        before = time_left()
        time.sleep(0.02)
        assert before - time_left() >= 0.02
    assert time_left() == DEFAULT_SECONDS


def test_a_limit_inside_another_can_only_be_narrower() -> None:
    with within(5.0):
        with within(60.0):
            assert time_left() == about(5.0)
        with within(0.5):
            assert time_left() == about(0.5)
        assert time_left() == about(5.0)


def test_a_limit_longer_than_the_default_is_given() -> None:
    with within(30.0):
        assert time_left() == about(30.0)


def test_a_limit_that_has_passed_leaves_nothing() -> None:
    with within(-1.0):
        assert time_left() == about(-1.0)


def test_a_limit_is_taken_back_after_an_error() -> None:
    with pytest.raises(RuntimeError), within(0.5):
        raise RuntimeError
    assert time_left() == DEFAULT_SECONDS


async def test_no_call_outlives_the_invocation() -> None:
    async def invocation() -> None:
        set_invocation_end(0.3)
        assert time_left() == about(0.3)
        with within(60.0):
            assert time_left() == about(0.3)
        with within(0.1):
            assert time_left() == about(0.1)
        assert await asyncio.create_task(asyncio.to_thread(time_left)) == about(0.3)

    await asyncio.create_task(invocation())
    assert time_left() == DEFAULT_SECONDS, "it was the end of that context alone"


async def test_limits_of_tasks_side_by_side_keep_apart() -> None:
    async def task(limit: float) -> float:
        with within(limit):
            await asyncio.sleep(0.01)
            return time_left()

    short, long = await asyncio.gather(task(0.5), task(5.0))
    assert short == about(0.5)
    assert long == about(5.0)


def test_durations_are_seconds_or_timedeltas() -> None:
    assert seconds(2) == 2.0
    assert seconds(0.5) == 0.5
    assert seconds(timedelta(minutes=1, milliseconds=500)) == 60.5


def test_the_system_clock_is_the_machines() -> None:
    assert SystemClock().time() == about(time.time())
