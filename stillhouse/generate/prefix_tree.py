"""What rows of a batch have in common before they part, so that it is computed once.

In: rows of token ids, each of a kind (rows of different kinds have nothing in common). Out: which tokens are the first
with the same before them, and the way from those to the rows and back. It does not know networks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import repeat

import torch

from ..compute.attention import Distinct

FEW, LONG, ALIKE = 8, 256, 0.8  # rows and tokens of one; part of all tokens that beginnings are where it is worth it


def beginnings(rows: Iterable[Sequence[int]], kinds: Iterable[Hashable] | None = None) -> list[list[int]]:
    """Of every token of every row a number, the same where rows of one kind begin the same up to it; new ones count up.
    A causal network makes the same of both up to there, whatever batch they are in."""
    places: dict[tuple[Hashable, int], int] = {}  # of a tree: where a token leads from a place
    found = []
    for row, kind in zip(rows, kinds if kinds is not None else repeat(None), strict=kinds is not None):
        place: Hashable = (kind,)  # no number
        numbers = []
        for token in row:
            number = places.setdefault((place, token), len(places))
            numbers.append(number)
            place = number
        found.append(numbers)
    return found


def much_alike(rows: Sequence[Sequence[int]], kinds: Sequence[Hashable] | None = None) -> bool:
    """Whether rows have so much in common that computing it once costs less than a plain forward of all. What attends
    is then not the network's own, and has each token's scores there at once: not for few rows, nor long ones."""
    if len(rows) <= FEW or max(map(len, rows)) > LONG:
        return False
    distinct = {number for numbers in beginnings(rows, kinds) for number in numbers}
    return len(distinct) <= ALIKE * sum(map(len, rows))


def distinct_tokens(
    rows: Sequence[Sequence[int]], kinds: Sequence[Hashable], starts: Sequence[int], width: int, device: torch.device
) -> Distinct:
    """The beginnings of rows that stand in `width` columns, each from its own column on; what padding gets means
    nothing."""
    source: list[int] = []
    places = []
    for row, (start, numbers) in enumerate(zip(starts, beginnings(rows, kinds), strict=True)):
        for column, number in enumerate(numbers, row * width + start):
            if number == len(source):
                source.append(column)
        places += [0] * start + numbers + [0] * (width - start - len(numbers))
    return Distinct(torch.tensor(places, device=device), torch.tensor(source, device=device))
