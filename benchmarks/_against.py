"""The same measurement by two checkouts in turns: is the newer one as fast as the older?

    python benchmarks/_against.py OTHER [--rounds 2] -- benchmarks/consolidate_speed.py --runs 2
    python benchmarks/_against.py OTHER -- benchmarks/serve_mixed.py --rounds 3
    python benchmarks/_against.py OTHER -- -c "from benchmarks.distill_speed import *; \\
        took = ours(task(loaded('tiny'), 'tiny', 8, 96, 20)); \\
        table([Figure('CPU seconds a step', statistics.median(took), 's')])"

In: the root of another checkout (`git worktree add --detach OTHER COMMIT`, with its `stillhouse/_kernels*.so` beside
it), and what Python is to run in each. Every checkout runs its own script with its own package, so nothing has to fit
both. A round is A B B A, A the other checkout and B this one, each a process of its own. Out: per figure of the
script's table the medians of A and B, and B over A; at the end the wall seconds of the whole run. It does not know what
is measured, or whether more is better.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import machine, say

HERE = Path(__file__).resolve().parents[1]
WALL = "wall seconds of the whole run"
_ROW = re.compile(
    r"(?P<name> *\S.*?) {2,}(?P<value>-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)(?: ?[a-zA-Z%]+)?(?: {2,}|$)"
)

Values = dict[str, list[float]]


def table_values(output: str) -> dict[str, float]:
    """The figures of a table that `_machine.table` printed, by name; other lines are passed over."""
    rows = (_ROW.match(line) for line in output.splitlines())
    return {row["name"]: float(row["value"]) for row in rows if row}


def run(checkout: Path, arguments: Sequence[str]) -> dict[str, float]:
    """The figures of one run of Python in a checkout. `SystemExit`: it printed none."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    took = time.perf_counter() - start
    figures = table_values(done.stdout)
    if done.returncode not in (0, 1) or not figures:  # 1: a target was missed
        raise SystemExit(f"{checkout}: exit code {done.returncode}, no figures in:\n{done.stdout}")
    return figures | {WALL: took}


def compare(other: Path, here: Path, arguments: Sequence[str], rounds: int) -> tuple[Values, Values]:
    """All values of each figure from both checkouts, measured in the order A B B A."""
    values: dict[Path, Values] = {other: {}, here: {}}
    for turn in range(rounds):
        for checkout in (other, here, here, other):
            say(f"round {turn + 1} of {rounds}: {checkout}")
            for name, value in run(checkout, arguments).items():
                values[checkout].setdefault(name, []).append(value)
    return values[other], values[here]


def rows(old: Values, new: Values) -> list[str]:
    """Median of A, median of B and their ratio per figure, with the range of each."""
    lines = [f"{'figure':<52}{'A':>12}{'B':>12}{'B / A':>9}  ranges"]
    for name in [name for name in new if name in old]:
        a, b = statistics.median(old[name]), statistics.median(new[name])
        ratio = f"{b / a:>9.3f}" if a else f"{'':>9}"
        ranges = f"{min(old[name]):.4g} to {max(old[name]):.4g}, {min(new[name]):.4g} to {max(new[name]):.4g}"
        lines.append(f"{name:<52}{a:>12.4g}{b:>12.4g}{ratio}  {ranges}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="root of the other checkout")
    parser.add_argument("--rounds", type=int, default=2, help="each is four runs: A B B A")
    parser.add_argument("python", nargs="+", help="after --: what Python runs in each checkout")
    args = parser.parse_args()
    other = args.other.resolve()
    if other == HERE or not (other / "stillhouse").is_dir():
        parser.error(f"{args.other} is no other checkout: give the root of one, which holds stillhouse/")
    print(machine())
    print(f"A: {other}\nB: {HERE}")
    print("\n".join(rows(*compare(other, HERE, args.python, args.rounds))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
