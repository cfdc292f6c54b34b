"""API Gateway events, payload format 2.0, as AWS documents them (the same form comes from function URLs)."""

import base64
import json
from typing import Any


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
