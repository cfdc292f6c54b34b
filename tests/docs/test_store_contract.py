"""The reference of the store contract says what the contract's docstring says."""

import re

from serverless_session.stores import contract
from tests.docs.pages import ROOT


def test_the_promises_are_those_of_the_contract() -> None:
    assert contract.__doc__ is not None
    promises = contract.__doc__.partition("\n1. ")[2].partition("\nA complete store ")[0]
    assert len(promises) > 2000
    assert "\n1. " + promises.strip() in (ROOT / "docs/reference/store-contract.md").read_text()


def test_the_store_that_is_shown_is_that_of_the_contract() -> None:
    assert contract.__doc__ is not None
    (store,) = re.findall(r"^```python\n.*?^```$", contract.__doc__, re.MULTILINE | re.DOTALL)
    assert store in (ROOT / "docs/how-to/write-your-own-store.md").read_text()
