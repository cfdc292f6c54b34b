from collections.abc import Iterator
from typing import Any

import pytest

from serverless_session import LambdaHandler
from tests.aws.handlers import Handlers


@pytest.fixture
def handlers() -> Iterator[Handlers]:
    """Makes handlers, and closes them in the end."""
    made: list[LambdaHandler] = []

    def make(app: Any, **options: Any) -> LambdaHandler:
        made.append(LambdaHandler(app, **options))
        return made[-1]

    yield make
    for handler in made:
        handler.close()
