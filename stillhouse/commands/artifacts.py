"""`stillhouse artifacts`: records by digest."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..cli.shell import command, open_store, show
from ..config import as_dict


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser("artifacts", help="Show records by digest.")
    verbs = parser.add_subparsers(required=True, metavar="show")
    shown = command(verbs, "show", show_one, "Any record (signals, candidate, verdict, version) by its digest.")
    shown.add_argument("id", metavar="ID", help="a digest, or at least 6 leading characters of one")


def show_one(args: argparse.Namespace) -> None:
    """`stillhouse artifacts show`."""
    kind, digest, record = open_store(args).find(args.id)
    result = {"kind": kind.__name__.lower(), "digest": digest, "record": as_dict(record)}
    show(result, args.json, lambda: print(json.dumps(result, indent=2, ensure_ascii=False)))
