"""The adapters of a batch that goes on, packed for the kernel: each lies in one piece of memory, read once in a step.

In: a bank's stacked targets and, forward by forward, the slot of each row of a batch. Out: `out + scale * B A x` at
every dense target, in float32 on a CPU. An adapter is packed when it is first used, and again when its slot has been
filled anew. It is packed in bfloat16 where that loses nothing, which is so for adapters that were trained here; that
halves what a step reads. Targets that read the same input have their A's beside each other and share one product.

It does not know when rows run, or whose they are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import InputError
from .batch import Fill, Run, group_by_input
from .kernel import COLUMNS, LANES, AdapterRuns, Kernel, Target, packed_a, packed_b
from .sites import Site

_TOKENS = 16  # of one row that one thread takes at a time


class PackedAdapters:
    """`BatchAdapters` by the kernel. `adapters`: what is packed, by the slot and how often that had been filled."""

    shared = True

    def __init__(self, sites: Sequence[Site], filled: Callable[[int], int], scale: float, kernel: Kernel) -> None:
        """`filled(slot)`: how often a slot has been filled, so that another adapter in it is seen."""
        self._dense = [site for site in sites if not site.experts]
        self._even = all(site.a.shape[1] % 2 == site.a.shape[2] % 2 == 0 for site in self._dense)
        self._filled, self._scale, self._kernel = filled, scale, kernel
        self.adapters: dict[Fill, Tensor] = {}
        self._fills: list[Fill | None] = []  # of the rows, then of the runs; None: the base alone
        self._rows = 0
        self.runs: tuple[Run, ...] = ()
        self._x: Tensor | None = None  # the input that `_z_TG` was computed from, with the A's of `_group`
        self._group = -1
        self._z_TG = torch.empty(0, 0)  # with room for the longest batch so far
        self._laid_out: tuple[list[Fill | None], tuple[Run, ...], int, int] | None = None
        self._inputs: list[tuple[Site, Tensor]] | None = []  # inputs of the first forward, until targets are grouped
        self._arrange([[site] for site in self._dense])

    @torch.no_grad()
    def assign(self, slots: Sequence[int], runs: Sequence[Run] = ()) -> None:
        """As `BatchAdapters.assign`. What is packed is not packed again."""
        self.runs, self._rows = tuple(runs), len(slots)
        every = [*slots, *(slot for slot, _ in runs)]
        self._fills = [(slot, self._filled(slot)) if slot >= 0 else None for slot in every]
        for slot, _ in {fill for fill in self._fills if fill is not None and fill not in self.adapters}:
            self.prepare(slot)
        self._tokens = 0  # of a forward: its first target says how many

    @torch.no_grad()
    def prepare(self, slot: int) -> None:
        """Pack what is in a slot and drop what was packed of it before. Any thread may call while no row uses the slot;
        `assign` has nothing left to do then."""
        adapters, groups, fill = self.adapters, self.groups, (slot, self._filled(slot))
        for stale in [other for other in list(adapters) if other[0] == slot and other != fill]:
            adapters.pop(stale, None)
        adapters.setdefault(fill, _packed(slot, groups, self._even))

    def add(self, site: Site, x: Tensor, out: Tensor) -> Tensor | None:
        """As `BatchAdapters.add`, in place, with equally many tokens in each row. None: tensors that are not float32 or
        have gaps. `InputError`: another number of tokens."""
        if self._inputs is not None:
            self._inputs.append((site, x))
        if out.dtype is not torch.float32 or not out.is_contiguous():
            return None
        inner, group, _, target = self._targets[site]
        fresh = self._x is not x or self._group != group
        if fresh:
            if x.dtype is not torch.float32 or not x.is_contiguous():
                return None
            tokens = x.numel() // inner
            if tokens != self._tokens:
                self._tokens = tokens
                self._lay_out(tokens)
            self._x, self._group = x, group
        self._kernel(self._all, target, x.data_ptr(), out.data_ptr(), fresh)
        return out

    @torch.no_grad()
    def finish(self) -> None:
        """As `BatchAdapters.finish`. After the first forward targets with one input are put together."""
        self._x = None
        if self._inputs:
            groups = group_by_input(self._dense, self._inputs)
            self._inputs = None
            self._arrange(groups)

    def _lay_out(self, tokens: int) -> None:
        """Tell the kernel which tokens use which adapter, and make room; at the first target of a forward."""
        wanted = self._fills, self.runs, tokens, torch.get_num_threads()
        if wanted != self._laid_out:
            each = 1 if self.runs else tokens // max(self._rows, 1)
            many = [each] * self._rows + [count for _, count in self.runs]
            if sum(many) != tokens:  # the kernel would write beyond them
                raise InputError(f"a batch of {tokens} tokens with slots for {sum(many)}")
            parts: list[tuple[Tensor | None, int]] = []
            for fill, count in zip(self._fills, many, strict=True):
                adapter = None if fill is None else self.adapters[fill]
                parts += [(adapter, min(_TOKENS, count - start)) for start in range(0, count, _TOKENS)]
            self._parts = AdapterRuns(parts, wanted[-1])
            self._all, self._laid_out = ctypes.addressof(self._parts), wanted
        if tokens > len(self._z_TG):
            self._z_TG = torch.empty(tokens, self._z_TG.shape[1])
            for _, _, target, _ in self._targets.values():
                target.z = self._z_TG.data_ptr()

    def _arrange(self, groups: Sequence[Sequence[Site]]) -> None:
        self.groups, self.adapters, self._laid_out = groups, {}, None
        self._targets: dict[Site, tuple[int, int, Target, int]] = {}
        ranks = [_up(sum(site.a.shape[1] for site in sites), LANES) for sites in groups]
        a, b = 0, sum(many * sites[0].a.shape[2] for many, sites in zip(ranks, groups, strict=True))
        for number, (many, sites) in enumerate(zip(ranks, groups, strict=True)):
            first, inner = 0, sites[0].a.shape[2]
            for site in sites:
                outer, rank = site.b.shape[1:]
                target = Target(inner, many, a, first, rank, outer, b, None, self._scale)
                self._targets[site] = inner, number, target, ctypes.addressof(target)
                first, b = first + rank, b + rank * _up(outer, COLUMNS)
            a += many * inner
        self._z_TG = torch.empty(0, max(ranks, default=0))


def _packed(slot: int, groups: Sequence[Sequence[Site]], even: bool) -> Tensor:
    """One adapter, flat: in bfloat16 where that loses nothing and its sizes are `even`."""
    stacked = [t for sites in groups for site in sites for t in (site.a, site.b)]
    narrow = even and all(torch.equal(t[slot].bfloat16(), t[slot]) for t in stacked)
    dtype = torch.bfloat16 if narrow else torch.float32
    flat = [packed_a([site.a[slot].to(dtype) for site in sites], narrow) for sites in groups]
    return torch.cat([*flat, *(packed_b(site.b[slot].to(dtype), narrow) for sites in groups for site in sites)])


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
