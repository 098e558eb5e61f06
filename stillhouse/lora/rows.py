"""Which adapter slot each row of a batch uses.

In: a slot for every row, -1 for the base alone. Out: A and B of a target for these rows, and the slot of every token of
the batch when it is flattened. It does not know networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..errors import InputError
from .sites import Site
from .stacked import RowAdapters


class RowSlots:
    """The slots of a batch's rows, as the largest groups of equally many neighbouring rows that share a slot.

    `available`: slots of the bank. `wide`: each row is multiplied with the adapters of all slots (`stacked.py`).
    """

    def __init__(self, slots: Sequence[int], available: int, wide: bool) -> None:
        ends = [i + 1 for i in range(len(slots)) if i + 1 == len(slots) or slots[i] != slots[i + 1]]
        each = math.gcd(*ends)
        self.count = len(slots)
        self._slots = tuple(slots)
        self._groups = tuple(slots[::each])
        self._in_order = self._groups == tuple(range(available))
        self._distinct = sorted({s for s in slots if s >= 0})
        whole = self._distinct == list(range(available))
        self.present: slice | list[int] = slice(None) if whole else self._distinct
        self.wide = wide
        self._with_base = -1 in slots
        self._slot_N: dict[int, Tensor] = {}

    def adapters(self, tokens: int, device: torch.device, rank: int) -> RowAdapters:
        """The adapter of a linear target that each token of a flattened batch uses."""
        slot_T = self.slot_of_token(tokens, device)
        return RowAdapters(slot_T, self.present, [tokens], partial(self.columns, slot_T, rank))

    def columns(self, slot_T: Tensor, rank: int) -> Tensor | None:
        """`[T, slots present * rank]`, True in the columns of a row's own adapter; None where that is everywhere."""
        if not self._with_base and len(self._distinct) == 1:
            return None
        slot_G = torch.tensor(self._distinct, device=slot_T.device).repeat_interleave(rank)
        return slot_T[:, None] == slot_G

    def weights(self, site: Site, length: int, dims: int) -> tuple[Tensor, Tensor]:
        """A and B of a linear target for a batch of `length` rows (tokens where it has 2 `dims`): those of the one slot
        if all rows share it, else stacked by group of rows."""
        self.check(length, flat=dims == 2)
        if self._in_order:
            return site.a, site.b
        if len(self._groups) == 1:
            return site.a[self._groups[0]], site.b[self._groups[0]]
        index_G = torch.tensor(self._groups, device=site.a.device)
        a_GRI, b_GOR = (p.index_select(0, index_G.clamp(min=0)) for p in (site.a, site.b))
        if self._with_base:  # zeros in both, so that a broken adapter cannot reach the base's rows
            base_G = (index_G < 0)[:, None, None]
            a_GRI, b_GOR = a_GRI.masked_fill(base_G, 0), b_GOR.masked_fill(base_G, 0)
        return a_GRI, b_GOR

    def slot_of_token(self, tokens: int, device: torch.device) -> Tensor:
        """The slot of each token of a flattened batch, `[tokens]` int64; -1 is the base."""
        self.check(tokens, flat=True)
        if tokens not in self._slot_N:
            with torch.inference_mode(False):  # it may be kept for a backward pass that comes later
                slot_B = torch.tensor(self._slots, device=device)
                self._slot_N[tokens] = slot_B.repeat_interleave(tokens // self.count)
        return self._slot_N[tokens]

    def check(self, length: int, flat: bool) -> None:
        """`InputError` when a batch of `length` rows (flat: tokens) cannot be the one these slots were given for."""
        if length % self.count if flat else length != self.count:
            raise InputError(f"a batch of {length} {'tokens' if flat else 'rows'} with slots for {self.count} rows")
