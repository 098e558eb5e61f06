"""`stillhouse prime`: the start from which students of one base need less than half of the steps."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..cli.shell import command, memory_files, show
from ..errors import InputError

MEMORIES = 48


def add(commands: Any) -> None:
    """Declare it."""
    about = "Learn, once for a base, where its students begin; `consolidate` then needs less than half of the steps."
    parser = command(commands, "prime", run, about)
    parser.add_argument("model", metavar="MODEL", help="tiny, a local Hugging Face folder, or a hub id")
    parser.add_argument(
        "--out", type=Path,
        help="folder for the start (default: `start` beside the weights of a local MODEL, where it is found by itself)",
    )  # fmt: skip
    parser.add_argument(
        "--memories", type=Path,
        help="folder of UTF-8 text files that anybody may know, instead of generated ones: what they say goes, "
        "faintly, into every student",
    )  # fmt: skip
    parser.add_argument("--count", type=int, default=MEMORIES, help=f"memories that are generated (default {MEMORIES})")
    parser.add_argument("--rounds", type=int, default=11, help="rounds after the first (default 11)")
    parser.add_argument("--steps", type=int, default=40, help="steps of a student from the start (default 40)")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: as many as cores and memory allow")
    parser.add_argument("--config", type=Path, help="TOML with [capture] and [train] tables, as for consolidate")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="one setting, as in TOML")


def run(args: argparse.Namespace) -> None:
    """`stillhouse prime`."""
    from .. import consolidation
    from ..consolidation import prime

    folder = args.out or prime.beside(args.model, args.home)
    settings = consolidation.read_settings(args.config, args.set)
    plan = prime.Plan(rounds=args.rounds, steps=args.steps)
    if args.count < 1:
        raise InputError(f"--count: {args.count} is not allowed; at least 1 memory is needed")
    memories = _read(args.memories) if args.memories else prime.generated(range(args.count))
    losses = prime.prime(
        memories, folder, model=args.model, home=args.home, settings=settings, plan=plan, show=not args.json,
        workers=args.workers,
    )  # fmt: skip
    result = {"start": str(folder), "memories": len(memories), "steps": plan.steps, "losses": losses}
    show(result, args.json, lambda: _print(result, args))


def _read(folder: Path) -> dict[str, str]:
    from .. import inputs

    files = memory_files(folder)
    if not files:
        raise InputError(f"{str(folder)!r} has no files; --memories is a folder of UTF-8 text files")
    return {f"memory-{n}": inputs.read_memory(path) for n, path in enumerate(files)}


def _print(result: dict[str, Any], args: argparse.Namespace) -> None:
    losses = " -> ".join(f"{loss:.3f}" for loss in result["losses"])
    print(f"students' loss, round by round: {losses}")
    use = f"""; use it with --set 'train.start="{result["start"]}"'""" if args.out else ""
    print(f"the start of {args.model} is in {result['start']}{use}")
