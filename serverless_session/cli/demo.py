"""`serverless-session demo`: plays the demo and shows it, in colour where there is a terminal, as text or as JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from serverless_session.errors import missing_extra


def run(arguments: Sequence[str]) -> int:
    """0 if every promise held, 1 if one was broken."""
    chosen = _parser().parse_args(arguments)
    try:
        from serverless_session import demo
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "mangum":
            raise
        raise missing_extra("the demo's Lambda handler", package="mangum", extra="demo") from None
    report = demo.run(chosen.store)
    from serverless_session.demo import rendering

    if chosen.json:
        print(rendering.as_json(report))
    elif chosen.plain or not sys.stdout.isatty() or not rendering.print_in_colour(report):
        print(rendering.as_text(report))
    return 0 if report.held else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="serverless-session demo",
        description="Play a visitor of a small shop, event by event through the Lambda handler, and show what happened."
        " The exit code is 0 if every promise held, 1 if one was broken.",
    )
    parser.add_argument(
        "--store",
        metavar="URL",
        default="memory://",
        help="where the shop keeps its sessions: memory:// (default, no server needed), redis://host, ..."
        " The demo uses a namespace of its own and removes what it has written.",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print what happened as JSON")
    form.add_argument(
        "--plain", "--no-colour", "--no-color", action="store_true", help="plain text, as when the output is piped"
    )
    return parser
