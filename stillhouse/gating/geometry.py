"""Two axes of the geometry of hidden states along running text: C1 for sentence borders, C2 for neighbouring tokens.

In: hidden states of one passage, and which tokens begin a new sentence. Out: cosines.

- C1: mean cosine distance from a token to the next across sentence borders, minus the same inside sentences. A model
  that tells sentences apart has C1 > 0.
- C2: mean cosine of neighbouring tokens, minus the mean over all pairs of the passage. It says how far tokens that are
  near in the text are near in the model. The mean over all pairs is exact, from the squared length of the sum of unit
  vectors; no pairs are drawn.

It does not know models or layers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from ..text.language import SENTENCE_BORDER

_BEGINS = re.compile(rf"{SENTENCE_BORDER.pattern}|\n\s*\n\s*")


def begins(text: str, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """begins_T, bool: the token is the first of a new sentence or paragraph.

    `offsets`: the characters `[start, end)` of each token.
    """
    starts = [match.end() for match in _BEGINS.finditer(text) if match.end() < len(text)]
    begins_T = torch.zeros(len(offsets), dtype=torch.bool)
    for start in starts:
        first = next((t for t, (_, end) in enumerate(offsets) if end > start), None)
        if first:
            begins_T[first] = True
    return begins_T


def boundary_contrast(hidden_TH: Tensor, begins_T: Tensor) -> float | None:
    """C1 in cosine. None where no neighbours, or all of them, have a border between them."""
    across_T = begins_T[1:].to(hidden_TH.device)
    if not bool(across_T.any()) or bool(across_T.all()):
        return None
    distance_T = 1 - _next_cosine(_unit(hidden_TH))
    return float(distance_T[across_T].mean() - distance_T[~across_T].mean())


def adjacency_specificity(hidden_TH: Tensor) -> float | None:
    """C2 in cosine. None for fewer than three tokens, where there are no pairs but neighbours."""
    count = len(hidden_TH)
    if count < 3:
        return None
    unit_TH = _unit(hidden_TH)
    pairs = (float(unit_TH.sum(0).square().sum()) - float(unit_TH.square().sum())) / (count * (count - 1))
    return float(_next_cosine(unit_TH).mean()) - pairs


def _unit(hidden_TH: Tensor) -> Tensor:
    return torch.nn.functional.normalize(hidden_TH.double(), dim=-1)


def _next_cosine(unit_TH: Tensor) -> Tensor:
    """cosine_T: of every token with the next; there is one fewer than tokens."""
    return (unit_TH[:-1] * unit_TH[1:]).sum(-1)
