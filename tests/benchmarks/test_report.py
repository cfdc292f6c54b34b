from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import pages, plots, report
from benchmarks.aims import AIMS, standings, verdicts
from benchmarks.contenders import caches, programs, sessions
from benchmarks.measuring import Spread
from benchmarks.questions.all import QUESTIONS
from benchmarks.results import LeftOut, Role
from tests.benchmarks.made_up import results, row, spread

BOLD_LETTER = 7.3
"""Pixels that a letter of a label takes at most."""

MISSING = LeftOut(
    question="sessions",
    case="read-only, 1 KiB",
    contender="starsessions",
    reason="not installed, or does not import: No module named 'starsessions'",
    mend="pip install '.[bench]'",
)
RUN = results(
    row("redis-py", Role.FLOOR),
    row("serverless-session", Role.OURS, us=130.0, ratio=1.3, by=0.05),
    row("Flask-Session", Role.PEER, us=300.0, ratio=2.0, by=0.1, net_us=spread(110.0)),
    row("<another> & more", Role.PEER, us=120.0, ratio=1.2),
    left_out=(MISSING,),
)


def test_the_table_has_a_row_for_each_with_its_figures_its_trips_and_its_place() -> None:
    head, *body = report.table(QUESTIONS[0], RUN.rows)
    assert head == ["", "who", "us", "net us", "x floor", "trips", "commands"]
    assert body[1] == ["ours", "serverless-session", "130", "", "1.30 (1.25–1.35)", "1", "GET"]  # noqa: RUF001
    assert body[2][:4] == ["", "Flask-Session", "300", "110"]


def test_numbers_keep_three_digits_that_count() -> None:
    shown = [report.number(value) for value in (0.1234, 1.2345, 12.345, 123.45, 12345.6, 7.0)]
    assert shown == ["0.12", "1.23", "12.3", "123", "12,346", "7"]


def test_who_was_left_out_is_named_with_the_reason_and_what_brings_it() -> None:
    text = report.as_text(RUN)
    assert "starsessions" in text
    assert "No module named 'starsessions'" in text
    assert "pip install '.[bench]'" in text


def test_an_aim_is_met_missed_or_was_not_asked() -> None:
    found = {(verdict.aim.case, verdict.aim.over): verdict for verdict in verdicts(RUN)}
    assert found["read-only, 1 KiB", sessions.FLOOR].is_met
    assert found["hit, 1 KiB", caches.FLOOR].found is None
    slow = results(row("redis-py", Role.FLOOR), row("serverless-session", Role.OURS, ratio=1.4))
    assert not verdicts(slow)[0].is_met
    said = [line[-1] for line in report.aims_table(verdicts(slow))[1:]]
    assert said == ["missed", *[""] * (len(AIMS) - 1)]


def test_a_peer_that_is_ahead_is_named_and_one_with_a_framework_is_judged_without_it() -> None:
    (standing,) = standings(RUN)
    assert [peer.contender for peer in standing.ahead] == ["Flask-Session", "<another> & more"]


def test_a_plot_is_well_formed_and_has_a_bar_for_each() -> None:
    plot = next(plot for plot in plots.PLOTS if plot.name == "bench-sessions")
    svg = plots.as_svg(plot, RUN)
    assert svg is not None
    drawn = ElementTree.fromstring(svg)
    names = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"redis-py", "serverless-session", "Flask-Session", "<another> & more", "1.30 x, 1 trip"} <= names
    widths = [float(bar.attrib["width"]) for bar in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert len(widths) == 4
    assert 0.9 * plots.BARS < max(widths) <= plots.BARS


def test_bars_are_as_long_as_what_they_show() -> None:
    plot = next(plot for plot in plots.PLOTS if plot.name == "bench-sessions")
    drawn = ElementTree.fromstring(plots.as_svg(plot, RUN) or "")
    floor, ours, flask, _ = (float(bar.attrib["width"]) for bar in drawn.iter("{http://www.w3.org/2000/svg}rect"))
    assert round(ours / floor, 1) == 1.3
    assert round(flask / floor, 1) == 2.0


def test_no_plot_is_drawn_of_what_was_not_asked() -> None:
    assert [plots.as_svg(plot, results()) for plot in plots.PLOTS] == [None] * len(plots.PLOTS)


def test_the_page_has_the_tables_the_plots_the_aims_and_who_was_left_out(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    pages.write(RUN, page)
    text = page.read_text()
    assert "](images/bench-sessions.svg)" in text
    assert (tmp_path / "images" / "bench-sessions.svg").exists()
    assert "| ours | serverless-session | 130 |" in text
    assert "| a session that is read, over GETEX by redis-py | at most 1.35 | 1.30 | met |" in text
    assert "No module named 'starsessions'" in text
    assert "| redis | 8.1.0 |" in text


def test_a_bar_that_lasts_no_time_is_drawn_nevertheless() -> None:
    nothing = Spread(median=0.0, low=0.0, high=0.0)
    run = results(row("redis-py", Role.FLOOR), row("serverless-session", Role.OURS, ratio=0.0))
    assert run.rows[1].measured["ratio"] == nothing
    assert plots.as_svg(plots.PLOTS[0], run) is not None


@pytest.mark.parametrize("name", [program.name for program in programs.ALL])
def test_a_programs_name_fits_beside_its_bar(name: str) -> None:
    assert len(name) * BOLD_LETTER <= plots.LABELS, "it would be cut off"
