"""Does reading a memory once pay? Capture of 40 queries over a 1,500-token memory, with a shared prefill and without.

    python benchmarks/capture_prefix.py [--model REF] [--quick]

Both ways answer the same 40 questions in one batch and keep the same sparse signals. `shared` prefills the memory once
(timed with it) and every query attends to those keys and values; `not shared` has the memory in every row of the batch,
which is what a loop over prompts does at its best. Answers are compared first; then the two are timed in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, in_turns, machine, say, spread, table
from benchmarks._memories import long_text
from stillhouse import models
from stillhouse.capture.memory.teacher import MemoryTeacher, TeacherAnswer
from stillhouse.signals.sparsify import Sparsity

TARGET = 5.0


def capture(model: models.Model, text: str, questions: list[str], share: bool) -> list[TeacherAnswer]:
    """What self-study asks of a teacher for one chunk: read it, answer everything, keep the distributions."""
    return MemoryTeacher(model, text, Sparsity(), 0, share=share).answer(questions)


def disagreements(left: list[TeacherAnswer], right: list[TeacherAnswer]) -> tuple[int, float]:
    """How many texts differ, and the largest difference of the likeliest token's log-probability (nats)."""
    pairs = list(zip(left, right, strict=True))
    apart = [
        abs(a.logprobs[0] - b.logprobs[0])
        for one, other in pairs
        if one.ids == other.ids
        for a, b in zip(one.targets, other.targets, strict=True)
    ]
    return sum(one.text != other.text for one, other in pairs), max(apart, default=float("nan"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="8 queries over 300 tokens, once")
    args = parser.parse_args()
    if args.quick:
        args.queries, args.tokens, args.rounds = 8, 300, 1
    model = models.load(args.model)
    text, questions = long_text("prefix", args.tokens, lambda t: len(model.text_ids(t)))
    asked = [questions[i * len(questions) // args.queries] for i in range(args.queries)]
    print(machine())
    print(f"{args.queries} queries over {len(model.text_ids(text))} tokens, model {args.model}")
    say("comparing answers")
    shared, alone = (capture(model, text, asked, share) for share in (True, False))
    different, apart = disagreements(shared, alone)
    for one, other in zip(shared, alone, strict=True):
        if one.text != other.text:
            print(f"  {one.prompt} -> {one.text!r} shared, {other.text!r} not shared")
    say("timing")
    fast, slow = in_turns(
        lambda: capture(model, text, asked, True), lambda: capture(model, text, asked, False), args.rounds
    )
    print(f"shared      {spread(fast)}\nnot shared  {spread(slow)}")
    ratio = statistics.median(slow) / statistics.median(fast)
    target = None if args.quick else TARGET
    return table(
        [
            Figure("answers that differ", different, "", 0, at_least=False, note=f"of {args.queries}"),
            Figure("largest difference of a log-probability, nats", apart),
            Figure("shared prefill is faster by", ratio, "x", target),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
