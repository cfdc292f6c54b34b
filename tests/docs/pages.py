"""The pages of the documentation, read by tests that hold them against what there is."""

import itertools
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent

_NAMED: Final = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def page(name: str) -> str:
    """The text of a page in docs/."""
    return (ROOT / "docs" / name).read_text()


def part(text: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every table's rows, without heads."""
    lines = text.splitlines()
    tables = [line for line in lines if line.startswith("| ")]
    heads = {before for before, line in itertools.pairwise(lines) if line.startswith("|---")}
    return [[cell.strip() for cell in line[1:-1].split(" |")] for line in tables if line not in heads]


def named_tests(text: str) -> list[tuple[str, str]]:
    """The tests that a text names, as `path::name`: their files and names."""
    return _NAMED.findall(text)


def missing_tests(text: str) -> list[str]:
    """Of the tests that a text names, those that do not exist."""
    return [name for file, name in named_tests(text) if f"def {name}(" not in (ROOT / file).read_text()]
