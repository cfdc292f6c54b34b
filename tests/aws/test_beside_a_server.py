"""One request to a server, and to us by way of each sender: an app must not be able to tell them apart by the path."""

import http.client
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

from serverless_session import LambdaHandler
from tests.aws.events import HTTP, Context, sent
from tests.aws.sandboxes import LIMIT

DECODES_PATHS = ("http_api", "http_api_format_1")
STAGED = (*DECODES_PATHS, "rest_api")
KEEPS_ONE_VALUE = ("load_balancer",)

PIECES = [
    "/",
    "//",
    ".",
    "..",
    "%2e%2E",
    "%00",
    "%2F",
    "%5C",
    "a",
    "v9",
    "$default",
    "None",
    "shop",
    "%C3%A9",
    "%FF",
    "%",
    "%25",
    "%2",
    ";",
    "~",
    "@",
    ":",
    "=",
    "+",
    "&",
    "'",
    "(",
    "*",
    "!",
    ",",
    "|",
    '"',
    "%3F",
    "%23",
    "%0d%0a",
]
NAMES = ["a", "b", "%26", "%23", "%3D", "+", "%20", "%C3%A9", "[]", "."]

beginnings = st.sampled_from(["", "/$default", "/v9", "/None", "/v9/v9"])
paths = st.builds("{}/{}".format, beginnings, st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
names = st.lists(st.sampled_from(NAMES), min_size=1).map("".join)
queries = st.lists(st.tuples(names, names | st.just("")), max_size=4)


class Recorder:
    """An app that notes how a request came in."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.scope = scope
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})


class Beside:
    """The same app behind a server and behind our handler."""

    def __init__(self, port: int, there: Recorder) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        self._there, self._here = there, Recorder()
        self._handler = LambdaHandler(self._here)

    def close(self) -> None:
        self._connection.close()
        self._handler.close()

    def by_server(self, target: str) -> dict[str, Any]:
        self._connection.putrequest("GET", target)
        self._connection.endheaders()
        self._connection.getresponse().read()
        return self._there.scope

    def by_lambda(self, event: dict[str, Any]) -> dict[str, Any]:
        assert self._handler(event, Context())["statusCode"] == 200
        return self._here.scope


def values_of(scope: dict[str, Any]) -> dict[str, list[str]]:
    return parse_qs(scope["query_string"].decode("ascii"), keep_blank_values=True)


@pytest.fixture(scope="module")
def beside() -> Iterator[Beside]:
    app = Recorder()
    server = uvicorn.Server(uvicorn.Config(app, port=0, http="h11", lifespan="off", log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    both = Beside(server.servers[0].sockets[0].getsockname()[1], app)
    yield both
    both.close()
    server.should_exit = True
    thread.join(LIMIT)


each_sender = pytest.mark.parametrize("sender", HTTP)


@each_sender
@given(path=paths, stage=st.sampled_from(["$default", "v9", "None"]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_path_is_what_a_server_makes_of_it(beside: Beside, sender: str, path: str, stage: str) -> None:
    there = beside.by_server(path)
    here = beside.by_lambda(sent(sender, method="GET", path=path, stage=stage if sender in STAGED else None))
    mount: str = here["root_path"]
    assert here["path"] == mount + there["path"]
    if sender not in DECODES_PATHS:
        assert here["raw_path"] == mount.encode() + there["raw_path"]


@each_sender
@given(query=queries)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_query_is_what_a_server_makes_of_it(beside: Beside, sender: str, query: list[tuple[str, str]]) -> None:
    raw = "&".join(f"{name}={value}" for name, value in query)
    there = values_of(beside.by_server("/?" + raw))
    event = sent(sender, method="GET", path="/")
    several: dict[str, list[str]] = {}
    if sender.startswith("load"):  # they do not decode it
        for name, value in query:
            several.setdefault(name, []).append(value)
    else:
        several = parse_qs(raw, keep_blank_values=True)
    last = {name: values[-1] for name, values in several.items()}
    if "rawQueryString" in event:
        event["rawQueryString"] = raw
    if "multiValueQueryStringParameters" in event:
        event["multiValueQueryStringParameters"] = several or None
    event["queryStringParameters"] = last or None
    here = values_of(beside.by_lambda(event))
    if sender in KEEPS_ONE_VALUE:
        assert here.keys() == there.keys()
        assert all(value[-1] in there[name] for name, value in here.items())
    else:
        assert {name: sorted(values) for name, values in here.items()} == {
            name: sorted(values) for name, values in there.items()
        }
