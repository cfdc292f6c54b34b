"""`serverless-session demo`: plays the demo and shows it, or serves it as a page to click on.

In colour where there is a terminal, as text or as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Final

from serverless_session.errors import missing_extra

PAGE: Final = "http://127.0.0.1:8000"
_PAGE_NEEDS: Final = {
    "fastapi": "fastapi",
    "jinja2": "jinja2",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
}
"""Modules, and the packages that bring them."""


def run(arguments: Sequence[str]) -> int:
    """0 if every promise held, 1 if one was broken. With `--serve`: 0 when it was interrupted."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if not chosen.serve and (chosen.host, chosen.port, chosen.open) != (None, None, False):
        parser.error("--host, --port and --open go with --serve")
    try:
        from serverless_session import demo
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "mangum":
            raise
        raise missing_extra("the demo's Lambda handler", package="mangum", extra="demo") from None
    if chosen.serve:
        _serve(chosen)
        return 0
    report = demo.run(chosen.store)
    from serverless_session.demo import rendering

    if chosen.json:
        print(rendering.as_json(report))
        return 0 if report.held else 1
    if chosen.plain or not sys.stdout.isatty() or not rendering.print_in_colour(report):
        print(rendering.as_text(report))
    print(f"A shop to click on: serverless-session demo --serve, then {PAGE}")
    return 0 if report.held else 1


def _serve(chosen: argparse.Namespace) -> None:
    for module, package in _PAGE_NEEDS.items():
        if importlib.util.find_spec(module) is None:
            raise missing_extra("the demo's page", package=package, extra="demo")
    from serverless_session.demo.page import serve

    def ready(address: str, store: str) -> None:
        print(f"The shop is open: {address}\nIts store: {store}. Ctrl-C closes it.", flush=True)
        if chosen.open:
            import webbrowser

            webbrowser.open(address)

    with contextlib.suppress(KeyboardInterrupt):  # before it listens; from then on it ends by itself
        serve(chosen.store, host=chosen.host or "127.0.0.1", port=chosen.port, ready=ready)
    print("Closed. What the shop had written is removed.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="serverless-session demo",
        description="Play a visitor of a small shop, event by event through the Lambda handler, and show what happened;"
        " or, with --serve, a shop to click on."
        " The exit code is 0 if every promise held, 1 if one was broken.",
    )
    parser.add_argument(
        "--store",
        metavar="URL",
        default="memory://",
        help="where the shop keeps its sessions: memory:// (default, no server needed), redis://host, ..."
        " The demo uses a namespace of its own and removes what it has written. With --serve also `local`: a Valkey,"
        " Redis or Memcached that the demo starts itself, and that can be stopped on the page.",
    )
    page = parser.add_argument_group("the page")
    page.add_argument("--host", help="where the page listens: 127.0.0.1 (default), for this machine alone")
    page.add_argument("--port", type=int, help="8000 (default, or any that is free where it is taken); 0: any")
    page.add_argument("--open", action="store_true", help="open the page in a browser")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--serve", action="store_true", help="serve the shop as a page to click on, until Ctrl-C")
    form.add_argument("--json", action="store_true", help="print what happened as JSON")
    form.add_argument(
        "--plain", "--no-colour", "--no-color", action="store_true", help="plain text, as when the output is piped"
    )
    return parser
