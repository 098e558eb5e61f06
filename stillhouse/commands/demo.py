"""`stillhouse demo`: one memory, before and after."""

from __future__ import annotations

import argparse
from typing import Any

from ..cli.shell import command


def add(commands: Any) -> None:
    """Declare it."""
    about = "Consolidate a memory, with remedies if refused; compare base, teacher with the memory, student without."
    parser = command(commands, "demo", run, about)
    parser.add_argument(
        "memory", nargs="?", default="examples/alice.md", help="memory file (default examples/alice.md)"
    )
    parser.add_argument("--model", default="tiny", help="tiny, a local Hugging Face folder, or a hub id")
    parser.add_argument("--user", default="alice")


def run(args: argparse.Namespace) -> None:
    """`stillhouse demo`."""
    from .. import demo

    demo.run(args.memory, args.user, args.model, args.home, as_json=args.json)
