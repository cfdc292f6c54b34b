"""What API Gateway sends: events of an HTTP API with payload format 2.0, and Lambda's context object.

As documented under "Create AWS Lambda proxy integrations for HTTP APIs": cookies stand in a list of their own and never
among the headers, keys without content (a query, path parameters) are left out, and the body is base64 for every type
that is neither text nor JSON, JavaScript or XML; forms are among those.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

Event = dict[str, Any]

_API: Final = "k5x7shop2a"
_DOMAIN: Final = f"{_API}.execute-api.eu-west-1.amazonaws.com"
_VISITOR: Final = "203.0.113.7"
_BROWSER: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
_FUNCTION: Final = "shop"


def event(
    method: str,
    path: str,
    *,
    cookies: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    form: Mapping[str, str] | None = None,
) -> Event:
    """One request as the function gets it; with a JSON body (`data`) or a form, if given."""
    now = time.time()
    headers = {
        "accept": "application/json",
        "accept-encoding": "gzip, deflate, br",
        "accept-language": "en-GB,en;q=0.5",
        "content-length": "0",
        "host": _DOMAIN,
        "user-agent": _BROWSER,
        "x-amzn-trace-id": f"Root=1-{int(now):08x}-{os.urandom(12).hex()}",
        "x-forwarded-for": _VISITOR,
        "x-forwarded-port": "443",
        "x-forwarded-proto": "https",
    }
    made: Event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": headers,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": _API,
            "domainName": _DOMAIN,
            "domainPrefix": _API,
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": _VISITOR,
                "userAgent": _BROWSER,
            },
            "requestId": base64.b64encode(os.urandom(11)).decode(),
            "routeKey": "$default",
            "stage": "$default",
            "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
            "timeEpoch": int(now * 1000),
        },
        "isBase64Encoded": False,
    }
    if cookies:
        made["cookies"] = list(cookies)
    if data is not None:
        made["body"] = json.dumps(data)
        headers |= {"content-type": "application/json", "content-length": str(len(made["body"]))}
    elif form is not None:
        body = urlencode(form).encode()
        made |= {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}
        headers |= {"content-type": "application/x-www-form-urlencoded", "content-length": str(len(body))}
    return made


class Context:
    """Lambda's context object of one invocation that may take `timeout` seconds."""

    function_name = _FUNCTION
    function_version = "$LATEST"
    invoked_function_arn = f"arn:aws:lambda:eu-west-1:123456789012:function:{_FUNCTION}"
    memory_limit_in_mb = "512"
    log_group_name = f"/aws/lambda/{_FUNCTION}"
    identity = None
    client_context = None

    def __init__(self, sandbox: str, *, timeout: float) -> None:
        random = os.urandom(16).hex()
        self.aws_request_id = "-".join((random[:8], random[8:12], random[12:16], random[16:20], random[20:]))
        self.log_stream_name = time.strftime("%Y/%m/%d/[$LATEST]", time.gmtime()) + sandbox
        self._ends = time.monotonic() + timeout

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._ends - time.monotonic()) * 1000))
