"""The page of threats names tests that exist."""

import re

from tests.docs.pages import ROOT, missing_tests, page

ROW = re.compile(r"^\| \d+ \| .* \| `tests/[\w/]+\.py::\w+` \|$")


def test_every_row_names_a_test_that_exists() -> None:
    rows = [line for line in page("threats.md").splitlines() if re.match(r"\| \d", line)]
    assert len(rows) > 20
    assert [line for line in rows if not ROW.match(line)] == []
    assert missing_tests(page("threats.md")) == []


def test_every_number_that_a_test_names_has_a_row() -> None:
    threats = page("threats.md")
    for path in ROOT.glob("tests/**/*.py"):
        for number in re.findall(r"THREATS (\d+)", path.read_text()):
            assert f"\n| {number} | " in threats, f"{path.name} names no. {number}"
