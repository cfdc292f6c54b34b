"""The command line, `serverless-session`: one module a command, imported only when it is chosen.

A command is a module of this package with `run(arguments) -> exit code`. Exit codes: 0 is done, 1 is a finding (the
demo saw a promise broken), 2 is an error of ours or a wrong argument; errors go to stderr, in their three lines.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

from serverless_session.errors import ServerlessSessionError

COMMANDS: Final = {
    "demo": "play a visitor of a small shop and show what happened",
    "keygen": "print a new secret key",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (by default those of the process) name; the exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        status: int = import_module(f"{__name__}.{chosen.command}").run(chosen.arguments)
        sys.stdout.flush()
    except ServerlessSessionError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader (`head`, say) has seen enough; the interpreter's own flush must not fail too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell says of what ended by SIGPIPE
    return status


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="serverless-session",
        usage="%(prog)s [-h] [--version] COMMAND ...",
        description="Sessions for serverless apps: the tools around them.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
        + "\n\n`serverless-session COMMAND --help` tells a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    parser.add_argument("command", nargs="?", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for: `importlib.metadata` costs more than all the rest of us."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("serverless-session")
        except PackageNotFoundError:
            number = "(not installed)"
        print(parser.prog, number)
        parser.exit()
