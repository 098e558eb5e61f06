"""Examine the tiny model: `python -m tiny.evaluate [MODEL]` (`make tiny-eval`). Exit code 1 when a figure falls short.

In: a model directory (default: the one in the package). Out: a table of rates of right answers on memories made with a
seed no training step used. Values are unseen random words, numbers, codes and dates; "unseen relations" draws relation
words that no training document contains, a third of them invented on the spot.
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
import time

import torch

from stillhouse import models
from stillhouse.capture.memory.questions import candidates
from stillhouse.capture.memory.teacher import MemoryTeacher
from stillhouse.generate import Sampling
from stillhouse.records import Statement
from stillhouse.signals.sparsify import Sparsity
from stillhouse.text.answers import Expected, foils, grade
from stillhouse.text.language import is_unknown
from stillhouse.text.prompts import UNKNOWN_ANSWER, writing_request

from . import world as W

SEED = 7


def memories(world: W.World, n: int, sizes: tuple[int, int], seed: int = SEED) -> list[W.Memory]:
    rng = random.Random(f"evaluate/{seed}/{world}")
    return [W.make_memory(rng, world, rng.randint(*sizes), n_unknown=4) for _ in range(n)]


def open_book(model: models.Model, found: list[W.Memory], verbose: bool) -> dict[str, list[bool]]:
    """Right or wrong of every question: known facts (each in two wordings and one reverse) and unknown ones."""
    marks: dict[str, list[bool]] = {"known": [], "reverse": [], "unknown": []}
    for number, memory in enumerate(found):
        rng, values = random.Random(number), [f.answer for f in memory.facts]
        asked = [("known", q, f.answer) for f in memory.facts for q in rng.sample(f.questions, 2)]
        asked += [("reverse", *rng.choice(f.reverse)) for f in memory.facts]
        asked += [("unknown", rng.choice(f.questions), UNKNOWN_ANSWER) for f in memory.unknown]
        reading = MemoryTeacher(model, memory.text, Sparsity(), 0)
        for (kind, question, expected), reply in zip(
            asked, reading.write([a[1] for a in asked], Sampling(24)), strict=True
        ):
            against = foils(expected, question, values) if kind == "known" else ()
            right = grade(reply, Expected(expected, (), against, question)).correct
            marks[kind].append(right)
            if verbose and not right:
                print(f"  {kind}: {question} -> {reply!r}, expected {expected!r}", file=sys.stderr)
    return marks


def closed_book(model: models.Model, found: list[W.Memory]) -> list[bool]:
    """Whether the base, without any memory, says that it does not know."""
    rng = random.Random(SEED)
    asked = [rng.choice(f.questions) for memory in found for f in memory.facts]
    replies = MemoryTeacher(model, None, Sparsity(), 0).write(asked, Sampling(24))
    return [is_unknown(reply) for reply in replies]


def world_book(model: models.Model) -> list[bool]:
    """What it knows without a memory: capitals, opposites, days."""
    pairs = W.world_questions()
    replies = MemoryTeacher(model, None, Sparsity(), 0).write([q for q, _ in pairs], Sampling(24))
    return [grade(r, Expected(answer, question=q)).correct for r, (q, answer) in zip(replies, pairs, strict=True)]


def written(model: models.Model, found: list[W.Memory], verbose: bool) -> list[bool]:
    """Whether a statement gets four usable forward wordings or more and a reverse question at the first asking."""
    marks = []
    for memory in found:
        reading = MemoryTeacher(model, memory.text, Sparsity(), 0)
        requests = [writing_request(f.statement, W.WRITER_WORDINGS) for f in memory.facts]
        for fact, reply in zip(memory.facts, reading.write(requests, Sampling(240)), strict=True):
            usable = candidates(reply, Statement(0, 0, 0, fact.statement))
            forward = sum(q.direction == "forward" and grade(q.answer, Expected(fact.answer)).correct for q in usable)
            marks.append(forward >= 4 and any(q.direction == "reverse" for q in usable))
            if verbose and not marks[-1]:
                print(f"  writing: {fact.statement}\n{reply}", file=sys.stderr)
    return marks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=models.DEFAULT)
    parser.add_argument("--memories", type=int, default=60)
    parser.add_argument("--verbose", action="store_true", help="print every wrong answer")
    args = parser.parse_args()
    model = models.load(args.model)
    start = time.monotonic()
    seen = open_book(model, memories(W.World(), args.memories, (8, 12)), args.verbose)
    unseen = open_book(model, memories(W.World(unseen=True), args.memories, (8, 12)), args.verbose)
    long = open_book(model, memories(W.World(), 3, (50, 60)), args.verbose)
    few = memories(W.World(unseen=True), max(4, args.memories // 4), (8, 12), seed=SEED + 1)
    rows = [
        ("teacher with memory, unseen values", seen["known"], 0.95),
        ("the same, reverse direction", seen["reverse"], None),
        ("the same, question the memory does not answer", seen["unknown"], None),
        ("relation words never seen in training", unseen["known"], 0.85),
        ("the same, reverse direction", unseen["reverse"], None),
        ("the same, question the memory does not answer", unseen["unknown"], None),
        ("memory of 50 to 60 statements", long["known"], None),
        ("base without memory says it does not know", closed_book(model, memories(W.World(), 40, (8, 12))), 0.95),
        ("base without memory knows capitals, opposites, days", world_book(model), None),
        ("writes >= 4 wordings and a reverse question, unseen relations", written(model, few, args.verbose), None),
    ]
    short = False
    print(
        f"model {args.model} ({model.fingerprint[:12]}), {platform.processor() or platform.machine()}, "
        f"torch {torch.__version__}"
    )
    for name, marks, least in rows:
        rate = sum(marks) / len(marks)
        short |= least is not None and rate < least
        target = f"at least {least:.0%}" if least else ""
        print(f"{name:<64} {rate:>7.1%}  n={len(marks):<5} {target}")
    print(f"{time.monotonic() - start:.0f} s")
    return int(short)


if __name__ == "__main__":
    sys.exit(main())
