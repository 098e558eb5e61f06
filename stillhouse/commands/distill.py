"""`stillhouse distill`: a teacher into students, as a recipe says."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..cli.shell import command, show


def add(commands: Any) -> None:
    """Declare it."""
    about = "Distil a teacher into students: signals once, students many, a report each."
    parser = command(commands, "distill", run, about)
    parser.add_argument("recipe", type=Path, help="TOML with [teacher], [data], [capture] and [students.NAME] tables")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="one setting, as in TOML")


def run(args: argparse.Namespace) -> None:
    """`stillhouse distill`."""
    from .. import distillation
    from ..trainer.ranks import ranks

    recipe = distillation.load_recipe(args.recipe, args.set)
    students = distillation.distill(recipe, home=args.home, show=not args.json)
    if not ranks().first:
        return  # of several processes, one speaks

    def lines() -> None:
        for d in students:
            tokens = "" if d.same_tokens else f", another tokenizer ({d.skipped} examples left out)"
            share = f"{d.parameters / d.teacher_parameters:.0%} of the teacher, " if d.teacher_parameters else ""
            name = f"{d.name}: {d.domain}" if d.domain else d.name
            print(f"{name}: {share}{d.steps} steps{tokens}")
            if d.best:
                print(f"  {d.best.line(d.steps)}; chosen on held-out data, which flatters the figures below")
            print(f"  KL to the teacher   {d.before.kl:.3f} -> {d.after.kl:.3f} nats, held out")
            print(f"  same first choice   {d.before.agreement:.1%} -> {d.after.agreement:.1%}")
            print(f"  calibration error   {d.before.ece:.1%} -> {d.after.ece:.1%}")
            print(f"  {d.folder / 'report.html'}")

    show([d.as_dict() for d in students], args.json, lines)
