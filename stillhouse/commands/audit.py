"""`stillhouse audit`: the teacher as auditor of its students; its corrections become training data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..cli.shell import command, show


def add(commands: Any) -> None:
    """Declare it."""
    parser = command(
        commands, "audit", run, "Let the teacher of a recipe judge its trained students, and correct them."
    )
    parser.add_argument("recipe", type=Path, help="the TOML file that `stillhouse distill` was run with")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="one setting, as in TOML")
    parser.add_argument(
        "--prompts", action="append", default=[], metavar="FILE", help="judge these requests, not the held-out ones"
    )
    parser.add_argument(
        "--correct", type=int, default=0, metavar="N",
        help="also judge N training requests (or those of --prompts) and add corrections to the recipe's data",
    )  # fmt: skip
    parser.add_argument(
        "--margin", type=float, default=0.5, metavar="NATS", help="correct answers that are this much less likely"
    )


def run(args: argparse.Namespace) -> None:
    """`stillhouse audit`."""
    from .. import distillation

    recipe = distillation.load_recipe(args.recipe, args.set)
    prompts = [str(Path(p).absolute()) for p in args.prompts]
    audits = distillation.audit(
        recipe, home=args.home, asked=prompts, correct=args.correct, margin=args.margin, show=not args.json
    )
    rows = [audit.as_dict() for audit in audits]

    def lines() -> None:
        for a in rows:
            name = f"{a['name']}: {a['domain']}" if a["domain"] else a["name"]
            print(f"{name}: {a['n']} requests, the same answer to {a['same']:.0%}")
            print(f"  first choices       {a['first']:.1%} of its tokens are the teacher's")
            print(f"  likelihood          {a['likelihood']:.3f} nats per token to the teacher, its own {a['own']:.3f}")
            if args.correct:
                print(
                    f"  corrected           {a['corrected']} answers; run `stillhouse distill` again to train on them"
                )

    show(rows, args.json, lines)
