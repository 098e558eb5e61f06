"""What is a crowd worth? 16 users' memories by one command, against one command each; per user.

    python benchmarks/users_together.py [--model REF] [--users 16] [--quick]

The 16 are consolidated by one `stillhouse consolidate`; 4 of the same users are also consolidated by a command each, in
fresh homes, before and after it, and their median stands for all 16. Checked first: both ways' adapters give the same
answers to the study's questions. The training stage alone (the same signals and steps, one bank of 16 against a bank
of 1 each) is timed in one process, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, in_turns, machine, say, spread, table
from benchmarks._memories import users
from benchmarks._students import student
from benchmarks.consolidate_speed import consolidate
from stillhouse import consolidation, models
from stillhouse.consolidation import Consolidation
from stillhouse.records import Candidate, Signals
from stillhouse.signals import DistillArtifact, shards
from stillhouse.store import Store
from stillhouse.train import adapter

TARGET = 3.0
SINGLES = 4
STEPS = 16  # of the training stage alone


def commands(
    memories: Mapping[str, str], singles: Sequence[str], ref: str, folder: Path
) -> tuple[float, list[float], dict[str, float], dict[str, list[float]]]:
    """Wall seconds of one command for all and of the single ones, and their seconds per stage, per user."""
    alone: list[float] = []
    stages_alone: dict[str, list[float]] = {}
    together, stages = 0.0, {}
    half = len(singles) // 2
    for user in [*singles[:half], None, *singles[half:]]:
        if user is None:
            together, found = consolidate(folder / "together", ref, dict(memories))
            stages = {stage: took / len(memories) for stage, took in found[0]["seconds"].items()}
            say(f"{len(memories)} together: {together:.1f} s")
            continue
        took, (result,) = consolidate(folder / user, ref, {user: memories[user]})
        alone.append(took)
        for stage, part in result["seconds"].items():
            stages_alone.setdefault(stage, []).append(part)
        say(f"{user} alone: {took:.1f} s")
    return together, alone, stages, stages_alone


def agreement(
    model: models.Model, memories: Mapping[str, str], singles: Sequence[str], folder: Path
) -> tuple[int, int]:
    """(same answers, questions): the study's questions to both ways' adapters. Everything is in the stores by now."""
    same = asked = 0
    crowd = {r.user: r for r in consolidation.consolidate_all(memories, model=model, home=folder / "together")}
    for user in singles:
        single = consolidation.consolidate(user, memories[user], model=model, home=folder / user)
        if single.study != crowd[user].study:
            raise SystemExit(f"{user}: the two ways studied different questions; their adapters cannot be compared")
        questions = [q.text for q in single.study.questions]
        alone = _answers(model, folder / user, single, questions)
        together = _answers(model, folder / "together", crowd[user], questions)
        for question, one, other in zip(questions, alone, together, strict=True):
            same += one == other
            if one != other:
                say(f"  {user}: {question} -> {one!r} alone, {other!r} together")
        asked += len(questions)
    return same, asked


def _answers(model: models.Model, home: Path, result: Consolidation, questions: Sequence[str]) -> list[str]:
    with student(model, home, result) as taught:
        return taught.answers(questions)


def signals(home: Path, names: Sequence[str]) -> list[list[DistillArtifact]]:
    """What the command captured for each user."""
    store = Store(home)
    candidates = [store.get(Candidate, store.versions(user)[-1].candidate) for user in names]
    digests = [store.get(Signals, candidate.parents[0]).shard for candidate in candidates]
    return [shards.read(store.blobs.get(shard))[0] for shard in digests]


def train_alone(model: models.Model, read: Sequence[list[DistillArtifact]], rounds: int) -> tuple[float, float]:
    """Seconds per user of `STEPS` steps in a bank for all, and in a bank of 1 (the mean of `SINGLES`); medians."""
    config = adapter.Config(steps=STEPS, mastered=0.0)  # nobody leaves early: the same work both ways
    picked = read[:SINGLES]

    def one_by_one() -> None:
        for own in picked:
            adapter.train(model, [own], config)

    together, alone = in_turns(lambda: adapter.train(model, read, config), one_by_one, rounds)
    print(f"{STEPS} steps of {len(read)} in one bank     {spread(together)}")
    print(f"{STEPS} steps of {len(picked)}, a bank of 1 each  {spread(alone)}")
    return statistics.median(together) / len(read), statistics.median(alone) / len(picked)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2, help="of the training stage alone")
    parser.add_argument("--quick", action="store_true", help="4 users, 2 of them also alone, one round")
    args = parser.parse_args()
    count, picked = (4, 2) if args.quick else (args.users, SINGLES)
    memories = {user: m.text for user, m in users("together", count, sizes=(10, 10), noise=0.0).items()}
    singles = list(memories)[:picked]
    with tempfile.TemporaryDirectory() as folder:
        together, alone, stages, stages_alone = commands(memories, singles, args.model, Path(folder))
        model = models.load(args.model)
        print(machine())
        same, asked = agreement(model, memories, singles, Path(folder))
        read = signals(Path(folder, "together"), list(memories))
    crowd, single = train_alone(model, read, 1 if args.quick else args.rounds)
    print(f"{count} together {together:.1f} s; alone {spread(alone)}")
    median, target = statistics.median(alone), None if args.quick else TARGET
    rows = [
        Figure("same answers from both ways' adapters", same / asked, "%", note=f"{asked} questions, {picked} users"),
        Figure("together is faster, per user, whole command", median * count / together, "x", target,
               note=f"{median:.1f} s -> {together / count:.1f} s, median of {picked} single runs"),
    ]  # fmt: skip
    for stage, took in stages.items():
        before = statistics.median(stages_alone[stage])
        rows.append(Figure(f"  {stage}, in those commands", before / took, "x", note=f"{before:.2f} s -> {took:.2f} s"))
    rows.append(Figure("training alone, one process", single / crowd, "x", note=f"{single:.2f} s -> {crowd:.2f} s"))
    return table(rows)


if __name__ == "__main__":
    sys.exit(main())
