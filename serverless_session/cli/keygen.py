"""`serverless-session keygen`: one secret key and nothing else, so that `$(serverless-session keygen)` works."""

from __future__ import annotations

import argparse
import base64
import os
from collections.abc import Sequence
from typing import Final

SECRET_BYTES: Final = 32


def run(arguments: Sequence[str]) -> int:
    """Print a key of 43 characters that are safe in URLs, shells and environment files."""
    argparse.ArgumentParser(
        prog="serverless-session keygen",
        description="Print a new secret key: 256 random bits as 43 characters of A-Za-z0-9_-, never a dash in front.",
    ).parse_args(arguments)
    print(new_secret())
    return 0


def new_secret() -> str:
    """256 bits of the system's randomness, as text that no command line takes for an option."""
    while (secret := base64.urlsafe_b64encode(os.urandom(SECRET_BYTES)).rstrip(b"=").decode("ascii")).startswith("-"):
        pass
    return secret
