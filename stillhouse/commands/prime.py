"""`stillhouse prime`: a base learns the trade once: to read notes, to write questions, to say that it does not know."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..cli.shell import command, show


def add(commands: Any) -> None:
    """Declare it."""
    about = "Teach a base, once, to read notes, to write questions about them and to say that it does not know."
    parser = command(commands, "prime", run, about)
    parser.add_argument("model", metavar="MODEL", help="a fetched model, a local Hugging Face folder, or a hub id")
    parser.add_argument(
        "--out", type=Path,
        help="folder for the start (default: `start` beside the weights of a local MODEL, where it is found by itself)",
    )  # fmt: skip
    parser.add_argument(
        "--notes", type=Path,
        help="folder of notes with questions (docs/formats/study.md) in place of those that ship: what they say goes, "
        "faintly, into every student",
    )  # fmt: skip
    parser.add_argument("--epochs", type=float, default=2.0, help="how often a lesson comes (default 2)")
    parser.add_argument("--rate", type=float, default=0.0, help="peak learning rate; 0: found by short trials")


def run(args: argparse.Namespace) -> None:
    """`stillhouse prime`."""
    from dataclasses import asdict, replace

    from .. import models
    from ..consolidation import prime
    from ..inputs import home_folder
    from ..text.notes import read_notes

    plan = prime.Plan(epochs=args.epochs)
    plan = replace(plan, train=replace(plan.train, learning_rate=args.rate))
    folder = args.out or prime.beside(args.model, args.home)
    notes = read_notes(args.notes or prime.TAUGHT)
    model = models.load(args.model, home=home_folder(args.home))
    primed = prime.prime(model, notes, folder, home=args.home, plan=plan, show=not args.json)
    show(asdict(primed), args.json, lambda: _print(primed, args))


def _print(primed: Any, args: argparse.Namespace) -> None:
    print("lessons: " + ", ".join(f"{count} {task}" for task, count in primed.lessons.items()))
    if primed.trials:
        print("held-out loss by learning rate: " + ", ".join(f"{r}: {loss:.3f}" for r, loss in primed.trials.items()))
    print("held-out loss: " + ", ".join(f"step {step}: {loss:.3f}" for step, loss in primed.validation))
    use = f"""; use it with --set 'train.start="{primed.folder}"'""" if args.out else ""
    print(f"the start of {args.model} is in {primed.folder}{use}")
