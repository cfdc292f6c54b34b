"""HTTP events as Lambda gets them: each as an ASGI scope, and the answer in the form that its sender takes.

Mangum's adapters, with what they get wrong put right: they are its `custom_handlers` too. What is known of the senders:

- An HTTP API decodes the path before it sends it, with either payload format; everybody else sends it as it came. So
  only there is `raw_path` made up, and only elsewhere is the path decoded.
- A named stage stands in front of an HTTP API's path, whatever the domain. It is taken off: an app knows nothing of it.
  It is not made the `root_path` either, which by ASGI would leave it in the path: what guards `/admin` by the path's
  beginning would be passed by.
- A REST API joins nothing and decodes the query; a load balancer does not decode it. Without "multi-value headers" a
  load balancer hands on the last of several values, and takes one `Set-Cookie` for each casing of its name.
- The address of the client is what the sender itself has seen: of `X-Forwarded-For`, which a client may begin as it
  likes, the last entry, and only behind a load balancer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final
from urllib.parse import quote, unquote, urlencode

from mangum.adapter import DEFAULT_TEXT_MIME_TYPES
from mangum.handlers.alb import ALB, case_mutated_headers
from mangum.handlers.api_gateway import APIGateway, HTTPGateway
from mangum.handlers.utils import handle_base64_response_body
from mangum.types import LambdaConfig, LambdaContext, LambdaEvent, Response, Scope

STAGE_ALONE: Final = "/"
"""For a base path: nothing but the stage is taken off. Mangum's default."""

TEXT_TYPES: Final = [*DEFAULT_TEXT_MIME_TYPES, "+json", "+xml"]
"""What a content type contains whose body is text in an event; anything else is base64."""

_LARGEST_OF_LAMBDA: Final = 6_291_556
_LONGEST_IN_JSON: Final = 6
"""Bytes: a control character, as `\\u0000`."""

_UNQUOTED: Final = "/~!$&'()*+,;=:@"
_WITHOUT_CONTENT: Final = (204, 304)
_PORT: Final = re.compile("[0-9]{1,5}")
"""A client may send thousands of digits, which Python takes for no number."""

Headers = list[tuple[bytes, bytes]]


class HttpApiEvent(HTTPGateway):
    """API Gateway HTTP APIs with payload format 2.0, and function URLs."""

    largest_answer_bytes: ClassVar[int] = _LARGEST_OF_LAMBDA

    @classmethod
    def infer(cls, event: LambdaEvent, context: LambdaContext, config: LambdaConfig) -> bool:
        is_request = event.get("version") == "2.0" and "http" in (event.get("requestContext") or ())
        return is_request and not _asks_for_authorization(event)

    @property
    def scope(self) -> Scope:
        event, request = self.event, self.event["requestContext"]
        fields = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
        if event.get("cookies"):
            fields["cookie"] = "; ".join(event["cookies"])
        path = event.get("rawPath") or request["http"].get("path") or "/"
        return _scope(
            self,
            method=request["http"]["method"],
            path=_below_base_path(self.config, path, _without_stage(path, request)),
            encoded=(request.get("domainName") or "").endswith(".on.aws"),  # a function URL
            query=(event.get("rawQueryString") or "").encode(),
            headers=[(name.encode(), value.encode()) for name, value in fields.items()],
            client=request["http"].get("sourceIp"),
        )

    def __call__(self, response: Response) -> dict[str, Any]:
        headers: dict[str, str] = {}
        cookies = []
        for name, value in _texts(response):
            if name == "set-cookie":
                cookies.append(value)
            else:
                headers[name] = f"{headers[name]},{value}" if name in headers else value
        answer = {"headers": headers, **_body(response, headers, self.config)}
        return answer | {"cookies": cookies} if cookies else answer


class RestApiEvent(APIGateway):
    """API Gateway REST APIs, and HTTP APIs with payload format 1.0."""

    largest_answer_bytes: ClassVar[int] = _LARGEST_OF_LAMBDA

    @classmethod
    def infer(cls, event: LambdaEvent, context: LambdaContext, config: LambdaConfig) -> bool:
        is_request = "httpMethod" in event and "resource" in event and "requestContext" in event
        return is_request and not _asks_for_authorization(event)

    @property
    def scope(self) -> Scope:
        event, request = self.event, self.event["requestContext"]
        path, is_http_api = event.get("path") or "/", event.get("version") == "1.0"
        return _scope(
            self,
            method=event["httpMethod"],
            path=_below_base_path(self.config, path, _without_stage(path, request) if is_http_api else path),
            encoded=not is_http_api,
            query=urlencode(
                _several(event, "multiValueQueryStringParameters", "queryStringParameters"), doseq=True
            ).encode(),
            headers=_headers(event),
            client=(request.get("identity") or {}).get("sourceIp"),
        )

    def __call__(self, response: Response) -> dict[str, Any]:
        several = _by_name(response)
        one = {name: values[0] for name, values in several.items() if len(values) == 1}
        more = {name: values for name, values in several.items() if len(values) > 1}
        return {"headers": one, "multiValueHeaders": more, **_body(response, one, self.config)}


class LoadBalancerEvent(ALB):
    """Application Load Balancers, with and without multi-value headers."""

    largest_answer_bytes: ClassVar[int] = 1_048_576

    @classmethod
    def infer(cls, event: LambdaEvent, context: LambdaContext, config: LambdaConfig) -> bool:
        return "elb" in (event.get("requestContext") or ())

    @property
    def scope(self) -> Scope:
        event, headers = self.event, _headers(self.event)
        forwarded = [value for name, value in headers if name == b"x-forwarded-for"]
        seen = forwarded[-1].rpartition(b",")[2].strip().decode() if forwarded else None
        query = _several(event, "multiValueQueryStringParameters", "queryStringParameters")
        path = event.get("path") or "/"
        return _scope(
            self,
            method=event["httpMethod"],
            path=_below_base_path(self.config, path, path),
            encoded=True,
            query="&".join(f"{name}={value}" for name, values in query.items() for value in values).encode(),
            headers=headers,
            client=_without_port(seen) if seen else None,
        )

    def __call__(self, response: Response) -> dict[str, Any]:
        several = _by_name(response)
        one = {name: values[-1] for name, values in several.items()}
        answer = _body(response, one, self.config)
        if "multiValueHeaders" in self.event:
            return answer | {"multiValueHeaders": several}
        return answer | {"headers": case_mutated_headers(several)}


ADAPTERS: Final = (HttpApiEvent, LoadBalancerEvent, RestApiEvent)

# --- from an event to a scope -----------------------------------------------------------------------------------------


def _scope(
    adapter: HttpApiEvent | RestApiEvent | LoadBalancerEvent,
    *,
    method: str,
    path: str,
    encoded: bool,
    query: bytes,
    headers: Headers,
    client: str | None,
) -> Scope:
    first = dict(reversed(headers))
    scheme = first.get(b"x-forwarded-proto", b"https").decode("latin-1")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": scheme if scheme in ("http", "https") else "https",
        "path": unquote(path) if encoded else path,
        "raw_path": (path if encoded else quote(path, safe=_UNQUOTED)).encode(),
        "root_path": "",
        "query_string": query,
        "headers": headers,
        "server": _server(first, scheme),
        "client": (client, 0) if client else None,
        "aws.event": adapter.event,
        "aws.context": adapter.context,
    }


def _asks_for_authorization(event: LambdaEvent) -> bool:
    """What API Gateway sends to an authorizer holds the request, but is none: the answer is a policy."""
    return event.get("type") == "REQUEST"


def mount(scope: Scope, root_path: str) -> None:
    """Let the app know where browsers see it, as a server does that is told: in the path, too."""
    scope["root_path"] = root_path
    scope["path"] = root_path + scope["path"]
    scope["raw_path"] = quote(root_path, safe=_UNQUOTED).encode() + scope["raw_path"]


def _without_stage(path: str, request: Mapping[str, Any]) -> str:
    """An HTTP API's path begins with the stage, if that has a name, whatever the domain.

    The default stage has none: where the path begins like it, the client has asked for that.
    """
    name = request.get("stage")
    return path if name in (None, "", "$default") else _without(path, f"/{name}")


def _below_base_path(config: LambdaConfig, sent: str, below_stage: str) -> str:
    """What is left for the app; with the base path "" it is all that was sent."""
    base_path = config["api_gateway_base_path"]
    if not base_path:
        return sent
    return _without(below_stage, "/" + base_path.strip("/"))


def _without(path: str, start: str) -> str:
    if start != "/" and (path == start or path.startswith(start + "/")):
        return path.removeprefix(start) or "/"
    return path


def _several(event: Mapping[str, Any], several: str, one: str) -> dict[str, list[str]]:
    """What an event holds twice: each name with all of its values, or, where it has only that, with the last one."""
    return event.get(several) or {name: [value] for name, value in (event.get(one) or {}).items()}


def _headers(event: Mapping[str, Any]) -> Headers:
    headers, cookies = [], []
    for name, values in _several(event, "multiValueHeaders", "headers").items():
        lower = name.lower()
        if lower == "cookie":
            cookies += values
        else:
            encoded = lower.encode()
            headers += [(encoded, value.encode()) for value in values]
    if cookies:  # in one, as HTTP/2 wants it: what is joined by a comma is one broken cookie
        headers.append((b"cookie", "; ".join(cookies).encode()))
    return headers


def _server(headers: Mapping[bytes, bytes], scheme: str) -> tuple[str, int] | None:
    host, bracket, port = headers.get(b"host", b"").decode("latin-1").rpartition(":")
    if not bracket or not _PORT.fullmatch(port):
        host, port = host + bracket + port, headers.get(b"x-forwarded-port", b"").decode("latin-1")
    if not host:
        return None
    return host, int(port) if _PORT.fullmatch(port) else (80 if scheme == "http" else 443)


def _without_port(address: str) -> str:
    """A load balancer may be told to send the client's port along: `192.0.2.1:4711`, `[2001:db8::1]:4711`."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


# --- from an answer to its form ---------------------------------------------------------------------------------------


def smallest_size(answer: Mapping[str, Any]) -> int:
    """Bytes of an answer in JSON at least, whatever version of the runtime writes it: 0 where it fits in any case.

    Above its limit, Lambda or the load balancer would answer a 502 in its place, and the cookies were lost.
    """
    if len(answer["body"]) * _LONGEST_IN_JSON < LoadBalancerEvent.largest_answer_bytes // 2:
        return 0
    return len(json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode())


def _texts(response: Response) -> Iterable[tuple[str, str]]:
    nothing_to_describe = response["status"] in _WITHOUT_CONTENT
    for name, value in response["headers"]:
        text = name.decode("latin-1").lower()
        if not (nothing_to_describe and text in ("content-type", "content-length")):
            yield text, value.decode("latin-1")


def _by_name(response: Response) -> dict[str, list[str]]:
    several: dict[str, list[str]] = {}
    for name, value in _texts(response):
        several.setdefault(name, []).append(value)
    return several


def _body(response: Response, headers: Mapping[str, str], config: LambdaConfig) -> dict[str, Any]:
    content = b"" if response["status"] in _WITHOUT_CONTENT else response["body"]
    body, is_base64 = handle_base64_response_body(content, dict(headers), config["text_mime_types"])
    return {"statusCode": response["status"], "body": body, "isBase64Encoded": is_base64}
