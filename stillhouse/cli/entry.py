"""The command line: arguments in, stage functions called, one result printed.

Every command takes `--home DIR` and `--json`. Exit codes: 0 done, 1 refused by a gate, 2 wrong use (one clear line on
stderr), 130 interrupted. Results go to stdout, progress to stderr. A command is a file in
`commands/`; this one knows none of them.
"""

from __future__ import annotations

import argparse
import atexit
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from typing import NoReturn

from .. import kinds
from ..errors import StillhouseError
from ..processes import collect_rarely


def program() -> NoReturn:
    """`main` as a process of its own. It ends at once: to take apart a million objects that the system frees anyway
    would take another second. An interpreter that does not let it ends in the usual way."""
    collect_rarely()
    code = main()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    run_exit_functions = getattr(atexit, "_run_exitfuncs", None)  # no public function runs them
    if run_exit_functions is None:
        sys.exit(code)
    run_exit_functions()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        args = _parser().parse_args(argv)
        args.run(args)
        sys.stdout.flush()  # here an error of a full disk or a closed pipe can still be printed
        return 0
    except StillhouseError as error:
        print(f"stillhouse: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stillhouse: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"stillhouse: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stillhouse", description="What a model knows, into the weights of another.")
    parser.add_argument("--version", action="version", version=f"stillhouse {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in kinds.names("commands"):
        kinds.load("commands", name).add(commands)
    return parser


def _version() -> str:
    try:
        return metadata.version("stillhouse")
    except metadata.PackageNotFoundError:
        return "(not installed: running from its source)"
