"""Events as Lambda gets them: short ones of payload format 2.0 made to measure, and one of each sender, written out."""

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote


class Context:
    """The part of Lambda's context object that a handler reads."""

    def __init__(self, remaining: float = 3.0) -> None:
        self.remaining = remaining

    def get_remaining_time_in_millis(self) -> int:
        return int(self.remaining * 1000)


def event_v2(
    method: str = "GET",
    path: str = "/",
    *,
    cookies: tuple[str, ...] = (),
    query: str = "",
    body: Any = None,
    binary: bool = False,
) -> dict[str, Any]:
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {
            "accept": "*/*",
            "content-type": "application/json",
            "host": "abc123.execute-api.eu-west-1.amazonaws.com",
            "user-agent": "test",
            "x-amzn-trace-id": "Root=1-5e6722a7-cc56xmpl46db7ae02d4da47e",
            "x-forwarded-for": "205.255.255.176",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
        },
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abc123",
            "domainName": "abc123.execute-api.eu-west-1.amazonaws.com",
            "domainPrefix": "abc123",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "205.255.255.176",
                "userAgent": "test",
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": "$default",
            "time": "10/Mar/2020:05:16:23 +0000",
            "timeEpoch": 1583817383220,
        },
        "isBase64Encoded": binary,
    }
    if cookies:
        event["cookies"] = list(cookies)
    if body is not None:
        text = json.dumps(body)
        event["body"] = base64.b64encode(text.encode()).decode() if binary else text
    return event


GOLDEN = Path(__file__).parent / "golden"
"""Events as AWS documents them, one for each sender. Those that are HTTP are one request, as each sender puts it."""

HTTP = (
    "http_api",
    "function_url",
    "rest_api",
    "http_api_format_1",
    "load_balancer",
    "load_balancer_multi_value",
)


def golden(name: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return event


def sent(name: str, *, method: str | None = None, path: str | None = None, stage: str | None = None) -> dict[str, Any]:
    """A golden HTTP event as it would be for another request: `path` is what stands in the address, encoded."""
    event = golden(name)
    request = event["requestContext"]
    stage = stage if stage is not None else request.get("stage", "")
    if stage:
        request["stage"] = stage
    if path is None:
        path = "/my/path"
    below_stage = f"/{stage}{path}" if stage not in ("", "$default") else path
    if name in ("http_api", "http_api_format_1"):
        path = below_stage = unquote(below_stage)
    match name:
        case "http_api" | "function_url":
            event["rawPath"] = request["http"]["path"] = path
            request["http"]["method"] = method or "POST"
        case "rest_api" | "http_api_format_1":
            event["path"], request["path"] = path, below_stage
            event["httpMethod"] = request["httpMethod"] = method or "POST"
        case _:
            event["path"], event["httpMethod"] = path, method or "POST"
    return event
