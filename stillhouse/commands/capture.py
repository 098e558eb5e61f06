"""`stillhouse capture`: a teacher's signals on a data set, once for many students."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..cli.shell import command, show


def add(commands: Any) -> None:
    """Declare it."""
    parser = command(commands, "capture", run, "Write a teacher's signals on a data set, as a recipe says.")
    parser.add_argument("recipe", type=Path, help="TOML with [teacher], [data] and [capture] tables")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="one setting, as in TOML")


def run(args: argparse.Namespace) -> None:
    """`stillhouse capture`."""
    from .. import distillation

    recipe = distillation.load_recipe(args.recipe, args.set)
    parts: dict[str, Any] = {}
    for name, (train, held_out) in distillation.captures(recipe, home=args.home, show=not args.json).items():
        lead = f"{name}: " if name else ""
        parts |= {f"{lead}train": train} | ({f"{lead}held_out": held_out} if held_out else {})
    rows = {
        name: {"folder": str(c.folder), "shards": len(c.shards), "examples": c.examples, "positions": c.positions,
               "skipped": len(c.skipped), "teacher": c.base}
        for name, c in parts.items()
    }  # fmt: skip

    def lines() -> None:
        for name, row in rows.items():
            left_out = f", {row['skipped']} too long and left out" if row["skipped"] else ""
            print(f"{name:<9} {row['examples']} examples, {row['positions']} positions{left_out}\n  {row['folder']}")

    show(rows, args.json, lines)
