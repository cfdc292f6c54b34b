"""The reference of the store contract says what the contract's docstring says."""

from serverless_session.stores import contract
from tests.docs.test_examples import ROOT


def test_the_promises_are_those_of_the_contract() -> None:
    assert contract.__doc__ is not None
    promises = contract.__doc__.partition("\n1. ")[2].partition("\nA complete store:")[0]
    assert len(promises) > 2000
    assert "\n1. " + promises.strip() in (ROOT / "docs/reference/store-contract.md").read_text()
