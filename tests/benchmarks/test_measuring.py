import logging
import random

import pytest

from benchmarks import measuring
from benchmarks.asking import measured
from benchmarks.measuring import Complaints, Effort, Run, Spread, Turn, race, ratios, shuffled

FEW = Effort(rounds=5, seconds_a_turn=0.0)


def working(taken: list[str], name: str) -> Run:
    return lambda calls: taken.append(name)


def timed_as_slow(run: Run, calls: int) -> Turn:
    run(calls)
    return Turn(wall=1e9, cpu=1.0)


def test_a_spread_is_the_median_and_the_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(median=3.0, low=2.0, high=4.0)
    assert Spread.of([7.0]) == Spread(median=7.0, low=7.0, high=7.0)


def test_one_slow_round_moves_neither_the_median_nor_the_quartiles_far() -> None:
    assert Spread.of([1.0, 1.0, 1.0, 1.0, 900.0]) == Spread(median=1.0, low=1.0, high=1.0)


def test_ratios_are_those_of_each_round_so_that_what_slows_both_down_cancels_out() -> None:
    assert ratios([20.0, 200.0], [10.0, 100.0]) == [2.0, 2.0]


def test_a_framework_is_taken_off_round_by_round_and_the_rest_is_held_against_the_floor() -> None:
    turns = {
        "floor": [Turn(wall=10.0, cpu=5.0), Turn(wall=20.0, cpu=10.0)],
        "Flask, bare": [Turn(wall=40.0, cpu=40.0), Turn(wall=80.0, cpu=80.0)],
        "Flask-Session": [Turn(wall=70.0, cpu=60.0), Turn(wall=140.0, cpu=120.0)],
    }
    found = measured(turns, "Flask-Session", "floor", "Flask, bare")
    assert found["us"].median == 105.0
    assert found["net_us"].median == 45.0
    assert found["ratio"] == Spread(median=3.0, low=3.0, high=3.0)
    assert "net_us" not in measured(turns, "floor", "floor", "")


def test_every_round_has_everybody_once_in_an_order_drawn_anew() -> None:
    taken: list[str] = []
    contenders = {name: working(taken, name) for name in "abcdef"}
    with Complaints() as complaints:
        turns, _ = race(contenders, Effort(rounds=8, seconds_a_turn=0.0), random.Random(3), complaints)
    assert {name: len(of) for name, of in turns.items()} == dict.fromkeys("abcdef", 8)
    timed = taken[-48:]
    rounds = ["".join(timed[at : at + 6]) for at in range(0, 48, 6)]
    assert all(sorted(one) == list("abcdef") for one in rounds)
    assert len(set(rounds)) > 1


def test_the_same_seed_gives_the_same_order() -> None:
    assert shuffled("abcdef", random.Random(5)) == shuffled("abcdef", random.Random(5))


def test_a_contender_that_keeps_failing_gives_up_and_the_others_race_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "REST", 0.0)

    def failing(calls: int) -> None:
        raise ConnectionError("too many connections")

    with Complaints() as complaints:
        turns, gave_up = race({"bad": failing, "good": lambda calls: None}, FEW, random.Random(1), complaints)
    assert gave_up == {"bad": "ConnectionError: too many connections"}
    assert list(turns) == ["good"]


def test_a_turn_in_which_a_store_was_too_slow_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "REST", 0.0)
    monkeypatch.setattr(measuring, "timed", timed_as_slow)
    taken = 0

    def complaining_at_the_second(calls: int) -> None:
        nonlocal taken
        taken += 1
        if taken == 3:  # the first is the warm-up, and another finds out how many calls a turn has
            logging.getLogger("serverless_session.caching").warning("its store failed")

    with Complaints() as complaints:
        turns, gave_up = race({"ours": complaining_at_the_second}, FEW, random.Random(1), complaints)
    assert (len(turns["ours"]), gave_up) == (5, {})
    assert taken == 2 + 5 + 1
