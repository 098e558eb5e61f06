"""Which examples every step trains on.

In: the length of every example in tokens. Out: for every step its micro-batches of example numbers. Within an epoch
every example comes once. Examples of similar length share a batch, and the order of batches is random. All of it is a
function of lengths, settings and seed alone, so a resumed run sees the same batches.

It does not know what an example is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

POOL = 64  # batches' worth of examples that are sorted together


def steps(
    lengths: Sequence[int], batch_tokens: int, accumulate: int, epochs: float, most: int, seed: int
) -> list[list[list[int]]]:
    """For every step `accumulate` micro-batches of at most `batch_tokens` tokens, padding included.

    One example always fits. There are at most `most` steps; 0 means as many as the epochs give.
    """
    micro_batches: list[list[int]] = []
    whole = int(epochs)
    for epoch in range(whole + (epochs > whole)):
        batches = list(_epoch(lengths, batch_tokens, seed, epoch))
        share = min(1.0, epochs - epoch)
        micro_batches += batches[: max(1, round(share * len(batches)))]
    grouped = [micro_batches[i : i + accumulate] for i in range(0, len(micro_batches), accumulate)]
    return grouped[:most] if most else grouped


def together(
    each: Sequence[Sequence[Sequence[Sequence[int]]]], lengths: Sequence[int], batch_tokens: int
) -> list[list[list[int]]]:
    """The steps of several plans, taken together.

    Step n holds the examples that each plan has in its step n, packed anew by length. In a micro-batch the rows of one
    plan are neighbours. A plan that is over adds nothing.
    """
    if len(each) == 1:
        return [[list(part) for part in step] for step in each[0]]
    merged = []
    for step in range(max(map(len, each))):
        numbers = [i for plan in each if step < len(plan) for part in plan[step] for i in part]
        plan_of = {
            i: number for number, plan in enumerate(each) if step < len(plan) for part in plan[step] for i in part
        }
        packs = packed(sorted(numbers, key=lambda i: lengths[i]), lengths, batch_tokens)
        merged.append([sorted(pack, key=plan_of.__getitem__) for pack in packs])
    return merged


def _epoch(lengths: Sequence[int], batch_tokens: int, seed: int, epoch: int) -> Iterator[list[int]]:
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    mean = max(1, sum(lengths) // len(lengths))
    pool = max(1, POOL * batch_tokens // mean)
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        batches += packed(sorted(order[start : start + pool], key=lambda i: lengths[i]), lengths, batch_tokens)
    rng.shuffle(batches)
    yield from batches


def packed(numbers: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """`numbers`, sorted by length, cut into groups of at most `batch_tokens` tokens with padding."""
    group: list[int] = []
    for i in numbers:
        if group and lengths[i] * (len(group) + 1) > batch_tokens:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
