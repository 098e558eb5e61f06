"""Does it pay to ask many teachers at once? Memories of 10 statements captured in one batch, and one after another.

    python benchmarks/capture_together.py [--model REF] [--memories 8] [--quick]

Both ways capture the same memories. What they studied and the signals' tokens are compared first; then the two are
timed in turns, on one thread, as each of many processes computes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, in_turns, machine, say, spread, table
from benchmarks._memories import users
from stillhouse import models
from stillhouse.capture.memory import CapturedMemory, capture, capture_all
from stillhouse.compute.allocator import kept_memory
from stillhouse.compute.threads import kept_to


def together(model: models.Model, memories: list[str]) -> list[CapturedMemory]:
    """All in one batch, in the order given."""
    return [found for _, found in sorted(capture_all(model, memories), key=lambda pair: pair[0])]


def alike(left: CapturedMemory, right: CapturedMemory) -> bool:
    """The same questions and answers, and the same tokens in every example."""
    return left.study == right.study and [a.x_ids for a in left.artifacts] == [a.x_ids for a in right.artifacts]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--memories", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="2 memories, once")
    args = parser.parse_args()
    if args.quick:
        args.memories, args.rounds = 2, 1
    model = models.load(args.model)
    memories = [m.text for m in users("together", args.memories, sizes=(10, 10), noise=0.0).values()]
    print(machine())
    with kept_memory(), kept_to(1):
        say("comparing what is captured")
        pairs = zip(together(model, memories), [capture(model, text) for text in memories], strict=True)
        same = sum(alike(left, right) for left, right in pairs)
        at_once, in_turn = in_turns(
            lambda: together(model, memories), lambda: [capture(model, text) for text in memories], args.rounds
        )
    print(f"{len(memories)} together            {spread(at_once)}")
    print(f"{len(memories)} one after another   {spread(in_turn)}")
    first, second = (statistics.median(seconds) / len(memories) for seconds in (at_once, in_turn))
    return table(
        [
            Figure("captured alike", same / len(memories), "%", note=f"{len(memories)} memories"),
            Figure("together is faster, per memory", second / first, "x", note=f"{second:.2f} s -> {first:.2f} s"),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
