"""The prefix tree of a batch's rows: what rows begin with in common is computed once.

In: rows of token ids, each with a root; rows of different roots (another text before them, another adapter) share
nothing. Out: the node of every token, and the tokens that are computed once for all that share their node. A causal
network computes the same for all tokens of one node, whatever batch they are in.

It does not know networks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import repeat

import torch

from ..compute.attention import Distinct

FEW = 8  # rows up to which sharing is not tried
LONG = 256  # tokens of a row from which on attention by plain products, with all scores at once, costs more
SHARED = 0.8  # part of all tokens that the nodes may be


def prefix_nodes(rows: Iterable[Sequence[int]], roots: Iterable[Hashable] | None = None) -> list[list[int]]:
    """The node of every token of every row, numbered from 0 as they first occur. Two tokens have one node where their
    rows have one root and begin the same up to them. `roots` None: all rows have the same."""
    children: dict[tuple[Hashable, int], int] = {}  # of a node or a root, by token
    nodes = []
    for row, root in zip(rows, roots if roots is not None else repeat(None), strict=roots is not None):
        node: Hashable = (root,)  # no number
        path = []
        for token in row:
            number = children.setdefault((node, token), len(children))
            path.append(number)
            node = number
        nodes.append(path)
    return nodes


def worth_sharing(rows: Sequence[Sequence[int]], roots: Sequence[Hashable] | None = None) -> bool:
    """Whether a forward that computes every node once costs less than a plain forward of all tokens: not for few rows,
    nor for long ones, nor where they have little in common."""
    if len(rows) <= FEW or max(map(len, rows)) > LONG:
        return False
    distinct = {node for path in prefix_nodes(rows, roots) for node in path}
    return len(distinct) <= SHARED * sum(map(len, rows))


def distinct_tokens(
    rows: Sequence[Sequence[int]], roots: Sequence[Hashable], starts: Sequence[int], width: int, device: torch.device
) -> Distinct:
    """A token for every node of rows that stand in `width` columns, row i from `starts[i]` on. Columns before and
    behind a row are given node 0, which means nothing there."""
    source: list[int] = []
    places = []
    for row, (start, path) in enumerate(zip(starts, prefix_nodes(rows, roots), strict=True)):
        for cell, node in enumerate(path, row * width + start):
            if node == len(source):
                source.append(cell)
        places += [0] * start + path + [0] * (width - start - len(path))
    return Distinct(torch.tensor(places, device=device), torch.tensor(source, device=device))
