"""Killed with SIGKILL at 20 random moments and run again: are the weights those of a run that nobody disturbed?

    python benchmarks/distill_resume.py [--kills N] [--seed N]

A whole recipe, offline: the model that ships writes signals, two small students learn them, one with all weights and
one as an adapter, reports included. Every attempt is a process of its own that is killed after a random time, wherever
it is then: capturing, training, writing a checkpoint or a report. When a recipe comes to its end before it is killed,
its files are compared byte for byte and the next one starts, until there were enough kills.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # in every attempt: the same rounding, and no threads that a fork would lose
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, machine, say, table
from stillhouse import distillation
from stillhouse.capture import prompts
from stillhouse.distillation.student import Student
from stillhouse.lora import LoraConfig
from stillhouse.train import full

SHAPE = {"model_type": "qwen3", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}  # fmt: skip


def recipe() -> distillation.Recipe:
    """Two students, four shards, a checkpoint every second step."""
    train = full.Config(epochs=2, batch_tokens=512, checkpoint_every=2)
    scratch = Student(scratch=SHAPE, train=train)
    adapter = Student(train=full.Config(lora=LoraConfig(rank=4), epochs=1, batch_tokens=512, checkpoint_every=2))
    return distillation.Recipe(
        data=distillation.Data(train=("stdlib:24",), held_out=0.25),
        capture=prompts.Config(shard_examples=6, max_tokens=128, too_long="skip"),
        samples=1,
        students=(("scratch", scratch), ("adapter", adapter)),
    )


def start(home: Path) -> int:
    """A process that runs the recipe; its id. It is forked, so that what is killed is the work and not the imports."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        distillation.distill(recipe(), home=home)
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)


def wait(pid: int, seconds: float | None = None) -> bool:
    """Whether it came to its end; killed after `seconds`."""
    until = time.monotonic() + seconds if seconds is not None else None
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            if status:
                raise SystemExit(f"the recipe failed by itself: status {status}")
            return True
        if until is not None and time.monotonic() >= until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return False
        time.sleep(0.002)


def weights(home: Path) -> dict[str, str]:
    """SHA-256 of every weight file of the students and of every shard of signals."""
    files = [*home.glob("students/*/*/*.safetensors"), *home.glob("signals/*/*.parquet")]
    return {str(f.relative_to(home)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        wait(start(Path(folder, "whole")))
        took, expected = time.monotonic() - begun, weights(Path(folder, "whole"))
        say(f"undisturbed: {took:.1f} s, {len(expected)} files")
        kills, ended = 0, []
        while kills < args.kills or not ended:
            home = Path(folder, f"killed-{len(ended)}")
            if wait(start(home), rng.uniform(0, took / 3) if kills < args.kills else None):
                ended.append(weights(home) == expected)
            else:
                kills += 1
                say(f"killed {kills} times")
        wait(start(home))
        ended.append(weights(home) == expected)
    print(machine())
    note = f"{kills} kills, {len(ended)} recipes came to their end, {len(expected)} files each"
    return table([Figure("killed and run again: the same bytes", sum(ended) / len(ended), "%", 1.0, note=note)])


if __name__ == "__main__":
    sys.exit(main())
