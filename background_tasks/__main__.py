"""The command line: ``python -m background_tasks``, or ``background-tasks`` once installed."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from typing import Any

from background_tasks import demo, foreground, top
from background_tasks.errors import MissingExtraError
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
    try:
        status: int = options.do(options)
    except MissingExtraError as error:
        print(f"background-tasks: {error}", file=sys.stderr)
        return 2
    return status


def _demo(options: argparse.Namespace) -> int:
    configure_logging(level=logging.INFO)
    return demo.run(options.seconds)


def _run(options: argparse.Namespace) -> int:
    return foreground.run(
        options.target,
        top=options.top,
        status=options.status,
        grace=options.grace,
        interval=options.interval,
    )


def _top(options: argparse.Namespace) -> int:
    return top.top(options.path, interval=options.interval, once=options.once)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="background-tasks",
        description="An in-process task scheduler for Python; this is its command line.",
        epilog="example: background-tasks demo --seconds 30 2>log.jsonl",
    )
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    _add_run(commands)
    _add_top(commands)
    _add_demo(commands)
    return parser


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="run a scheduler of yours in the foreground",
        description=(
            "Run a scheduler of yours until Ctrl-C (exit status 130) or SIGTERM (143) comes; then"
            " what runs is waited for, and a second signal ends at once. Unless the module has"
            " configured logging, JSON lines go to standard error."
        ),
    )
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="module:name of a Scheduler, or of a function without arguments that returns one",
    )
    parser.add_argument(
        "--top",
        action="store_true",
        help=(
            "show the live view until q is typed (exit status 0), too; what would be printed over"
            " it is held back, the last 100 lines until the end, unless it is redirected"
        ),
    )
    parser.add_argument(
        "--status", metavar="PATH", help="serve its status on this Unix socket, for top"
    )
    parser.add_argument(
        "--grace",
        type=_seconds,
        default=30.0,
        metavar="N",
        help="seconds that running tasks are waited for in the end (default: %(default)g)",
    )
    _add_interval(parser)
    parser.set_defaults(do=_run)


def _add_top(commands: Any) -> None:
    parser = commands.add_parser(
        "top",
        help="watch a scheduler in another process",
        description=(
            "Show what a scheduler is at that serves its status with serve_status(PATH) or"
            " run --status PATH, until q is typed (exit status 0) or Ctrl-C (130) or SIGTERM (143)"
            " comes."
        ),
    )
    parser.add_argument("path", metavar="PATH", help="the Unix socket it serves its status on")
    parser.add_argument(
        "--once", action="store_true", help="print one picture as plain text, and that is all"
    )
    _add_interval(parser)
    parser.set_defaults(do=_top)


def _add_interval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interval",
        type=_seconds,
        default=1.0,
        metavar="N",
        help="seconds from one picture of the view to the next (default: %(default)g)",
    )


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="run a small device agent and print what its tasks did",
        description=(
            "Run a small device agent: it samples this machine's load, memory, disk and network,"
            " rolls the samples up, reacts when the roll-up changes and reports it. JSON lines go"
            " to standard error; a table of the tasks goes to standard output at the end. That is"
            " when the time is up (exit status 0), or Ctrl-C (130) or SIGTERM (143) comes."
        ),
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=10.0,
        metavar="N",
        help="how long to run, a positive number (default: %(default)g)",
    )
    parser.set_defaults(do=_demo)


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
