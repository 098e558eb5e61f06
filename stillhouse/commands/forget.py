"""`stillhouse forget`: remove everything of a user."""

from __future__ import annotations

import argparse
from typing import Any

from ..cli.shell import command, show


def add(commands: Any) -> None:
    """Declare it."""
    parser = command(commands, "forget", run, "Remove everything of a user, and prove it.")
    parser.add_argument("--user", required=True)


def run(args: argparse.Namespace) -> None:
    """`stillhouse forget`."""
    from ..inputs import home_folder
    from ..serve.forgetting import forget

    counts = forget(home_folder(args.home), args.user)
    text = ", ".join(f"{n} {name}" for name, n in counts.items())
    show(counts, args.json, lambda: print(f"forgot {args.user!r}: {text}"))
