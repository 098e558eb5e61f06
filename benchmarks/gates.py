"""Do the gates tell? Honest consolidations have to pass, and nine kinds of sabotaged ones have to be refused.

    python benchmarks/gates.py [--model REF] [--good 20] [--bad 20] [--home DIR] [--write FILE] [--quick]

Thresholds are calibrated on `--good` honest consolidations and `--bad` of each sabotage, on generated memories, with
the default settings. What they are worth on memories they were not calibrated on is measured by cross-validation: the
memories are cut into `FOLDS`, and each is judged by thresholds from the others alone. Then one full gate is timed.

What it costs: per memory one capture, one honest training, five sabotaged ones (four of them in one batch, the
over-trained one of twice the steps) and ten full gates. The other four sabotages are done to the honest adapter or to
the test, and train nothing. For the shipped model and 20 memories 31 minutes on two cores, each with a process of its
own (`--workers`). `--quick` (3 honest ones hardly trained, 1 of each sabotage) took 75 s of CPU and shows that it all
runs; its figures mean nothing and have no targets.

With `--home` everything is kept there: a killed run is run again and goes on, and the calibration stays for
`stillhouse consolidate --home DIR`. `--write FILE` writes the tables as Markdown, between the lines `BEGIN` and `END`
of the file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, _row, machine, say, seconds, table
from benchmarks._workers import Remaining, share, tasks, workers
from stillhouse import gating, models
from stillhouse.capture import memory
from stillhouse.consolidation import calibrate, synthetic
from stillhouse.consolidation.calibrate import Plan
from stillhouse.consolidation.sabotage import KINDS
from stillhouse.gating import Calibration, CalibrationTrial
from stillhouse.gating.stats import wilson
from stillhouse.gating.thresholds import thresholds
from stillhouse.storage.files import write_atomic
from stillhouse.train import adapter

FOLDS = 5
NEAR = 0.03  # how far the figures may lie apart on memories the thresholds have not seen
LONGEST = 30.0  # seconds of one full gate on two cores
PREPARING, SABOTAGING = 1.4, 6.6  # work per memory, in honest trainings
BEGIN, END = "<!-- benchmarks/gates.py: begin -->", "<!-- benchmarks/gates.py: end -->"
Judged = list[tuple[CalibrationTrial, list[str]]]  # each trial with the gates that refuse it


def plan_of(good: int, bad: int, together: int, quick: bool) -> Plan:
    """The default settings, or for `--quick` ones that learn nothing."""
    if not quick:
        return Plan(good, bad, together)
    capture = memory.Config(wordings=4, rounds=0, unknown_per_statement=2, decoys=4, anchor_prompts=2)
    train = adapter.Config(rank=4, steps=6, warmup=1, facts=8, unknowns=4, anchors=1, anchor_rows=1)
    return Plan(3, 1, together, replace(capture, max_answer_tokens=16), train)


def memories(plan: Plan) -> list[str]:
    """What they are calibrated on: generated, the same ones every time."""
    return [synthetic.memory(number) for number in range(plan.memories)]


def worker(setup: str) -> None:
    """In a process of its own: batches of honest students, then all trials of a memory, as they are asked for."""
    about = json.loads(setup)
    plan, model = plan_of(*about["plan"]), models.load(about["model"])
    folder = gating.calibration_folder(Path(about["home"]), model.fingerprint)
    for task in tasks():
        if "batch" in task:
            calibrate.prepare(model, memories(plan), plan, folder, task["batch"])
        else:
            mine = [job for job in plan.jobs() if job[0] == task["memory"]]
            calibrate.trials(model, memories(plan), plan, folder, jobs=mine)


def work(plan: Plan, command: Sequence[str], processes: int) -> None:
    """Everything that takes long, shared by processes: a batch of honest students each, then a memory each."""
    batches = [({"batch": b}, PREPARING * len(b), f"honest {b[0]} to {b[-1]}") for b in plan.batches()]
    each = [
        (
            {"memory": n},
            SABOTAGING if n < plan.bad else 0.2,
            f"memory {n}, its sabotages" if n < plan.bad else f"memory {n}",
        )
        for n in range(plan.memories)
    ]
    remaining = Remaining(sum(weight for _, weight, _ in [*batches, *each]), processes)
    with workers(command, processes) as pool:
        share(pool, batches, remaining)
        share(pool, each, remaining)


def judged(trials: Sequence[CalibrationTrial], limits: dict[str, float]) -> Judged:
    """Each trial with the gates that refuse it under these thresholds."""
    return [(trial, gating.failed_gates(trial, limits)) for trial in trials]


def unseen(trials: Sequence[CalibrationTrial], folds: int) -> Judged:
    """Every trial judged by thresholds from the memories of the other folds."""
    numbers = sorted({trial.memory for trial in trials}, key=int)
    found: Judged = []
    for fold in range(min(folds, len(numbers))):
        held = set(numbers[fold::folds])
        limits = thresholds([t for t in trials if t.memory not in held])
        found += judged([t for t in trials if t.memory in held], limits)
    return found


def count(found: Judged, sabotage: str) -> tuple[int, int, str]:
    """Of one kind: how many are refused, of how many, and by which gates how often, most often first."""
    mine = [names for trial, names in found if trial.sabotage == sabotage]
    by = Counter(name for names in mine for name in names)
    said = [f"{name} {times}" for name, times in by.most_common(4)] + ([f"{len(by) - 4} more"] if len(by) > 4 else [])
    return sum(map(bool, mine)), len(mine), ", ".join(said)


def sabotage_rows(seen: Judged, others: Judged) -> list[tuple[str, ...]]:
    """The sabotage table, its head first."""
    rows: list[tuple[str, ...]] = [("sabotage", "what is done", "refused", "on unseen memories", "refused by")]
    for name in ("", *KINDS):
        here, n, by = count(seen, name)
        there, m, _ = count(others, name)
        what = KINDS[name].about if name else "nothing"
        rows.append((name or "(honest)", what, f"{here} of {n}", f"{there} of {m}", by or "-"))
    return rows


def part(what: str, found: Judged, honest: bool, target: float | None) -> Figure:
    """Honest trials that pass all gates, or sabotaged ones that do not."""
    mine = [not names for trial, names in found if (not trial.sabotage) == honest]
    hits = sum(passed == honest for passed in mine)
    return Figure(what, hits / len(mine), "%", target, interval=wilson(hits, len(mine)), note=f"n={len(mine)}")


def one_gate(model: models.Model, plan: Plan, folder: Path) -> tuple[float, float]:
    """Seconds of one full gate over an honest student, and of CPU: its trial once more, with nothing of it known."""
    with tempfile.TemporaryDirectory() as fresh:
        again, began = Path(fresh), time.process_time()
        took = seconds(
            lambda: calibrate.trials(
                model, memories(plan), plan, again, place=lambda name, _: folder / name, jobs=[(0, "")]
            )
        )  # fmt: skip
        return took, time.process_time() - began


def figures(seen: Judged, others: Judged, took: tuple[float, float], quick: bool) -> list[Figure]:
    """What is promised."""
    found = [
        part("sabotaged candidates rejected", seen, False, 1.0),
        part("honest candidates approved", seen, True, 0.95),
        part("sabotaged, memories not calibrated on", others, False, 1.0 - NEAR),
        part("honest, memories not calibrated on", others, True, 0.95 - NEAR),
        Figure("one full gate", took[0], "s", LONGEST, at_least=False, note=f"{took[1]:.1f} s of CPU"),
    ]
    return [replace(f, target=None, note=f"{f.note}; --quick: means nothing") for f in found] if quick else found


def limits_rows(found: Calibration) -> list[tuple[str, ...]]:
    """Every gate's threshold, where it starts, and how well it tells by itself."""
    start = gating.settings()
    rows: list[tuple[str, ...]] = [("gate", "threshold", "start", "area under the ROC")]
    for name, value in found.thresholds.items():
        area = found.auc(name)
        rows.append((name, f"{value:.4g}", f"{start[name].threshold:g}", "-" if area is None else f"{area:.3f}"))
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, its head first."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]) + "\n"


def between(path: Path) -> tuple[str, str]:
    """What stands before and after the lines `BEGIN` and `END` of a file; nothing where there is no such file.
    `SystemExit` for a file without them: it is somebody's."""
    if not path.exists():
        return "", ""
    before, begin, rest = path.read_text(encoding="utf-8").partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path}: has no lines {BEGIN} and {END}; name a new file, or put them in")
    return before, after


def write(path: Path, text: str) -> None:
    """Between those lines, which a new file gets too, so that it can be written again."""
    before, after = between(path)
    write_atomic(path.resolve(), f"{before}{BEGIN}\n{text}{END}{after or chr(10)}".encode())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--good", type=int, default=20, help="honest consolidations")
    parser.add_argument("--bad", type=int, default=20, help="consolidations of each sabotage")
    parser.add_argument("--together", type=int, default=4, help="students trained in one batch")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--home", type=Path, help="keep everything here, and go on from what is there")
    parser.add_argument("--write", type=Path, help="write the tables there as Markdown")
    parser.add_argument("--quick", action="store_true", help="3 good ones hardly trained, 1 of each sabotage")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    args = arguments()
    if args.worker:
        worker(args.worker)
    if args.write:
        between(args.write)  # a mistake there is said now, not after half an hour
    asked = (args.good, args.bad, args.together, args.quick)
    plan, about = plan_of(*asked), machine()
    print(about, flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        home = (args.home or Path(temporary)).resolve()
        setup = json.dumps({"plan": asked, "model": args.model, "home": str(home)})
        work(plan, [sys.executable, __file__, "--worker", setup], max(1, args.workers))
        model = models.load(args.model)
        folder = gating.calibration_folder(home, model.fingerprint)
        trials = calibrate.trials(model, memories(plan), plan, folder)
        found = calibrate.calibrate(model, plan, trials)
        say(f"calibration: {gating.write_calibration(home, found)}")
        took = one_gate(model, plan, folder)
    seen, others = judged(trials, found.thresholds), unseen(trials, FOLDS)
    tables, shown = [sabotage_rows(seen, others), limits_rows(found)], figures(seen, others, took, args.quick)
    print("\n".join(markdown(rows) for rows in tables))
    code = table(shown)
    if args.write:
        tables.append([("figure", "measured", "target", "", "95 % interval, n"), *map(_row, shown)])
        write(args.write, "\n".join([*map(markdown, tables), f"{about}\n"]))
    return code


if __name__ == "__main__":
    sys.exit(main())
