"""The command line: ``python -m background_tasks``, or ``background-tasks`` once installed."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Sequence

from background_tasks import demo
from background_tasks.logger import configure_logging

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments ask for, those of the process by default; return the exit status.

    Raises:
        SystemExit: With 2 when an argument is refused, with 0 after ``--help``.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    configure_logging(level=logging.INFO)
    return demo.run(options.seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="background-tasks",
        description="An in-process task scheduler for Python; this is its command line.",
        epilog="example: background-tasks demo --seconds 30 2>log.jsonl",
    )
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    shown = commands.add_parser(
        "demo",
        help="run a small device agent and print what its tasks did",
        description=(
            "Run a small device agent: it samples this machine's load, memory, disk and network,"
            " rolls the samples up, reacts when the roll-up changes and reports it. JSON lines go"
            " to standard error; a table of the tasks goes to standard output at the end. That is"
            " when the time is up (exit status 0), or Ctrl-C (130) or SIGTERM (143) comes."
        ),
    )
    shown.add_argument(
        "--seconds",
        type=_seconds,
        default=10.0,
        metavar="N",
        help="how long to run, a positive number (default: %(default)g)",
    )
    return parser


def _seconds(text: str) -> float:
    """Return *text* as a number of seconds, for argparse."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:  # False for NaN, too
        raise argparse.ArgumentTypeError(
            f"must be a positive finite number of seconds, got {text!r}"
        )
    return seconds


if __name__ == "__main__":
    sys.exit(main())
