"""`stillhouse calibrate`: thresholds for one base, from consolidations that are good and some that are sabotaged."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..cli.shell import command, memory_files, open_store, show
from ..errors import InputError


def add(commands: Any) -> None:
    """Declare it."""
    about = "Learn thresholds for a base from honest and sabotaged consolidations; `consolidate` then uses them."
    parser = command(commands, "calibrate", run, about)
    parser.add_argument("model", metavar="MODEL", help="tiny, a local Hugging Face folder, or a hub id")
    parser.add_argument("--good", type=int, default=12, help="honest consolidations (default 12)")
    parser.add_argument("--bad", type=int, default=2, help="consolidations of each sabotage (default 2)")
    parser.add_argument("--together", type=int, default=4, help="students trained in one batch (default 4)")
    parser.add_argument(
        "--memories",
        type=Path,
        help="folder of memories to use instead of generated ones, each file named after its user",
    )
    parser.add_argument("--config", type=Path, help="TOML with [capture] and [train] tables, as for consolidate")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="one setting, as in TOML")


def run(args: argparse.Namespace) -> None:
    """`stillhouse calibrate`."""
    from .. import consolidation, gating, models
    from ..consolidation import calibrate, synthetic

    settings = consolidation.read_settings(args.config, args.set)
    plan = calibrate.Plan(args.good, args.bad, args.together, settings.capture, settings.train)
    private = _memories(args.memories, plan.memories) if args.memories else {}
    store = open_store(args)
    model = models.load(args.model, home=store.home)
    folder = gating.calibration_folder(store.home, model.fingerprint)
    if private:
        trials = _private(store, model, plan, private, folder, args.json)
    else:
        trials = _trials(model, [synthetic.memory(seed) for seed in range(plan.memories)], plan, folder, args.json)
    calibration = calibrate.calibrate(model, plan, trials)
    path = gating.write_calibration(store.home, calibration)
    show(_summary(calibration, path), args.json, lambda: _print(calibration, path))


def _trials(model: Any, memories: list[str], plan: Any, folder: Path, silent: bool, place: Any = None) -> Any:
    from ..consolidation import calibrate
    from ..progress import progress

    with progress("calibrate", len(plan.jobs()), not silent) as step:
        return calibrate.trials(model, memories, plan, folder, step, place)


def _private(store: Any, model: Any, plan: Any, private: dict[str, str], folder: Path, silent: bool) -> Any:
    """Trials on people's own memories.

    What comes of a memory lies where `forget` finds it by its user or by the memory's digest. It goes when the
    calibration is done; the numbers stay.
    """
    users, folders = list(private), set[Path]()

    def place(name: str, numbers: Sequence[int]) -> Path:
        made: Path = store.work(name, [users[n] for n in numbers])
        folders.add(made)
        return made

    with ExitStack() as locks:
        for user in sorted(users):
            locks.enter_context(store.lock(user))
        trials = _trials(model, list(private.values()), plan, folder, silent, place)
        for used in folders:
            shutil.rmtree(used, ignore_errors=True)  # a training that is done has removed its own
    return trials


def _memories(folder: Path, count: int) -> dict[str, str]:
    """The first files of a folder, by the user each is named after: `alice.md` is of alice."""
    from .. import inputs

    files = memory_files(folder)
    if len(files) < count:
        raise InputError(f"{str(folder)!r} has {len(files)} files; {count} memories are needed: lower --good or --bad")
    memories = {path.stem: inputs.read_memory(path) for path in files[:count]}
    if len(memories) < count:
        raise InputError(f"{str(folder)!r} has two files of one user: each file is named after its user, once")
    return memories


def _summary(calibration: Any, path: Path) -> dict[str, Any]:
    return {
        "base": calibration.base, "calibration": calibration.digest, "file": str(path),
        "thresholds": calibration.thresholds,
        "auc": {name: calibration.auc(name) for name in calibration.thresholds},
        "honest": calibration.count("")._asdict(),
        "sabotaged": {name: calibration.count(name)._asdict() for name in calibration.sabotages},
    }  # fmt: skip


def _print(calibration: Any, path: Path) -> None:
    from .. import gating

    start = gating.settings()
    print(f"{'gate':<12} {'threshold':>10} {'start':>8} {'AUC':>6}")
    for name, value in calibration.thresholds.items():
        area = calibration.auc(name)
        print(f"{name:<12} {value:>10.4g} {start[name].threshold:>8g} {'-' if area is None else f'{area:.2f}':>6}")
    honest = calibration.count("")
    print(f"\nhonest: {honest.approved} of {honest.trials} approved")
    for name in calibration.sabotages:
        count = calibration.count(name)
        print(f"{name}: {count.trials - count.approved} of {count.trials} rejected, by {', '.join(count.gates) or '-'}")
    print(f"thresholds  {path}")
