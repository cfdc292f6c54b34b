"""One request as each sender puts it, and one answer in the form that each takes; beside what Mangum makes of them."""

import base64
import gzip
import json
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from serverless_session import LambdaHandler, ServerlessSessionError
from serverless_session.errors import ConfigurationError
from tests.aws.events import HTTP, Context, golden, sent
from tests.aws.handlers import answer_of_mangum

each_sender = pytest.mark.parametrize("sender", HTTP)
DECODES_PATHS = ("http_api", "http_api_format_1")
KEEPS_ONE_VALUE = ("load_balancer",)


class Recorder:
    """An app that notes how a request came in, and answers as it is told."""

    def __init__(self, response: Response | None = None) -> None:
        self.scope: dict[str, Any] = {}
        self.body = b""
        self._response = response or PlainTextResponse("ok")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        self.scope, self.body = scope, (await receive())["body"]
        await self._response(scope, receive, send)


def seen(event: dict[str, Any], **options: Any) -> Request:
    """The request that an app sees."""
    app = Recorder()
    handler = LambdaHandler(app, **options)
    try:
        handler(event, Context())
    finally:
        handler.close()
    app.scope["body"] = app.body
    return Request(app.scope)


def answered(event: dict[str, Any], response: Response) -> dict[str, Any]:
    handler = LambdaHandler(Recorder(response))
    try:
        answer: dict[str, Any] = handler(event, Context())
    finally:
        handler.close()
    return answer


def cookies_of(answer: dict[str, Any]) -> list[str]:
    """Every Set-Cookie that a browser gets, from each of the forms."""
    several = answer.get("multiValueHeaders", {}).get("set-cookie", [])
    single = [value for name, value in answer.get("headers", {}).items() if name.lower() == "set-cookie"]
    return [*answer.get("cookies", []), *several, *single]


def headers_of(answer: dict[str, Any]) -> dict[str, str]:
    """The other headers that a browser gets."""
    several = {name: ",".join(values) for name, values in answer.get("multiValueHeaders", {}).items()}
    all_of_them = several | {name.lower(): value for name, value in answer.get("headers", {}).items()}
    return {name: value for name, value in all_of_them.items() if name != "set-cookie"}


def body_of(answer: dict[str, Any]) -> bytes:
    return base64.b64decode(answer["body"]) if answer["isBase64Encoded"] else answer["body"].encode()


# --- in ---------------------------------------------------------------------------------------------------------------


@each_sender
def test_one_request_is_the_same_request_from_every_sender(sender: str) -> None:
    request = seen(golden(sender))
    assert request.method == "POST"
    assert request.scope["body"] == b"Hello world!"
    assert request.cookies == {"cookie1": "value1", "cookie2": "value2"}
    assert request.headers["cookie"] == "cookie1=value1; cookie2=value2"
    assert request.headers["content-type"] == "text/plain"
    values = ["value2"] if sender in KEEPS_ONE_VALUE else ["value1", "value2"]
    assert request.query_params.getlist("parameter1") == values
    assert request.query_params["parameter2"] == "value"
    assert request.client is not None
    assert request.client.host == "205.255.255.176", "what the sender has seen, not what the client says of itself"
    assert request.url.scheme == "https"
    assert request.url.hostname == request.headers["host"]
    assert request.scope["server"] == (request.headers["host"], 443)
    assert request.scope["aws.event"] == golden(sender)


@each_sender
def test_an_encoded_path(sender: str) -> None:
    request = seen(sent(sender, path="/caf%C3%A9/a%2Fb%20c/100%2525", stage="$default"))
    assert request.url.path in ("/caf%C3%A9/a%2Fb%20c/100%2525", "/café/a/b c/100%25")
    assert request.scope["path"] == "/café/a/b c/100%25", "decoded once"
    if sender in DECODES_PATHS:  # the encoded slash is lost before the event is sent
        assert request.scope["raw_path"] == b"/caf%C3%A9/a/b%20c/100%2525"
    else:
        assert request.scope["raw_path"] == b"/caf%C3%A9/a%2Fb%20c/100%2525"


@each_sender
def test_null_in_every_place_that_may_hold_nothing(sender: str) -> None:
    event = golden(sender)
    for name in event.keys() - {"version", "resource", "path", "rawPath", "httpMethod", "requestContext"}:
        event[name] = None
    request = seen(event)
    assert request.headers.raw == []
    assert request.scope["query_string"] == b""
    assert request.scope["body"] == b""
    assert request.scope["server"] is None


@each_sender
def test_an_event_that_lacks_what_belongs_to_it_is_named(sender: str) -> None:
    event = golden(sender)
    event.pop("httpMethod", None) if sender.startswith("load") else event["requestContext"].pop("http", None)
    if sender in ("rest_api", "http_api_format_1"):
        event["multiValueHeaders"] = ["no", "mapping"]
    if sender in ("http_api", "function_url"):
        event["requestContext"]["http"] = {}
    with pytest.raises(ServerlessSessionError, match="bad-event"):
        seen(event)


@pytest.mark.parametrize("sender", ["http_api", "http_api_format_1", "rest_api"])
def test_what_is_sent_to_an_authorizer_is_no_request_and_may_have_a_function(sender: str) -> None:
    app = Recorder()
    handler = LambdaHandler(app)
    event = golden(sender) | {"type": "REQUEST"}
    with pytest.raises(ServerlessSessionError, match="unknown-event"):
        handler(event, Context())

    @handler.event(lambda event: event.get("type") == "REQUEST")
    async def authorize(event: Any, context: Any) -> dict[str, bool]:
        return {"isAuthorized": False}

    assert handler(event, Context()) == {"isAuthorized": False}
    assert app.scope == {}
    handler.close()


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("127.0.0.1, 10.0.0.1,198.51.100.7", "198.51.100.7"),
        ("198.51.100.7:4711", "198.51.100.7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("", None),
    ],
)
def test_a_client_behind_a_load_balancer_is_the_last_that_forwarded(forwarded: str, client: str | None) -> None:
    event = golden("load_balancer")
    event["headers"]["x-forwarded-for"] = forwarded
    found = seen(event).client
    assert (found.host if found else None) == client
    several = golden("load_balancer_multi_value")
    several["multiValueHeaders"]["x-forwarded-for"] = ["127.0.0.1", forwarded or "198.51.100.7"]
    there = seen(several).client
    assert there is not None
    assert there.host == (client or "198.51.100.7")


@pytest.mark.parametrize("sender", ["rest_api", "load_balancer_multi_value"])
def test_a_header_that_came_twice_is_there_twice(sender: str) -> None:
    event = golden(sender)
    event["multiValueHeaders"]["X-Hop"] = ["one", "two"]
    assert seen(event).headers.getlist("x-hop") == ["one", "two"]


def test_a_scheme_that_is_none_is_https() -> None:
    """An app that trusts it makes links of it."""
    event = golden("http_api")
    event["headers"]["x-forwarded-proto"] = "javascript"
    assert seen(event).url.scheme == "https"
    event["headers"]["x-forwarded-proto"] = "http"
    assert seen(event).url.scheme == "http"


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("shop.example", ("shop.example", 443)),
        ("shop.example:8443", ("shop.example", 8443)),
        ("[2001:db8::1]:8443", ("[2001:db8::1]", 8443)),
        ("[2001:db8::1]", ("[2001:db8::1]", 443)),
        ("shop.example:port", ("shop.example:port", 443)),
        ("shop.example:" + "9" * 5000, ("shop.example:" + "9" * 5000, 443)),
    ],
)
def test_what_the_host_says(host: str, server: tuple[str, int]) -> None:
    event = golden("http_api")
    event["headers"]["host"] = host
    assert seen(event).scope["server"] == server


# --- stages, custom domains, base paths -------------------------------------------------------------------------------


def routed(event: dict[str, Any], **options: Any) -> Any:
    """What an app with a route `/orders/{number}` says to it."""

    async def order(request: Request) -> Response:
        return JSONResponse([request.path_params["number"], str(request.url_for("order", number="8"))])

    async def other(request: Request) -> Response:
        return JSONResponse("no such route", 404)

    app = Starlette(routes=[Route("/orders/{number}", order), Route("/{rest:path}", other)])
    handler = LambdaHandler(app, **options)
    try:
        answer = handler(event, Context())
    finally:
        handler.close()
    return answer["body"]


def at_domain(event: dict[str, Any], domain: str) -> dict[str, Any]:
    event["requestContext"]["domainName"] = domain
    for headers in (event["headers"], event.get("multiValueHeaders", {})):
        for name in [name for name in headers if name.lower() == "host"]:
            headers[name] = [domain] if headers is event.get("multiValueHeaders") else domain
    return event


STAGED = ("http_api", "http_api_format_1", "rest_api")
DOMAINS = ("api-id.execute-api.eu-west-1.amazonaws.com", "shop.example")


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("sender", STAGED)
def test_a_stage_is_no_part_of_the_path(sender: str, domain: str) -> None:
    """A guard that looks at the beginning of the path sees what the route sees."""
    event = at_domain(sent(sender, method="GET", path="/orders/7", stage="v9"), domain)
    assert routed(event) == f'["7","https://{domain}/orders/8"]'
    request = seen(event)
    assert (request.url.path, request.scope["root_path"]) == ("/orders/7", "")


@pytest.mark.parametrize("sender", HTTP)
def test_a_base_path_of_a_custom_domain_is_taken_off(sender: str) -> None:
    """`/shop` is mapped to the stage: a REST API sends it along, an HTTP API may."""
    stage = "v9" if sender in STAGED else None
    for path in ("/shop/orders/7", "/orders/7"):
        event = sent(sender, method="GET", path=path, stage=stage)
        assert routed(event, base_path="/shop").startswith('["7",')
        assert seen(event, base_path="/shop").url.path == "/orders/7"
    beside = seen(sent(sender, method="GET", path="/shopping", stage=stage), base_path="/shop")
    assert beside.url.path == "/shopping"


@pytest.mark.parametrize("sender", HTTP)
def test_a_root_path_is_in_links_as_of_any_server(sender: str) -> None:
    event = sent(sender, method="GET", path="/v1/orders/7", stage="v9" if sender in STAGED else None)
    host = seen(event).url.hostname
    assert routed(event, base_path="/v1", root_path="/v1") == f'["7","https://{host}/v1/orders/8"]'
    request = seen(event, base_path="/v1", root_path="/a é")
    assert request.scope["root_path"] == "/a é"
    assert request.scope["path"] == "/a é/orders/7"
    assert request.scope["raw_path"] == b"/a%20%C3%A9/orders/7"


def test_a_root_path_that_no_sender_knows_of() -> None:
    """That of a distribution in front of the API, say."""
    app = FastAPI()

    @app.get("/orders/{number}")
    def order(number: int, request: Request) -> str:
        return str(request.url_for("order", number=8))

    event = sent("rest_api", method="GET", path="/orders/7")
    handler = LambdaHandler(app, root_path="/api")
    try:
        answer = handler(event, Context())
    finally:
        handler.close()
    assert answer["body"] == f'"https://{golden("rest_api")["headers"]["Host"]}/api/orders/8"'


def test_a_path_is_left_as_it_was_sent() -> None:
    event = sent("http_api", method="GET", path="/orders/7", stage="v9")
    assert routed(event, base_path="") == '"no such route"'


def test_a_path_that_only_begins_like_the_stage_is_not_below_it() -> None:
    event = sent("http_api", method="GET", path="/v99/orders/7")
    event["requestContext"]["stage"] = "v9"
    request = seen(event)
    assert (request.scope["root_path"], request.scope["path"]) == ("", "/v99/orders/7")


@pytest.mark.parametrize("stage", ["$default", "", None])
@pytest.mark.parametrize("sender", ["http_api", "function_url", "http_api_format_1"])
def test_a_client_who_begins_a_path_like_the_default_stage_gets_no_other_route(sender: str, stage: str | None) -> None:
    """Else `/$default/admin` would be `/admin`, past whatever API Gateway asks of those who come to that."""
    for begun in ("/$default", "/None"):
        event = sent(sender, path=f"{begun}/admin", stage="$default")
        event["requestContext"]["stage"] = stage
        request = seen(event)
        assert (request.scope["root_path"], request.scope["path"]) == ("", f"{begun}/admin")


@pytest.mark.parametrize("path", ["shop", None, 5])
@pytest.mark.parametrize("name", ["base_path", "root_path"])
def test_a_start_of_paths_that_cannot_be_one_is_refused(name: str, path: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"bad-path(.|\n)*{name}="):
        LambdaHandler(Starlette(), **{name: path})


@pytest.mark.parametrize("app", [None, "shop:app"])
def test_an_app_that_is_none_is_refused(app: Any) -> None:
    with pytest.raises(ConfigurationError, match="bad-app"):
        LambdaHandler(app)


# --- out --------------------------------------------------------------------------------------------------------------


@each_sender
def test_an_answer_with_two_cookies_and_a_header_twice(sender: str) -> None:
    response = JSONResponse({"é": 1}, status_code=201)
    response.set_cookie("session", "one")
    response.set_cookie("theme", "dark")
    response.headers.append("vary", "cookie")
    response.headers.append("vary", "accept")
    answer = answered(golden(sender), response)
    assert answer["statusCode"] == 201
    assert [cookie.partition(";")[0] for cookie in cookies_of(answer)] == ["session=one", "theme=dark"]
    assert body_of(answer) == '{"é":1}'.encode()
    assert answer["isBase64Encoded"] is False
    if sender == "load_balancer":
        assert {value for name, value in answer["headers"].items() if name.lower() == "vary"} == {"cookie", "accept"}
    else:
        assert headers_of(answer)["vary"] == "cookie,accept"
    if sender == "load_balancer":
        assert "multiValueHeaders" not in answer
    if sender == "load_balancer_multi_value":
        assert "headers" not in answer


@each_sender
@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_content_has_no_body_and_no_type(sender: str, status: int) -> None:
    """Mangum's v2 says `application/json` of it."""
    response = Response(status_code=status, headers={"etag": '"1"', "content-type": "text/plain"})
    response.body = b"not to be sent"
    answer = answered(golden(sender), response)
    assert answer["statusCode"] == status
    assert answer["body"] == ""
    assert headers_of(answer) == {"etag": '"1"'}


@each_sender
def test_an_answer_to_head_says_what_get_would_and_has_no_body(sender: str) -> None:
    answer = answered(sent(sender, method="HEAD"), PlainTextResponse("a body"))
    assert answer["body"] == ""
    assert headers_of(answer) == {"content-length": "6", "content-type": "text/plain; charset=utf-8"}


@each_sender
def test_an_answer_without_a_type_gets_none(sender: str) -> None:
    answer = answered(golden(sender), Response(b"\xff"))
    assert "content-type" not in headers_of(answer)
    assert body_of(answer) == b"\xff"


@each_sender
@pytest.mark.parametrize(
    ("content", "kind", "is_base64"),
    [
        ("é".encode(), "text/html; charset=utf-8", False),
        (b"{}", "application/json", False),
        (b"{}", "application/problem+json", False),
        (b"<svg/>", "image/svg+xml", False),
        (b"\xe9", "text/plain; charset=latin-1", True),
        (gzip.compress(b"text", mtime=0), "text/plain", True),
        (b"\x89PNG", "image/png", True),
        (b"plain", "application/octet-stream", True),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bytes_arrive_as_they_are(sender: str, content: bytes, kind: str, is_base64: bool) -> None:
    answer = answered(golden(sender), Response(content, media_type=kind))
    assert body_of(answer) == content
    assert answer["isBase64Encoded"] is is_base64


@each_sender
def test_a_header_is_latin_1(sender: str) -> None:
    response = Response(status_code=200, headers={"x-name": "André"})
    assert headers_of(answered(golden(sender), response))["x-name"] == "André"


@each_sender
def test_an_app_that_fails_after_its_headers_is_a_500_with_its_cookies(sender: str) -> None:
    """THREATS 19: Mangum drops them, and with them the new id that was saved."""

    class Failing(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            headers = [(b"set-cookie", b"session=new"), (b"set-cookie", b"b=2"), (b"x-other", b"1")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            raise RuntimeError("in the stream")

    answer = answered(golden(sender), Failing())
    assert answer["statusCode"] == 500
    assert cookies_of(answer) == ["session=new", "b=2"]
    assert body_of(answer) == b"Internal Server Error"
    assert headers_of(answer) == {"content-type": "text/plain; charset=utf-8"}


COOKIE = (b"set-cookie", b"session=new")
START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [COOKIE]}
BODY: dict[str, Any] = {"type": "http.response.body", "body": b"body"}
BROKEN: dict[str, list[dict[str, Any]]] = {
    "a line break in a header": [START | {"headers": [COOKIE, (b"location", b"/a\r\nset-cookie: b=2")]}, BODY],
    "a line break in a name": [START | {"headers": [COOKIE, (b"x\ny", b"1")]}, BODY],
    "an empty name": [START | {"headers": [COOKIE, (b"", b"1")]}, BODY],
    "a status that is none": [START | {"status": 1000}, BODY],
    "a status that is no answer": [START | {"status": 103}, BODY],
    "a status that is no number": [START | {"status": "200"}, BODY],
    "a text for a body": [START, BODY | {"body": "body"}],
    "None for a body": [START, BODY | {"body": None}],
    "no end": [START, BODY | {"more_body": True}],
    "no body": [START],
    "two starts": [START, START, BODY],
}


@each_sender
@pytest.mark.parametrize("name", BROKEN)
def test_an_answer_that_cannot_be_sent_is_a_500_that_is_told_with_its_cookies(
    sender: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """THREATS 19: who stands in front would make a 502 of it, or another answer."""

    class Broken(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            for message in BROKEN[name]:
                await send(message)

    answer = answered(golden(sender), Broken())
    assert answer["statusCode"] == 500
    assert cookies_of(answer) == ["session=new"]
    assert body_of(answer) == b"Internal Server Error"
    assert "lambda.app_raised" in caplog.text


@pytest.mark.parametrize("headers", [[("x", "text")], [(b"x",)], 5])
def test_headers_that_are_none_are_a_500(headers: Any) -> None:
    class Broken(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await send(START | {"headers": headers})

    assert answered(golden("http_api"), Broken())["statusCode"] == 500


def test_a_body_may_be_of_any_bytes_and_change_after_it_was_sent() -> None:
    class Reusing(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            part = bytearray(b"one")
            await send({"type": "http.response.body", "body": part, "more_body": True})
            part[:] = b"two"
            await send({"type": "http.response.body", "body": memoryview(part)})

    assert body_of(answered(golden("http_api"), Reusing())) == b"onetwo"


LAMBDAS, LOAD_BALANCERS = 6_291_556, 1_048_576
"""Bytes of an answer at most, as AWS documents it."""


@each_sender
@pytest.mark.parametrize("kind", ["text/plain", "image/png"])
def test_an_answer_that_is_too_large_is_a_500_that_is_told_with_its_cookies(
    sender: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """THREATS 19: in place of a 502, which has none."""
    limit = LOAD_BALANCERS if sender.startswith("load") else LAMBDAS
    largest = limit - 1000 if kind == "text/plain" else (limit - 1000) // 4 * 3
    fits = answered(golden(sender), Response(b"x" * largest, media_type=kind))
    assert fits["statusCode"] == 200
    assert len(json.dumps(fits)) <= limit
    assert caplog.text == ""
    response = Response(b"x" * (largest + 1000), media_type=kind)
    response.set_cookie("session", "new")
    answer = answered(golden(sender), response)
    assert answer["statusCode"] == 500
    assert cookies_of(answer)[0].startswith("session=new")
    assert body_of(answer) == b"Internal Server Error"
    assert f"above the limit of {limit}" in caplog.text


@pytest.mark.parametrize(("character", "bytes_of_it"), [("é", 2), ("\n", 2), ("\x00", 6)])
def test_what_counts_is_what_is_sent(character: str, bytes_of_it: int) -> None:
    for number, status in ((LAMBDAS // bytes_of_it - 100, 200), (LAMBDAS // bytes_of_it, 500)):
        response = PlainTextResponse(character * number)
        assert answered(golden("http_api"), response)["statusCode"] == status


# --- beside Mangum ----------------------------------------------------------------------------------------------------


OURS = {"state", "serverless_session"}
"""Of the lifespan, and our own notes on a request."""
MEANT: dict[str, set[str]] = {
    "http_api": {"raw_path", "headers", "asgi"},
    "function_url": {"raw_path", "headers", "asgi"},
    "rest_api": {"raw_path", "headers", "asgi"},
    "http_api_format_1": {"raw_path", "headers", "asgi"},
    "load_balancer": {"raw_path", "asgi", "client", "headers"},
    "load_balancer_multi_value": {"raw_path", "asgi", "client", "headers"},
}
"""What we make otherwise of the golden events than Mangum 0.22.

`raw_path`: it has none. `headers`: pairs are tuples, as ASGI says, and a REST API's or load balancer's several cookies
are one header. `client`: what the load balancer has seen.
"""


@pytest.mark.parametrize("sender", HTTP)
def test_what_mangum_makes_of_it_and_what_we_mean_otherwise(sender: str) -> None:
    ours, its, context = Recorder(), Recorder(), Context()
    handler = LambdaHandler(ours)
    mine = handler(golden(sender), context)
    handler.close()
    theirs = answer_of_mangum(its, golden(sender), context)
    assert ours.body == its.body
    differences = {name for name in ours.scope.keys() - OURS if ours.scope[name] != its.scope.get(name)}
    assert differences == MEANT[sender]
    assert its.scope.keys() - ours.scope.keys() == set()
    assert dict(ours.scope["headers"]).keys() == {name for name, _ in its.scope["headers"]}
    assert mine == theirs


ODD_ANSWERS: dict[str, tuple[Response, set[str]]] = {
    "204": (Response(status_code=204), {"http_api", "function_url"}),
    "304": (Response(status_code=304), {"http_api", "function_url"}),
    "no type": (Response(b"x"), {"http_api", "function_url"}),
    "two cookies": (Response(headers={"set-cookie": "a=1"}), {"http_api", "function_url"}),
    "a text": (PlainTextResponse("é"), set()),
    "svg": (Response(b"<svg/>", media_type="image/svg+xml"), set(HTTP)),
}
"""Answers, and for which senders ours is meant to be another: no type is made up, and what is XML or JSON is text."""


@pytest.mark.parametrize("name", ODD_ANSWERS)
@each_sender
def test_answers_that_mangum_gives_otherwise(sender: str, name: str) -> None:
    response, otherwise = ODD_ANSWERS[name]
    theirs = answer_of_mangum(Recorder(response), golden(sender))
    assert (answered(golden(sender), response) != theirs) is (sender in otherwise)


def test_the_adapters_serve_mangum_too() -> None:
    from serverless_session.aws.http_events import ADAPTERS

    app = Recorder(Response(status_code=204))
    answer = answer_of_mangum(app, golden("rest_api"), custom_handlers=[*ADAPTERS])
    assert app.scope["raw_path"] == b"/my/path"
    assert answer["statusCode"] == 204
