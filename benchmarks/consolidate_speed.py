"""How long does a user wait? One memory of 10 statements, from file to verdict, by the command itself.

    python benchmarks/consolidate_speed.py [--model REF] [--runs 3] [--quick]

Every run is a fresh process with a fresh home and another memory, so that the median is not one memory's luck. Wall
seconds are those of the whole command; stages are the command's own figures; imports and loading are measured in a
process of their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, machine, say, table
from benchmarks._memories import memory

TARGET = 30.0
STATEMENTS = 10
LOAD = """
import sys, time
start = time.perf_counter()
import stillhouse.consolidation
imported = time.perf_counter()
model = stillhouse.models.load(sys.argv[1])
import torch
from stillhouse.compute.threads import fastest_threads
with fastest_threads(model):
    print(imported - start, time.perf_counter() - imported, torch.get_num_threads())
"""


def consolidate(home: Path, ref: str, memories: dict[str, str]) -> tuple[float, list[dict[str, Any]]]:
    """Run `stillhouse consolidate` for these users; wall seconds and what it printed for each."""
    command = [sys.executable, "-m", "stillhouse.cli", "consolidate", "--json", "--home", str(home), "--model", ref]
    for user, text in memories.items():
        file = home.parent / f"{user}.md"
        file.write_text(text, encoding="utf-8")
        command += ["--user", user, "--memory", str(file)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took = time.perf_counter() - start
    if done.returncode not in (0, 1) or not done.stdout:
        raise SystemExit(f"{' '.join(command)}\nexit code {done.returncode}: {done.stderr}")
    found = json.loads(done.stdout)
    return took, found if isinstance(found, list) else [found]


def load_seconds(ref: str) -> tuple[float, float, int]:
    """(imports, loading and choosing threads, threads chosen) in a fresh process."""
    command = [sys.executable, "-c", LOAD, ref]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(words[0]), float(words[1]), int(words[2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one run")
    args = parser.parse_args()
    print(machine())
    walls: list[float] = []
    stages: dict[str, list[float]] = {}
    for run in range(1 if args.quick else args.runs):
        with tempfile.TemporaryDirectory() as folder:
            text = memory(f"speed/{run}", (STATEMENTS, STATEMENTS), 0, noise=0.0).text
            took, (found,) = consolidate(Path(folder, "home"), args.model, {"alice": text})
        walls.append(took)
        for stage, part in found["seconds"].items():
            stages.setdefault(stage, []).append(part)
        parts = ", ".join(f"{stage} {part:.1f}" for stage, part in found["seconds"].items())
        verdict = "approved" if found["approved"] else f"rejected by {', '.join(found['failed'])}"
        say(f"run {run + 1}: {took:.1f} s ({parts}), coverage {found['coverage']:.0%}, {verdict}")
    imports, loading, threads = load_seconds(args.model)
    figures = [Figure("file to verdict, whole command", statistics.median(walls), "s", TARGET, at_least=False,
                      note=f"median of {len(walls)}, {min(walls):.1f} to {max(walls):.1f}")]  # fmt: skip
    figures += [Figure(f"  {stage}", statistics.median(parts), "s") for stage, parts in stages.items()]
    figures += [
        Figure("  imports (a process of its own)", imports, "s"),
        Figure("  loading the model (the same)", loading, "s", note=f"{threads} thread(s) chosen"),
    ]
    return table(figures)


if __name__ == "__main__":
    sys.exit(main())
