"""The end of an invocation, for an app that another server than our handler serves on Lambda."""

import json
import time
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from serverless_session import LambdaHandler, SharedState
from serverless_session.deadline import time_left
from tests.aws.events import Context, event_v2
from tests.aws.handlers import answer_of_mangum
from tests.sessions.apps import SECRET, app_over

LONG = 600.0
"""What a store call may take where nothing ends before."""


async def left(request: Request) -> Response:
    return PlainTextResponse(str(time_left(LONG)))


APP = app_over(SharedState("memory://", secret_key=SECRET), Route("/left", left))


@pytest.fixture
def on_lambda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "shop")


def told(deadline: Any, **more: Any) -> str:
    """Lambda's context as the Web Adapter puts it into a header."""
    return json.dumps({"request_id": "1", "deadline": deadline, "invoked_function_arn": "arn:aws:lambda:...", **more})


async def left_by(header: str | None) -> float:
    headers = {} if header is None else {"x-amzn-lambda-context": header}
    transport = httpx2.ASGITransport(APP)
    async with httpx2.AsyncClient(transport=transport, base_url="https://shop.example", headers=headers) as client:
        return float((await client.get("/left")).text)


@pytest.mark.usefixtures("on_lambda")
async def test_behind_the_web_adapter_no_store_call_outlives_the_invocation() -> None:
    assert 2.5 < await left_by(told(int(time.time() * 1000) + 3000)) <= 2.7, "less a margin, a tenth of it"
    assert await left_by(None) == LONG


async def test_elsewhere_nobody_is_believed() -> None:
    """A client could end its own store calls, or an app's behind another proxy."""
    assert await left_by(told(int(time.time() * 1000) + 3000)) == LONG


@pytest.mark.usefixtures("on_lambda")
@pytest.mark.parametrize(
    "header",
    ["", "{", "null", "[]", "{}", told(None), told("soon"), told([]), told(0), told(-5), told(1e30), "[" * 100_000],
    ids=lambda header: header[:40],
)
async def test_what_is_no_end_changes_nothing(header: str) -> None:
    assert await left_by(header) == LONG


@pytest.mark.usefixtures("on_lambda")
def test_under_mangum_the_context_counts_and_no_header_of_the_client() -> None:
    event = event_v2(path="/left")
    event["headers"]["x-amzn-lambda-context"] = told(int(time.time() * 1000) + 1000)
    answer = answer_of_mangum(APP, event, Context(30.0))
    assert 29.0 < float(answer["body"]) <= 29.5


@pytest.mark.usefixtures("on_lambda")
def test_under_our_handler_it_is_the_handlers_that_counts() -> None:
    event = event_v2(path="/left")
    event["headers"]["x-amzn-lambda-context"] = told(int(time.time() * 1000) + 1000)
    handler = LambdaHandler(APP)
    try:
        assert 29.0 < float(handler(event, Context(30.0))["body"]) <= 29.75
    finally:
        handler.close()
