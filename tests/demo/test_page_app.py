"""The demo's page without a browser: what it answers, whom it refuses, and how it is started and ended."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import pytest
import redis
from starlette.testclient import TestClient

from serverless_session.cli import main
from serverless_session.demo.beside import printable
from serverless_session.demo.page import goods, local_store, meeting, serving
from serverless_session.demo.page.counter import both_sides
from serverless_session.demo.page.guard import LOOPBACK
from serverless_session.demo.page.local_store import LocalStore
from serverless_session.demo.page.observing import Book
from serverless_session.demo.page.serving import open_shop, shared_by_copies
from serverless_session.demo.page.shop import SAID, Backstage
from serverless_session.stores import Found, MemoryStore, Write
from serverless_session.stores.contract import Version
from serverless_session.testing import FaultyStore
from tests.demo.conftest import ENVIRONMENT
from tests.servers import Server, on_path


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore())


@pytest.fixture
def client(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(goods, "COUNTING_SECONDS", 0.0)
    backstage = Backstage(store="memory://", book=Book(), copies=("A", "B"))
    app = open_shop(shared_by_copies(lambda: store, backstage), backstage, hosts=LOOPBACK)
    with TestClient(app, base_url="http://localhost:8000") as client:
        yield client


def notice(page: str) -> str:
    (said,) = re.findall(r'<p id="notice"[^>]*>(.*?)</p>', page, re.DOTALL)
    return str(said)


# --- whom it refuses --------------------------------------------------------------------------------------------------

CHANGES = ["/login", "/logout", "/cart", "/cart/remove", "/products/forget", "/products/age", "/stampede", "/store"]


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://localhost:3000"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
    ],
    ids=lambda headers: " ".join(headers.values()),
)
def test_other_sites_change_nothing(client: TestClient, path: str, headers: dict[str, str]) -> None:
    answer = client.post(path, data={"item": "mug", "name": "Eve", "do": "stop"}, headers=headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [{"sec-fetch-site": "same-origin"}, {"origin": "http://localhost:8000"}, {}],
    ids=["a browser", "an older browser", "no browser"],
)
def test_the_page_itself_may(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/cart", data={"item": "mug"}, headers=headers).status_code == 200


@pytest.mark.parametrize("path", CHANGES)
def test_nothing_is_changed_by_a_link(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (404, 405)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_a_name_that_points_here_is_not_ours(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000", "LocalHost:80"])
def test_loopback_has_several_names(client: TestClient, host: str) -> None:
    assert client.get("/products", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/nowhere", "/products"])
def test_every_answer_says_what_browsers_must_not_do(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


# --- what it answers --------------------------------------------------------------------------------------------------


def test_nothing_of_the_address_is_shown(client: TestClient) -> None:
    page = client.get("/", params={"said": "<b>x</b>", "item": "<b>y</b>"}).text
    assert "<b>" not in page
    assert notice(page) == ""
    assert notice(client.get("/?said=added&item=<b>").text) == ""


def test_what_is_said_is_what_was_done(client: TestClient) -> None:
    def post(path: str, **fields: str) -> str:
        return notice(client.post(path, data=fields).text)

    assert post("/login", name="  ") == SAID["no-name"]
    assert post("/login", name="Ada") == SAID["in"]
    assert post("/cart", item="tea") == "In the cart: green tea."
    assert client.post("/cart", data={"item": "<b>"}).status_code == 404
    assert post("/cart/remove", item="tea") == SAID["removed"]
    assert post("/cart/remove", item="tea") == SAID["removed"]
    assert post("/products/forget") == SAID["forgotten"]
    assert post("/products/age") == SAID["aged"]
    for _ in range(99):
        client.post("/cart", data={"item": "mug"}, follow_redirects=False)
    assert post("/cart", item="mug") == SAID["full"]
    assert post("/logout") == SAID["out"]


def test_where_the_demo_started_no_store_there_is_none_to_stop(client: TestClient) -> None:
    assert client.post("/store", data={"do": "stop"}).status_code == 404
    assert 'id="stop-store"' not in client.get("/").text


def test_who_waits_for_a_second_tab_in_vain_goes_on_alone(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "PATIENCE_SECONDS", 0.01)
    page = client.post("/cart", data={"item": "mug", "meet": "nobody"}).text
    assert notice(page) == SAID["alone"]
    assert "1 ×" in page


async def test_two_who_know_the_same_word_meet() -> None:
    meetings = meeting.Meetings()
    assert all(await asyncio.gather(meetings.meet("a"), meetings.meet("a")))
    waiting = asyncio.ensure_future(meetings.meet("a"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not meetings._waiting
    assert await meetings.meet("x" * 65) is False


def test_while_the_store_fails_the_page_is_a_503_with_the_goods(client: TestClient, store: FaultyStore) -> None:
    client.post("/login", data={"name": "Ada"})
    store.fail()
    for answer in (client.get("/"), client.post("/cart", data={"item": "mug"}), client.post("/logout")):
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["cache-control"] == "no-store"
        assert "set-cookie" not in answer.headers
        assert "<h3>a blue mug</h3>" in answer.text
        assert "Your cart is in the store" in answer.text
    assert client.get("/products").status_code == 200
    store.heal()
    assert "Good day, <strong>Ada</strong>" in client.get("/").text


def test_a_change_that_may_have_been_kept_is_called_that(client: TestClient, store: FaultyStore) -> None:
    client.post("/cart", data={"item": "mug"})
    store.lose_answers(on=Write, times=1)
    answer = client.post("/cart", data={"item": "tea"})
    assert answer.status_code == 503
    assert "may or may not" in notice(answer.text)


def test_a_hex_dump_holds_every_byte_once() -> None:
    value = bytes(range(256))
    both = both_sides({"cart": ["<mug>"]}, "Ada", ("key", Found(value, Version(b"12345678"))))
    assert both.seen == '{"cart": ["<mug>"]}'
    pieces = [piece for line in both.lines for piece in line.pieces]
    assert bytes.fromhex("".join(hex_ for _, hex_, _ in pieces)) == b"12345678" + value
    assert "".join(text for _, _, text in pieces) == printable(b"12345678" + value)
    assert [number for number, _, _ in pieces] == sorted(number for number, _, _ in pieces)
    assert both.size_bytes == 264


# --- how it is started and ended --------------------------------------------------------------------------------------


def started(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "serverless_session", "demo", "--serve", "--port", "0", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return str(re.findall(r"http://\S+", process.stdout.readline())[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_told_to_and_leaves_nothing_behind(valkey: Server, number: signal.Signals) -> None:
    with redis.Redis(port=valkey.port, db=6) as server, started("--store", f"{valkey.url}/6") as process:
        with httpx2.Client(base_url=address_of(process), follow_redirects=True) as visitor:
            assert "Good day" in visitor.post("/login", data={"name": "Ada"}).text
        written = server.keys()
        assert any(b":session:" in key for key in written)
        assert any(b":cache:" in key for key in written)
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, err) == (0, "")
        assert out.endswith("Closed. What the shop had written is removed.\n")
        assert server.keys() == []


def test_its_own_server_ends_with_it() -> None:
    with started("--store", "local") as process:
        address_of(process)
        assert process.stdout is not None
        port = int(re.findall(r"redis://127\.0\.0\.1:(\d+)", process.stdout.readline())[0])
        socket.create_connection(("127.0.0.1", port)).close()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
        assert process.returncode == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


async def test_a_server_that_keeps_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    on_path("memcached")
    monkeypatch.setattr(local_store, "_KINDS", [kind for kind in local_store._KINDS if kind.name == "Memcached"])
    local = LocalStore()
    try:
        assert not local.keeps
        for _ in range(2):
            await local.start()
            assert local.is_running
            await local.stop()
            assert not local.is_running
    finally:
        local.close()


def test_no_server_to_start_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local_store, "_KINDS", [])
    assert main(["demo", "--serve", "--port", "0", "--store", "local"]) == 2
    assert capsys.readouterr().err.startswith("[no-local-store] ")


def test_a_store_that_does_not_answer_is_an_error_before_anything_is_served(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["demo", "--serve", "--port", "0", "--store", "redis://127.0.0.1:1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("[store-does-not-answer] ")


def test_a_port_that_is_taken_is_an_error_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["demo", "--serve", "--port", str(taken.getsockname()[1])]) == 2
    assert capsys.readouterr().err.startswith("[cannot-listen] ")


@pytest.mark.parametrize("options", [["--port", "70000"], ["--host", "192.0.2.1"], ["--host", "no such host"]])
def test_an_address_that_cannot_be_is_an_error_of_ours(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--serve", *options]) == 2
    assert capsys.readouterr().err.startswith("[cannot-listen] ")


def test_where_the_usual_port_is_taken_another_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(serving, "USUAL_PORT", taken.getsockname()[1])
        with contextlib.closing(serving._listening("127.0.0.1", None)) as listening:
            assert listening.getsockname()[1] not in (0, serving.USUAL_PORT)


@pytest.mark.parametrize("package", ["fastapi", "jinja2", "python_multipart", "uvicorn"])
def test_a_missing_package_is_named(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["demo", "--serve"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("[missing-extra] ")
    assert package.replace("_", "-") in err
    assert 'pip install "serverless-session[demo]"' in err


@pytest.mark.parametrize("options", [["--port", "1"], ["--host", "::1"], ["--open"], ["--serve", "--json"]])
def test_options_that_do_not_go_together(options: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["demo", *options])
    assert exit_.value.code == 2


def test_the_played_visit_ends_with_the_address_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    main(["demo"])
    assert re.search(r"serverless-session demo --serve, then http://127\.0\.0\.1:\d+$", capsys.readouterr().out.strip())


def test_the_played_visit_alone_does_not_import_the_page() -> None:
    program = "import sys; from serverless_session.cli import main; main(['demo']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, env=os.environ | ENVIRONMENT
    )
    imported = done.stdout.splitlines()[-1].split()
    assert "serverless_session.demo.story" in imported
    assert not {"fastapi", "jinja2", "uvicorn"} & set(imported)
