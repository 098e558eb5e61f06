"""Which examples every step trains on: a pure function of lengths, settings and seed, so a resumed run sees the same.

In: the length of every example in tokens. Out: for every step its micro-batches of example numbers. Within an epoch
every example comes once; examples of similar length share a batch, and the order of batches is random.

It does not know what an example is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

POOL = 64  # batches' worth of examples that are sorted together


def steps(
    lengths: Sequence[int], batch_tokens: int, accumulate: int, epochs: float, most: int, seed: int
) -> list[list[list[int]]]:
    """For every step `accumulate` micro-batches of at most `batch_tokens` tokens with padding (one example always
    fits). `most` steps at most, 0: as many as the epochs give."""
    found: list[list[int]] = []
    whole = int(epochs)
    for epoch in range(whole + (epochs > whole)):
        batches = list(_epoch(lengths, batch_tokens, seed, epoch))
        share = min(1.0, epochs - epoch)
        found += batches[: max(1, round(share * len(batches)))]
    grouped = [found[i : i + accumulate] for i in range(0, len(found), accumulate)]
    return grouped[:most] if most else grouped


def together(
    each: Sequence[Sequence[Sequence[Sequence[int]]]], lengths: Sequence[int], batch_tokens: int
) -> list[list[list[int]]]:
    """Several plans as one: a step has what every plan that is not over has in it, packed anew by length; in a
    micro-batch the rows of one plan are neighbours."""
    if len(each) == 1:
        return [[list(part) for part in step] for step in each[0]]
    found = []
    for step in range(max(map(len, each))):
        numbers = [i for plan in each if step < len(plan) for part in plan[step] for i in part]
        of = {i: number for number, plan in enumerate(each) if step < len(plan) for part in plan[step] for i in part}
        packs = packed(sorted(numbers, key=lambda i: lengths[i]), lengths, batch_tokens)
        found.append([sorted(pack, key=of.__getitem__) for pack in packs])
    return found


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
    """Neighbours of `numbers` together, in groups of at most `batch_tokens` with padding where `numbers` are sorted by
    length."""
    group: list[int] = []
    for i in numbers:
        if group and lengths[i] * (len(group) + 1) > batch_tokens:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
