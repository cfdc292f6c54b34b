"""The life of many visitors on few sandboxes, each of which is frozen, cut off and reaped between two requests."""

import random
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("Lambda is Linux, and so are the wheels of its client", allow_module_level=True)

from tests.aws.many_sandboxes import VISITORS, run, table


def test_nothing_is_lost_between_sandboxes_and_nobody_comes_back_after_a_logout() -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed {seed}")
    happened = run(sandboxes=6, steps=40, seed=seed)
    print(table(happened, sandboxes=6, seed=seed, seconds=0.0))
    assert happened["requests"] >= 40 * VISITORS
