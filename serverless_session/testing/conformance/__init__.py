"""The store contract as tests: whoever writes a store subclasses `StoreConformance`, and knows that it keeps it.

```python
from serverless_session.stores import MemoryStore, Store
from serverless_session.testing import StoreConformance


class TestMemoryStore(StoreConformance):
    async def open_store(self) -> Store:
        return MemoryStore()
```

That is a whole test module for pytest, which needs no plugin (and minds none); a class that is a `unittest.TestCase`
too runs without pytest. What `open_store` needs comes by an automatic fixture:

```python
import pytest


class TestOtherStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _capacity(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.capacity_bytes = 1_000_000

    async def open_store(self) -> Store:
        return MemoryStore(capacity_bytes=self.capacity_bytes)
```

Each check opens a store in an event loop of its own and closes it afterwards. Keys are random, so a server that others
use does no harm and needs no cleaning. Unless `limits.one_process` is set, a second store that `open_store` opens must
see what the first one keeps. A failure names the rule that was broken, in the words of
`serverless_session.stores.contract`; a random check also tells its seed.

The modules are the contract's subjects: `outcomes`, `versions`, `values`, `calls`, `expiry`, `races`, `cancellation`,
and `model`, which compares any sequence of calls with a model and is skipped where Hypothesis is missing. Nothing here
checks rule 5 across replicas, or what happens when a link breaks: that needs the store's own servers and faults.
"""

from __future__ import annotations

import sys
from typing import Final

_MODULES: Final = (
    "calls",
    "cancellation",
    "expiry",
    "model",
    "outcomes",
    "races",
    "trial",
    "values",
    "verdicts",
    "versions",
)

# Before they are imported, so that the assertions in them tell what they compared.
if (pytest := sys.modules.get("pytest")) is not None:
    pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES))

from serverless_session.testing.conformance.calls import CallChecks  # noqa: E402
from serverless_session.testing.conformance.cancellation import CancellationChecks  # noqa: E402
from serverless_session.testing.conformance.expiry import ExpiryChecks  # noqa: E402
from serverless_session.testing.conformance.model import ModelChecks  # noqa: E402
from serverless_session.testing.conformance.outcomes import OutcomeChecks  # noqa: E402
from serverless_session.testing.conformance.races import RaceChecks  # noqa: E402
from serverless_session.testing.conformance.values import ValueChecks  # noqa: E402
from serverless_session.testing.conformance.verdicts import ContractBroken  # noqa: E402
from serverless_session.testing.conformance.versions import VersionChecks  # noqa: E402

__all__ = ["ContractBroken", "StoreConformance"]


class StoreConformance(
    OutcomeChecks, VersionChecks, ValueChecks, CallChecks, ExpiryChecks, RaceChecks, CancellationChecks, ModelChecks
):
    """Every check of the store contract. A subclass says how its store is opened, and no more; see the module.

    For a store that is slow, or paid by the call, sizes can be turned down: `increments` (by each of 16 tasks),
    `claimers`, `storm_calls`, `examples` (sequences compared with the model); `patience` is what one check may take, in
    seconds, and `seed` fixes the dice.
    """
