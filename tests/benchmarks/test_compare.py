import pathlib

import pytest

from benchmarks import compare
from benchmarks.__main__ import main
from benchmarks.compare import changes
from benchmarks.results import LeftOut, Results, Role
from tests.benchmarks.made_up import results, row


def test_a_ratio_beyond_both_spreads_has_changed() -> None:
    old = results(row("ours", Role.OURS, ratio=2.0, by=0.1))
    new = results(row("ours", Role.OURS, ratio=1.5, by=0.1))
    (change,) = changes(old, new)
    assert not change.is_worse
    assert change.says.startswith("-25%")


def test_a_ratio_within_the_spread_has_not() -> None:
    old = results(row("ours", Role.OURS, ratio=2.0, by=0.3))
    assert changes(old, results(row("ours", Role.OURS, ratio=1.5, by=0.3))) == []


def test_what_two_runs_of_the_same_code_differ_by_is_no_change_however_small_the_spread() -> None:
    old = results(row("ours", Role.OURS, ratio=2.0, by=0.001))
    assert changes(old, results(row("ours", Role.OURS, ratio=2.1, by=0.001))) == []


def test_microseconds_are_not_compared() -> None:
    old = results(row("ours", Role.OURS, us=50.0))
    assert changes(old, results(row("ours", Role.OURS, us=5000.0))) == []


def test_one_more_trip_is_worse_however_fast_it_is() -> None:
    old = results(row("ours", Role.OURS, counted={"trips": 1.0}))
    (change,) = changes(old, results(row("ours", Role.OURS, counted={"trips": 2.0})))
    assert change.is_worse
    assert change.says == "trips: 1.0 -> 2.0"


def test_what_is_worse_comes_first() -> None:
    old = results(row("a", Role.OURS, ratio=2.0), row("b", Role.OURS, ratio=2.0))
    new = results(row("a", Role.OURS, ratio=1.0), row("b", Role.OURS, ratio=3.0))
    assert [change.row.contender for change in changes(old, new)] == ["b", "a"]


def test_rows_that_only_one_run_has_are_named() -> None:
    said = compare.as_text(results(row("gone by", Role.PEER)), results(row("come new", Role.PEER)))
    assert "gone    sessions: read-only, 1 KiB: gone by" in said
    assert "new     sessions: read-only, 1 KiB: come new" in said


def test_a_run_on_a_busy_machine_is_named() -> None:
    one = row("ours", Role.OURS)
    assert "OLD was begun under a load of 3.5" in compare.as_text(results(one, load=3.5), results(one))


def test_results_come_back_as_they_were() -> None:
    left_out = LeftOut(question="caches", case="hit", contender="somebody", reason="not installed", mend="pip")
    run = results(row("ours", Role.OURS, by=0.1), row("redis-py", Role.FLOOR), left_out=(left_out,))
    assert Results.from_json(run.to_json()) == run


def test_two_files_are_compared_and_a_file_that_is_no_run_is_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, other = (tmp_path / name for name in ("old.json", "new.json", "other.json"))
    old.write_text(results(row("ours", Role.OURS, ratio=2.0)).to_json())
    new.write_text(results(row("ours", Role.OURS, ratio=3.0)).to_json())
    other.write_text('{"format": 99}')
    assert main(["compare", str(old), str(new)]) == 0
    assert "worse   sessions: read-only, 1 KiB: ours: +50%" in capsys.readouterr().out
    assert main(["compare", str(old), str(other)]) == 2
    assert "other.json cannot be read as results" in capsys.readouterr().err
