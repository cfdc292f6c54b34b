"""The page of threats names tests that exist."""

import re

from tests.docs.test_examples import ROOT

ROW = re.compile(r"^\| (\d+) \| .* \| `([\w/.]+)::(\w+)` \|$")


def test_every_row_names_a_test_that_exists() -> None:
    rows = [line for line in (ROOT / "docs/threats.md").read_text().splitlines() if re.match(r"\| \d", line)]
    assert len(rows) > 20
    missing = []
    for line in rows:
        row = ROW.match(line)
        assert row is not None, line
        if f"def {row[3]}(" not in (ROOT / row[2]).read_text():
            missing.append(f"{row[1]}: {row[3]}")
    assert missing == []


def test_every_number_that_a_test_names_has_a_row() -> None:
    page = (ROOT / "docs/threats.md").read_text()
    for path in ROOT.glob("tests/**/*.py"):
        for number in re.findall(r"THREATS (\d+)", path.read_text()):
            assert f"\n| {number} | " in page, f"{path.name} names no. {number}"
