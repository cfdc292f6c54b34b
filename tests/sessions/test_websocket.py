"""WebSockets: whose page gets the session, what a socket saves and when, and a logout while it is open."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

from serverless_session import load_session
from serverless_session.errors import SessionError
from tests.sessions.apps import app_over, counted
from tests.sessions.direct import PATIENCE, Said, call, scope_of


async def put(request: Request) -> Response:
    request.session[request.path_params["key"]] = 1
    return JSONResponse({})


async def obey(websocket: WebSocket) -> None:
    """Does what it is told, one word after the other, and answers each; a client that leaves is an exception."""
    session = await load_session(websocket)
    await websocket.accept()
    while True:
        said: Any = None
        match await websocket.receive_text():
            case "show":
                said = dict(session)
            case "save":
                said = await session.save()
            case "reload":
                said = await session.reload()
            case "log out":
                session.logout()
            case "empty":
                said = session.pop("user")
            case key:
                session[key] = 1
        await websocket.send_json(said)


async def obey_and_catch(websocket: WebSocket) -> None:
    with contextlib.suppress(WebSocketDisconnect):
        await obey(websocket)


async def _served(app: ASGIApp, scope: Scope, inbox: asyncio.Queue[Message], outbox: asyncio.Queue[Message]) -> None:
    await app(scope, inbox.get, outbox.put)


class Socket:
    """A WebSocket that is opened, spoken to and left by hand."""

    def __init__(self, app: ASGIApp, path: str, cookie: str, *, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        scope = {**scope_of(path, cookie), "type": "websocket", "scheme": "wss", "subprotocols": []}
        scope["headers"] += headers
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()
        self._task = asyncio.ensure_future(_served(app, scope, self._inbox, self._outbox))

    async def open(self) -> "Socket":
        self._inbox.put_nowait({"type": "websocket.connect"})
        accepted = await asyncio.wait_for(self._outbox.get(), PATIENCE)
        assert accepted["type"] == "websocket.accept"
        assert b"set-cookie" not in dict(accepted["headers"])
        return self

    async def say(self, text: str) -> Any:
        self._inbox.put_nowait({"type": "websocket.receive", "text": text})
        answer = await asyncio.wait_for(self._outbox.get(), PATIENCE)
        return json.loads(answer["text"])

    async def leave(self) -> BaseException | None:
        """The exception with which the app ended."""
        self._inbox.put_nowait({"type": "websocket.disconnect", "code": 1001})
        done, _ = await asyncio.wait([self._task], timeout=PATIENCE)
        assert done, "it hangs"
        return self._task.exception()


class Chat:
    """An app with sockets, and a visitor who has a session in it."""

    def __init__(self, **options: Any) -> None:
        shared, self.store = counted()
        sockets = [WebSocketRoute("/obey", obey), WebSocketRoute("/catch", obey_and_catch)]
        self.app = app_over(shared, *sockets, Route("/put/{key}", put), **options)  # type: ignore[arg-type]

    async def get(self, path: str, cookie: str | None = None) -> Said:
        return await call(self.app, scope_of(path, cookie, method="POST" if path == "/clear" else "GET"))

    async def begin(self) -> str:
        cookie = (await self.get("/put/user")).cookie
        assert cookie is not None
        return cookie

    async def view(self, cookie: str) -> dict[str, Any]:
        said = await self.get("/view", cookie)
        seen: dict[str, Any] = json.loads(b"".join(message.get("body", b"") for message in said.messages))
        return seen

    async def open(self, cookie: str, path: str = "/obey", *, headers: Sequence[tuple[bytes, bytes]] = ()) -> Socket:
        return await Socket(self.app, path, cookie, headers=headers).open()


ORIGINS = [
    pytest.param([], True, id="none"),
    pytest.param([b"https://shop.example"], True, id="own"),
    pytest.param([b"http://shop.example"], True, id="own, behind a proxy that speaks TLS"),
    pytest.param([b"HTTPS://SHOP.EXAMPLE"], True, id="own, in capitals"),
    pytest.param([b"https://app.example.com"], True, id="allowed"),
    pytest.param([b"https://app.example.com:8443"], False, id="another port of an allowed one"),
    pytest.param([b"http://app.example.com"], False, id="another scheme of an allowed one"),
    pytest.param([b"https://evil.example"], False, id="foreign"),
    pytest.param([b"null"], False, id="null"),
    pytest.param([b""], False, id="empty"),
    pytest.param([b"https://shop.example:8443"], False, id="another port"),
    pytest.param([b"https://evil.shop.example"], False, id="a sibling"),
    pytest.param([b"https://shop.example.evil.example"], False, id="a longer name"),
    pytest.param([b"https://evil.example/?https://shop.example"], False, id="ours in it"),
    pytest.param([b"https://evil.example", b"https://shop.example"], False, id="ours after another"),
    pytest.param([b"https://shop.example", b"https://evil.example"], False, id="ours before another"),
]


@pytest.mark.parametrize(("origins", "ours"), ORIGINS)
async def test_whose_page_may_open_a_socket_with_the_session(origins: list[bytes], ours: bool) -> None:
    """THREATS 42."""
    chat = Chat(allowed_origins=["https://App.example.com"])
    cookie = await chat.begin()
    chat.store.reset()
    opened = await chat.open(cookie, "/catch", headers=[(b"origin", origin) for origin in origins])
    assert (await opened.say("show") != {}) is ours
    assert bool(chat.store.calls) is ours, "nothing is even loaded for a foreign page"
    await opened.say("said")
    await opened.leave()
    assert ("said" in await chat.view(cookie)) is ours


async def test_a_foreign_page_is_known_though_a_server_keeps_the_case_of_header_names() -> None:
    """THREATS 42."""
    chat = Chat()
    opened = await chat.open(await chat.begin(), headers=[(b"Origin", b"https://evil.example")])
    assert await opened.say("show") == {}
    await opened.leave()


async def test_a_foreign_pages_session_is_saved_by_nobody_and_says_so() -> None:
    """THREATS 42."""
    chat = Chat()
    cookie = await chat.begin()
    opened = await chat.open(cookie, headers=[(b"origin", b"https://evil.example")])
    assert await opened.say("said") is None
    assert await opened.say("save") is False
    assert await opened.say("reload") is False
    assert "said" not in await chat.view(cookie)


@pytest.mark.parametrize("path", ["/obey", "/catch"], ids=["raised", "caught"])
async def test_what_a_socket_has_changed_is_saved_when_its_client_leaves_and_merged(path: str) -> None:
    """THREATS 42, THREATS 19: whether or not the app catches the exception that tells it."""
    chat = Chat()
    cookie = await chat.begin()
    opened = await chat.open(cookie, path)
    await opened.say("said")
    await chat.get("/put/cart", cookie)
    assert "said" not in await chat.view(cookie)
    error = await opened.leave()
    assert (error is None) is (path == "/catch")
    assert (await chat.view(cookie)).keys() == {"user", "cart", "said"}


async def test_a_socket_saves_and_looks_again_when_it_likes() -> None:
    """THREATS 42."""
    chat = Chat()
    cookie = await chat.begin()
    opened = await chat.open(cookie)
    await opened.say("said")
    assert await opened.say("save") is True
    assert (await chat.view(cookie)).keys() == {"user", "said"}
    await chat.get("/put/cart", cookie)
    assert (await opened.say("show")).keys() == {"user", "said"}
    await opened.say("unsaved")
    assert await opened.say("reload") is True
    assert (await opened.say("show")).keys() == {"user", "said", "cart", "unsaved"}
    assert (await chat.view(cookie)).keys() == {"user", "said", "cart"}
    assert await opened.say("save") is True
    chat.store.reset()
    assert await opened.say("save") is True
    assert chat.store.calls == 0, "there is nothing to save"
    await opened.leave()
    assert (await chat.view(cookie)).keys() == {"user", "said", "cart", "unsaved"}


@pytest.mark.parametrize("first", ["reload", "save", "nothing"])
async def test_a_logout_while_a_socket_is_open_wins_over_everything_it_does(first: str) -> None:
    """THREATS 42."""
    chat = Chat()
    cookie = await chat.begin()
    opened = await chat.open(cookie)
    await opened.say("said")
    await chat.get("/clear", cookie)
    await opened.say("after")
    if first != "nothing":
        assert await opened.say(first) is False
        assert await opened.say("show") == {}, "what has ended is not shown any more"
        await opened.say("more")
        assert await opened.say("save") is False
        assert await opened.say("reload") is False
        assert await opened.say("show") == {}
    assert isinstance(await opened.leave(), WebSocketDisconnect)
    assert await chat.view(cookie) == {}


async def test_a_logout_in_a_socket_ends_the_session_for_everybody() -> None:
    chat = Chat()
    cookie = await chat.begin()
    opened, other = await chat.open(cookie), await chat.open(cookie)
    await opened.say("log out")
    assert await opened.say("save") is True
    assert await chat.view(cookie) == {}
    assert await other.say("reload") is False
    assert await other.say("show") == {}
    await opened.leave()
    await other.leave()


async def test_a_socket_that_empties_the_session_and_fills_it_again_keeps_it() -> None:
    chat = Chat()
    cookie = await chat.begin()
    opened = await chat.open(cookie)
    await opened.say("empty")
    assert await opened.say("save") is True
    assert await chat.view(cookie) == {}
    await opened.say("again")
    assert await opened.say("save") is True
    await opened.leave()
    assert (await chat.view(cookie)).keys() == {"again"}


async def test_a_session_cannot_begin_in_a_socket_that_is_open() -> None:
    """THREATS 42: no cookie can follow."""
    chat = Chat()
    cookie = await chat.begin()
    await chat.get("/clear", cookie)
    opened = await chat.open(cookie)
    chat.store.reset()
    await opened.say("said")
    error = await opened.leave()
    assert isinstance(error, SessionError)
    assert error.code == "session-too-late"
    assert chat.store.calls == 0
