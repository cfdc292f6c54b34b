"""Handlers that are closed in the end, and what they answer."""

import asyncio
from collections.abc import Callable
from typing import Any

from mangum import Mangum

from serverless_session import LambdaHandler
from tests.aws.events import Context

Handlers = Callable[..., LambdaHandler]


def answer_of_mangum(app: Any, event: Any, context: Any = None, **options: Any) -> dict[str, Any]:
    """What Mangum itself answers. It would make a loop, and never close it, where there is none."""
    given: Any = context or Context()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return Mangum(app, lifespan="off", **options)(event, given)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def cookie_of(answer: dict[str, Any]) -> str:
    (cookie,) = answer["cookies"]
    return str(cookie).partition(";")[0]
