"""The behaviours that Starlette's own tests of its SessionMiddleware show (release 1.10.0), shown of ours.

Each is written anew after a test in Starlette's tests/middleware/test_session.py (BSD-3-Clause); only the import
differs for a user who comes from there, and a 7-character secret is as good here, because the store is in the process.
"""

import re
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from serverless_session import Session, SessionMiddleware
from tests.sessions.apps import ROUTES, update


async def merge_in(request: Request) -> Response:
    session = request.session
    session |= await request.json()
    return JSONResponse(request.session)


async def popitem(request: Request) -> Response:
    request.session.popitem()
    return JSONResponse(request.session)


MORE = [Route("/merge", merge_in, methods=["POST"]), Route("/popitem", popitem, methods=["POST"])]


def client_of(
    *, base_url: str = "http://testserver", cookies: dict[str, str] | None = None, **options: object
) -> TestClient:
    options.setdefault("secret_key", "example")
    app = Starlette(routes=[*ROUTES, *MORE], middleware=[Middleware(SessionMiddleware, **options)])  # type: ignore[arg-type]
    return TestClient(app, base_url=base_url, cookies=cookies)


@pytest.fixture
def client() -> Iterator[TestClient]:
    with client_of() as client:
        yield client


def test_a_session_lives_from_update_to_clear(client: TestClient) -> None:
    assert client.get("/view").json() == {}
    response = client.post("/update", json={"some": "data"})
    assert response.json() == {"some": "data"}
    age = re.search(r"; Max-Age=([0-9]+);", response.headers["set-cookie"])
    assert age is not None
    assert int(age[1]) == 14 * 24 * 3600
    assert client.get("/view").json() == {"some": "data"}
    assert client.post("/clear").json() == {}
    assert client.get("/view").json() == {}


def test_the_cookies_are_written_to_the_letter() -> None:
    client = client_of()
    cookie = client.post("/update", json={"some": "data"}).headers["set-cookie"]
    assert re.fullmatch(r"session=[\w-]{60}; path=/; Max-Age=1209600; httponly; samesite=lax", cookie)
    cookie = client.post("/clear").headers["set-cookie"]
    assert cookie == "session=null; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT; httponly; samesite=lax"


@pytest.mark.parametrize("partitioned", [False, True])
def test_partitioned(partitioned: bool) -> None:
    client = client_of(base_url="https://testserver", https_only=True, same_site="none", partitioned=partitioned)
    for response in (client.post("/update", json={"some": "data"}), client.post("/clear")):
        attributes = response.headers["set-cookie"].split("; ")
        assert ("partitioned" in attributes) is partitioned
        assert {"samesite=none", "secure"} <= set(attributes)


def test_a_negative_max_age_is_a_session_that_has_expired() -> None:
    response = client_of(max_age=-1).post("/update", json={"some": "data"})
    assert response.json() == {"some": "data"}
    value = re.search(r"session=([^;]*);", response.headers["set-cookie"])
    assert value is not None
    again = client_of(max_age=-1, cookies={"session": value[1]})
    assert again.get("/view").json() == {}


def test_a_secure_cookie_is_kept_from_http() -> None:
    insecure = client_of(https_only=True)
    secure = client_of(https_only=True, base_url="https://testserver")
    for client, kept in ((insecure, {}), (secure, {"some": "data"})):
        assert client.get("/view").json() == {}
        assert client.post("/update", json={"some": "data"}).json() == {"some": "data"}
        assert client.get("/view").json() == kept
    secure.post("/clear")
    assert secure.get("/view").json() == {}


def test_a_path() -> None:
    inner = Starlette(
        routes=[Route("/update", update, methods=["POST"])],
        middleware=[Middleware(SessionMiddleware, secret_key="example", path="/second_app")],
    )
    client = TestClient(Starlette(routes=[Mount("/second_app", app=inner)]), base_url="http://testserver/second_app")
    response = client.post("/update", json={"some": "data"})
    path = re.search(r"; path=(\S+);", response.headers["set-cookie"])
    assert path is not None
    assert path[1] == "/second_app"


def test_a_cookie_of_nobody_is_an_empty_session() -> None:
    assert client_of(cookies={"session": "invalid"}).get("/view").json() == {}


def test_no_max_age_is_a_cookie_of_the_browsers_session() -> None:
    client = client_of(max_age=None)
    response = client.post("/update", json={"some": "data"})
    assert "Max-Age" not in response.headers["set-cookie"]
    client.cookies.delete("session")
    assert client.get("/view").json() == {}


def test_max_age_zero() -> None:
    response = client_of(max_age=0).post("/update", json={"some": "data"})
    assert "; Max-Age=0; " in response.headers["set-cookie"]


def test_a_domain() -> None:
    response = client_of(domain=".example.com").post("/update", json={"some": "data"})
    assert "domain=.example.com" in response.headers["set-cookie"]


def test_the_cookie_is_set_only_on_a_change(client: TestClient) -> None:
    assert "set-cookie" in client.post("/update", json={"some": "data"}).headers
    response = client.get("/view")
    assert response.json() == {"some": "data"}
    assert "set-cookie" not in response.headers


def test_what_read_the_session_varies_with_the_cookie(client: TestClient) -> None:
    assert "cookie" in client.post("/update", json={"some": "data"}).headers["vary"].lower()
    assert "cookie" in client.get("/view").headers["vary"].lower()
    assert "vary" not in client.get("/plain").headers


def test_a_session_notes_that_it_was_modified() -> None:
    session = Session({"a": "1", "b": "2"})
    assert not session.modified
    session["c"] = "3"
    assert session.modified

    def modified_by(action: str) -> tuple[bool, bool]:
        session = Session({"a": "1"})
        eval(action, {"session": session})
        return session.modified, session.accessed

    assert modified_by("session.__delitem__('a')") == (True, True)
    assert modified_by("session.clear()") == (True, True)
    assert modified_by("session.pop('a')") == (True, True)
    assert modified_by("session.pop('missing', None)") == (False, False)
    assert modified_by("session.popitem()") == (True, True)
    assert modified_by("session.setdefault('b', '2')") == (True, True)
    assert modified_by("session.setdefault('a', '2')") == (False, False)
    assert modified_by("session.update(b='2')") == (True, True)
    assert modified_by("session.__ior__({'b': '2'})") == (True, True)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [("/merge", {"c": "3"}, {"a": "1", "b": "2", "c": "3"}), ("/popitem", None, {"a": "1"})],
)
def test_changes_in_place_are_kept(
    client: TestClient, path: str, body: dict[str, str] | None, expected: dict[str, str]
) -> None:
    assert client.post("/update", json={"a": "1", "b": "2"}).json() == {"a": "1", "b": "2"}
    assert client.post(path, json=body).json() == expected
    assert client.get("/view").json() == expected
