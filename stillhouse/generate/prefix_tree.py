"""What rows of a batch have in common before they part, so that it is computed once.

In: rows of token ids, each of a kind (rows of different kinds have nothing in common). Out: which tokens are the first
with the same before them, and the way from those to the rows and back. It does not know networks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import repeat

import torch
from torch import Tensor

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


class Alike:
    """B rows in T columns, each from its own column on, and their U beginnings."""

    def __init__(
        self, rows: Sequence[Sequence[int]], kinds: Sequence[Hashable], starts: Sequence[int], width: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        numbers = beginnings(rows, kinds)
        firsts: list[tuple[int, int]] = []
        places = []
        for row, (start, own) in enumerate(zip(starts, numbers, strict=True)):
            for column, number in enumerate(own, start):
                if number == len(firsts):
                    firsts.append((row, column))
            places.append([0] * start + own + [0] * (width - start - len(own)))
        self.row_of = [row for row, _ in firsts]  # of each beginning, the first row that has it
        self.place_BT = torch.tensor(places, device=device)
        self.back_U = torch.tensor([row * width + column for row, column in firsts], device=device)

    def once(self, values_BTX: Tensor) -> Tensor:
        """Of every beginning, `[U, ...]`."""
        return values_BTX.flatten(0, 1).index_select(0, self.back_U)

    def rows(self, values_UX: Tensor) -> Tensor:
        """Of every column of every row, `[B, T, ...]`; what padding gets means nothing."""
        found: Tensor = values_UX.index_select(0, self.place_BT.flatten()).unflatten(0, self.place_BT.shape)
        return found
