"""When Lambda will stop us, for an app that is served by anything but our own handler.

Mangum hands Lambda's context on in the scope. The Lambda Web Adapter, which calls an ordinary server, puts it into a
header, and lets one that the client sends win over its own. So it is only looked at on Lambda, and a client gains
nothing by it: a later end than there is changes nothing, and an earlier one shortens its own request alone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from serverless_session.deadline import has_invocation_end, invocation_ends_in

LONGEST_INVOCATION: Final = 900.0
"""Seconds: Lambda's own limit."""

MARGIN: Final = 0.5
LARGEST_SHARE: Final = 0.1
"""Seconds that are kept for the end of an invocation, so that an answer can leave; at most this share of all."""

_HEADER: Final = b"x-amzn-lambda-context"


def invocation_of(scope: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Inside, no store call outlives the invocation that `scope` is served by, if it is one."""
    if "AWS_LAMBDA_FUNCTION_NAME" not in os.environ or has_invocation_end():
        return nullcontext()
    context = scope.get("aws.context")
    left = left_by(context) if context is not None else _left_by_header(scope)
    if left is None or not 0 < left <= LONGEST_INVOCATION:
        return nullcontext()
    return invocation_ends_in(left - margin_of(left))


def margin_of(left: float, most: float = MARGIN) -> float:
    """How many of the seconds that are left are kept for the end."""
    return min(most, left * LARGEST_SHARE)


def left_by(context: object) -> float | None:
    """Seconds that are left by Lambda's context; None if it does not know."""
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    left = remaining() if callable(remaining) else None
    return left / 1000 if isinstance(left, int | float) else None  # a mock may answer anything


def _left_by_header(scope: Mapping[str, Any]) -> float | None:
    said = next((value for name, value in scope["headers"] if name.lower() == _HEADER), None)
    if said is None:
        return None
    try:
        ends = json.loads(said)["deadline"]
        return float(ends) / 1000 - time.time()
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
