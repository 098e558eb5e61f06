"""`stillhouse calibrate`: thresholds for one base, from consolidations that are good and some that are sabotaged."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import InputError
from ._shell import command, open_store, show


def add(commands: Any) -> None:
    """Declare it."""
    about = "Learn thresholds for a base from honest and sabotaged consolidations; `consolidate` then uses them."
    parser = command(commands, "calibrate", run, about)
    parser.add_argument("model", metavar="MODEL", help="tiny, a local Hugging Face folder, or a hub id")
    parser.add_argument("--good", type=int, default=12, help="honest consolidations (default 12)")
    parser.add_argument("--bad", type=int, default=2, help="consolidations of each sabotage (default 2)")
    parser.add_argument("--together", type=int, default=4, help="students trained in one batch (default 4)")
    parser.add_argument("--memories", type=Path, help="folder of memories to use instead of generated ones")
    parser.add_argument("--config", type=Path, help="TOML with [capture] and [train] tables, as for consolidate")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="one setting, as in TOML")


def run(args: argparse.Namespace) -> None:
    """`stillhouse calibrate`."""
    from .. import gate, models, pipeline
    from ..progress import progress

    settings = pipeline.read_settings(args.config, args.set)
    plan = gate.Plan(args.good, args.bad, args.together, settings.capture, settings.train)
    memories = _memories(args.memories, plan.memories)
    store = open_store(args)
    model = models.load(args.model, cache=store.home / "fingerprints.json")
    folder = gate.calibration_folder(store.home, model.fingerprint)
    with progress("calibrate", len(plan.jobs()), not args.json) as step:
        trials = gate.trials(model, memories, plan, folder, step)
    found = gate.calibrate(model, plan, trials)
    path = gate.write_calibration(store.home, found)
    if args.memories is not None:
        gate.forget_memories(folder)  # people's own: `forget` would not look here
    show(_summary(found, path), args.json, lambda: _print(found, path))


def _memories(folder: Path | None, count: int) -> list[str]:
    """Generated memories, or the files of a folder by name."""
    from .. import gate, inputs

    if folder is None:
        return [gate.memory(seed) for seed in range(count)]
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is no folder; --memories is a folder of UTF-8 text files")
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    if len(files) < count:
        raise InputError(f"{str(folder)!r} has {len(files)} files; {count} memories are needed: lower --good or --bad")
    return [inputs.read_memory(p) for p in files[:count]]


def _summary(found: Any, path: Path) -> dict[str, Any]:
    return {
        "base": found.base, "calibration": found.digest, "file": str(path), "thresholds": found.thresholds,
        "auc": {name: found.auc(name) for name in found.thresholds},
        "honest": found.count("")._asdict(),
        "sabotaged": {name: found.count(name)._asdict() for name in found.sabotages},
    }  # fmt: skip


def _print(found: Any, path: Path) -> None:
    from .. import gate

    start = gate.settings()
    print(f"{'gate':<12} {'threshold':>10} {'start':>8} {'AUC':>6}")
    for name, value in found.thresholds.items():
        area = found.auc(name)
        print(f"{name:<12} {value:>10.4g} {start[name].threshold:>8g} {'-' if area is None else f'{area:.2f}':>6}")
    honest = found.count("")
    print(f"\nhonest: {honest.approved} of {honest.trials} approved")
    for name in found.sabotages:
        count = found.count(name)
        print(f"{name}: {count.trials - count.approved} of {count.trials} rejected, by {', '.join(count.gates) or '-'}")
    print(f"thresholds  {path}")
