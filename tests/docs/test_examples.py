"""Every Python example in the README, in docs/ and in the docstrings named below runs, a document at a time.

The examples of one document share their names, in the order of the text, and run in an empty folder. An example that
cannot run stands after `<!--- skip: next -->`.
"""

import os
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from tests.docs.pages import ROOT

MODULES = [
    "serverless_session/stores/contract.py",
    "serverless_session/testing/conformance/__init__.py",
    "serverless_session/testing/counting.py",
    "serverless_session/testing/faulty.py",
]
DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *(ROOT / module for module in MODULES)])

sybil = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = sybil.parse(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP_SECRET_KEY", os.urandom(32).hex())
    for example in document:
        example.evaluate()
