"""What the README shows is what there is: its commands, its sample of the demo, its table of variables.

Its Python examples run in `tests/docs`.
"""

import re
from pathlib import Path

import pytest

from serverless_session import demo
from serverless_session.demo import rendering
from serverless_session.shared import _VARIABLES, PREFIX

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_two_commands_are_all_of_the_set_up() -> None:
    (block, *_) = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert block.splitlines() == ['pip install ".[demo]" && serverless-session demo', "pip install tox && tox"]


def test_the_sample_is_the_demo_s_own_output() -> None:
    (sample,) = re.findall(r"^```text\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    shown = {_comparable(line) for line in rendering.as_text(demo.run()).splitlines()}
    assert [line for line in sample.splitlines() if _comparable(line) not in shown] == []


def _comparable(line: str) -> str:
    """A line without what chance decides: times, random bytes, and the length of what holds a time."""
    if part := re.fullmatch(r"    ([a-z ]+?) +\d+  (?:[0-9a-f]{2} ?)+  +.{8}  (.*)", line):
        return " ".join(part.groups())
    return " ".join(re.sub(r"demo-\S+|\d+\.\d$", "", line).split())


def test_every_variable_stands_in_the_table() -> None:
    for variable in _VARIABLES:
        assert f"| `{PREFIX}{variable}` |" in README


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
