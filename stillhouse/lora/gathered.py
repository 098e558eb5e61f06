"""The adapters of a batch that goes on, gathered by row: copied once per row, kept while rows come and go.

In: a bank's stacked targets and, step by step, the slot of each row of a batch. Out: `out + scale * B A x` at every
dense target, as the bank's other ways give it. A row that joins or leaves costs a copy of one adapter. Targets that
read the same input have their A's on top of each other and share one product.

It does not know when rows run, or whose they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .batch import Fill, Run, group_by_input
from .sites import Site

BASE: Fill = (-1, 0)


class _InputGroup:
    """Targets with one input: `a_NGI` of all of them on top of each other, `b_NRO` of each; rows beyond N are spare."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = tuple(sites)
        self._ranks = [site.a.shape[1] for site in sites]
        self.a_NGI = self._a_NGI = sites[0].a.new_empty(0)
        self.b_NRO: list[Tensor] = []
        self._b_NRO: list[Tensor] = []
        self._x: Tensor | None = None
        self._z_NTR: Sequence[Tensor] = ()
        self._z_run_TR: dict[int, Sequence[Tensor]] = {}

    def allocate(self, rows: int) -> None:
        """Room for this many rows."""
        rank = sum(self._ranks)
        self.a_NGI = self.sites[0].a.new_empty(rows, rank, self.sites[0].a.shape[2])
        self.b_NRO = [site.b.new_empty(rows, *site.b.shape[:0:-1]) for site in self.sites]

    def copy(self, row: int, slot: int) -> None:
        """Copy a slot to a row; -1: zeros."""
        for site, b_NRO, a_NRI in zip(self.sites, self.b_NRO, self.a_NGI.split(self._ranks, 1), strict=True):
            for here, there in ((a_NRI[row], site.a), (b_NRO[row], site.b.mT)):
                here.zero_() if slot < 0 else here.copy_(there[slot])

    def use(self, rows: int) -> None:
        """The first `rows` rows are in use. Views of them are made once, not at every target of every step."""
        self._a_NGI = self.a_NGI[:rows]
        self._b_NRO = [b_NRO[:rows] for b_NRO in self.b_NRO]

    def add(self, place: int, x: Tensor, x_NTI: Tensor, out_NTO: Tensor, scale: float) -> Tensor:
        """`out + scale * B A x`, in place where the types allow, for target number `place`. `x`: to know it again."""
        exact = out_NTO.dtype == self._a_NGI.dtype
        if self._x is not x:
            narrow = x_NTI if exact else x_NTI.to(self._a_NGI.dtype)
            z_NTG = torch.bmm(self._a_NGI, narrow.transpose(1, 2)).transpose(1, 2)
            self._x, self._z_NTR, self._z_run_TR = x, z_NTG.split(self._ranks, 2), {}
        z_NTR, b_NRO = self._z_NTR[place], self._b_NRO[place]
        if exact:
            return out_NTO.baddbmm_(z_NTR, b_NRO, alpha=scale)
        return (out_NTO + scale * torch.bmm(z_NTR, b_NRO)).to(out_NTO.dtype)

    def add_run(self, place: int, row: int, x_TI: Tensor, out_TO: Tensor, scale: float) -> None:
        """The same for many tokens of one row, in place; after `add`, with tokens of the same input."""
        if row not in self._z_run_TR:
            a_GI = self.a_NGI[row]
            self._z_run_TR[row] = (x_TI.to(a_GI.dtype) @ a_GI.T).split(self._ranks, 1)
        z_TR, b_RO = self._z_run_TR[row][place], self.b_NRO[place][row]
        if out_TO.dtype == z_TR.dtype:
            out_TO.addmm_(z_TR, b_RO, alpha=scale)
        else:
            out_TO += (scale * (z_TR @ b_RO)).to(out_TO.dtype)

    def forget(self) -> None:
        """Drop the last input and what was computed from it."""
        self._x, self._z_NTR, self._z_run_TR = None, (), {}


class GatheredAdapters:
    """`BatchAdapters` by torch's operators."""

    shared = False  # rows of another batch would be gathered in place of these

    def __init__(self, sites: Sequence[Site], filled: Callable[[int], int], scale: float) -> None:
        """`filled(slot)`: how often a slot has been filled, so that another adapter in it is seen."""
        self._dense = [site for site in sites if not site.experts]
        self._filled, self._scale = filled, scale
        self._copied: list[Fill | None] = []  # what each row's weights are copies of
        self._rows = self._capacity = 0
        self.runs: tuple[Run, ...] = ()
        self._inputs: list[tuple[Site, Tensor]] | None = []  # inputs of the first forward, until targets are grouped
        self._arrange([[site] for site in self._dense])

    @torch.no_grad()
    def assign(self, slots: Sequence[int], runs: Sequence[Run] = ()) -> None:
        """As `BatchAdapters.assign`. A row that has the adapter it had is not copied again."""
        self.runs = tuple(runs)
        every = [*slots, *(slot for slot, _ in runs)]
        wanted = [(slot, self._filled(slot)) if slot >= 0 else BASE for slot in every]
        if len(wanted) > self._capacity:
            self._allocate(max(len(wanted), self._capacity + self._capacity // 2))
        for row, (fill, copied) in enumerate(zip(wanted, self._copied, strict=False)):
            if fill != copied:
                for group in self.groups:
                    group.copy(row, fill[0])
                self._copied[row] = fill
        if self._rows != len(slots):
            self._view(len(slots))

    def prepare(self, slot: int) -> None:
        """Nothing: a slot is gathered when a row takes it."""

    def add(self, site: Site, x: Tensor, out: Tensor) -> Tensor:
        """As `BatchAdapters.add`, for all tensors."""
        if self._inputs is not None:
            self._inputs.append((site, x))
        group, place = self._place[site]
        if self.runs:
            return self._add_flat(group, place, x, out)
        if x.dim() == 3 and len(x) == self._rows:
            return group.add(place, x, x, out, self._scale)
        rows, inner, outer = self._rows, x.shape[-1], out.shape[-1]
        added = group.add(place, x, x.reshape(rows, -1, inner), out.reshape(rows, -1, outer), self._scale)
        return added.view(out.shape)

    def _add_flat(self, group: _InputGroup, place: int, x: Tensor, out: Tensor) -> Tensor:
        x_TI, out_TO = x.reshape(-1, x.shape[-1]), out.reshape(-1, out.shape[-1])
        rows_N1O, end = out_TO[: self._rows, None], self._rows
        added_N1O = group.add(place, x, x_TI[:end, None], rows_N1O, self._scale)
        if added_N1O is not rows_N1O:
            rows_N1O.copy_(added_N1O)
        for row, (slot, tokens) in enumerate(self.runs, self._rows):
            here = slice(end, end + tokens)
            if slot >= 0:
                group.add_run(place, row, x_TI[here], out_TO[here], self._scale)
            end += tokens
        return out_TO.view(out.shape)

    @torch.no_grad()
    def finish(self) -> None:
        """As `BatchAdapters.finish`. After the first forward targets with one input are put together."""
        for group in self.groups:
            group.forget()
        if self._inputs:
            groups = group_by_input(self._dense, self._inputs)
            self._inputs = None
            self._arrange(groups)

    def _arrange(self, groups: Sequence[Sequence[Site]]) -> None:
        self.groups = [_InputGroup(sites) for sites in groups]
        self._place = {site: (group, i) for group in self.groups for i, site in enumerate(group.sites)}
        self._allocate(self._capacity)

    def _allocate(self, rows: int) -> None:
        for group in self.groups:
            group.allocate(rows)
        self._capacity, self._copied = rows, [None] * rows
        self._view(0)

    def _view(self, rows: int) -> None:
        self._rows = rows
        for group in self.groups:
            group.use(rows)
