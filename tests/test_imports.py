"""What an import costs: by the names of modules, because each of them is somebody's cold start."""

import json
import subprocess
import sys
import textwrap

import pytest

CLIENTS = ("fakeredis", "pymemcache", "redis", "valkey")
HEAVY = ("cryptography", "fastapi", "mangum", "msgpack", "rich", "starlette", *CLIENTS)

BASE = """
    import asyncio
    import mangum
    from starlette.applications import Starlette
    from tests.aws.events import Context, event_v2
    asyncio.set_event_loop(asyncio.new_event_loop())
    assert mangum.Mangum(Starlette(), lifespan="auto")(event_v2(), Context())["statusCode"] == 404
"""
SESSIONS = """
    from serverless_session import SessionMiddleware, SharedState
    from starlette.applications import Starlette
    shared = SharedState({url!r}, secret_key="k3Vt9xQzL0pWm7RbYc2NfHs8DgJ5aEu1")
    middleware = SessionMiddleware(Starlette(), shared=shared)
"""


def modules_after(program: str) -> set[str]:
    """The names of all modules that a fresh process has loaded after the program."""
    shown = textwrap.dedent(program) + "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return set(json.loads(ended.stdout))


def heavy_in(modules: set[str]) -> set[str]:
    return {name for name in HEAVY if name in modules}


def test_the_package_alone_imports_nothing_of_anybody() -> None:
    assert heavy_in(modules_after("import serverless_session")) == set()


@pytest.mark.parametrize("name", ["Duration", "ServerlessSessionError", "Session", "open_store"])
def test_a_name_brings_only_its_home(name: str) -> None:
    assert heavy_in(modules_after(f"from serverless_session import {name}")) == set()


@pytest.mark.parametrize(
    ("url", "client"),
    [("memory://", set()), ("redis://localhost", {"redis"}), ("memcached://localhost", {"pymemcache"})],
    ids=["memory", "redis", "memcached"],
)
def test_only_the_chosen_stores_client_is_imported(url: str, client: set[str]) -> None:
    loaded = modules_after(SESSIONS.format(url=url) + "    middleware._ready()\n")
    assert heavy_in(loaded) - {"starlette", "cryptography"} == client


@pytest.mark.parametrize(
    ("url", "client", "most"),
    [
        ("memory://", "asyncio", 62),
        ("redis://localhost", "redis.asyncio.connection", 65),
        ("memcached://localhost", "pymemcache.client.base", 69),
    ],
    ids=["memory", "redis", "memcached"],
)
def test_sessions_add_few_modules_to_starlette_mangum_and_the_client(url: str, client: str, most: int) -> None:
    program = """
    from serverless_session import LambdaHandler
    answer = LambdaHandler(middleware)(event_v2(), Context())
    assert answer["statusCode"] == 404
    """
    base = modules_after(f"{BASE}\n    import {client}\n")
    added = modules_after(BASE + SESSIONS.format(url=url) + program) - base
    assert len(added) <= most, sorted(added)


@pytest.mark.parametrize(("url", "most"), [("memory://", 27), ("redis://localhost", 27)], ids=["memory", "redis"])
def test_a_cache_adds_few_modules_to_sessions_and_none_of_others(url: str, most: int) -> None:
    program = """
    from serverless_session import Cache
    cache = Cache(shared, ttl=60)
    @cache.cached(tags=["n:{n}"])
    async def square(n: int) -> int:
        return n * n
    square.key(7)
    """
    sessions = SESSIONS.format(url=url) + "    middleware._ready()\n    shared = middleware._shared\n"
    added = modules_after(sessions + program) - modules_after(sessions)
    assert {name for name in added if not name.startswith("serverless_session")} == set()
    assert len(added) <= most, sorted(added)
