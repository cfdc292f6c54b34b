"""The demo's page, served by the command line in a process of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import serverless_session
from tests.servers import dies_with_us

# The package that this process tests, installed or not.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(serverless_session.__file__).parent.parent)}


@contextmanager
def served(*options: str) -> Iterator[str]:
    """The address of the page, served with these options."""
    command = [sys.executable, "-P", "-m", "serverless_session", "demo", "--serve", "--port", "0", *options]
    with subprocess.Popen([*dies_with_us(), *command], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            assert process.stdout is not None
            yield re.findall(r"http://\S+", process.stdout.readline())[0]
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The page as it is by default: the store is in its process."""
    with served() as address:
        yield address


@pytest.fixture(scope="module")
def address_with_a_server() -> Iterator[str]:
    """The page over a server that the demo has started, and that can be stopped."""
    with served("--store", "local") as address:
        yield address
