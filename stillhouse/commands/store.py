"""`stillhouse store`: check the store, or make its index again."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import Rejected
from ._shell import command, open_store, show


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser("store", help="Check the store, or make its index again.")
    verbs = parser.add_subparsers(required=True, metavar="verify|rebuild")
    command(verbs, "verify", verify, "Check every blob, manifest, version and alias.")
    command(verbs, "rebuild", rebuild, "Make registry.duckdb again from the manifests.")


def verify(args: argparse.Namespace) -> None:
    """`stillhouse store verify`; `Rejected` when there are problems."""
    problems = open_store(args).verify()
    show({"clean": not problems, "problems": problems}, args.json, lambda: print("\n".join(problems) or "clean"))
    if problems:
        raise Rejected(f"the store has {len(problems)} problem(s)")


def rebuild(args: argparse.Namespace) -> None:
    """`stillhouse store rebuild`."""
    rows = open_store(args).rebuild()
    show({"rows": rows}, args.json, lambda: print(f"registry.duckdb made again: {rows} rows"))
