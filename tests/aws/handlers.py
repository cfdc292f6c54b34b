"""Handlers that are closed in the end, and what they answer."""

from collections.abc import Callable
from typing import Any

from serverless_session import LambdaHandler

Handlers = Callable[..., LambdaHandler]


def cookie_of(answer: dict[str, Any]) -> str:
    (cookie,) = answer["cookies"]
    return str(cookie).partition(";")[0]
