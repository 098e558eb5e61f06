"""Adapters of rows that are being answered, for the kernel: each lies in one piece of memory, read once in a step.

In: a bank's stacked targets and, forward by forward, the slot of each row of a batch. Out: `out + scale * B A x` at
every dense target, in float32 on a CPU. An adapter is packed when it first comes, and again when its slot has been
filled anew: in bfloat16 where that loses nothing, as it is with adapters that were trained here, which halves what a
step reads. Targets that read the same input (q, k and v; gate and up) have their A's beside each other and share one
product; which ones do is seen in the first forward. Without gradients only.

It does not know when rows run, or whose they are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import InputError
from .gathered import Run, Slot, together
from .kernel import COLUMNS, LANES, Kernel, Runs, Target, blocks, columns
from .sites import Site

_TOKENS = 16  # of one row that one thread takes at a time


class Packed:
    """The packed adapters of a bank. `choose` says which slot each row has; then the bank's targets call `add`."""

    any_batch = True  # rows of several batches in turns cost nothing

    def __init__(self, sites: Sequence[Site], filled: Callable[[int], int], scale: float, kernel: Kernel) -> None:
        """`filled(slot)`: how often a slot has been filled, so that another adapter in it is seen."""
        self._dense = [site for site in sites if not site.experts]
        self._even = all(site.a.shape[1] % 2 == site.a.shape[2] % 2 == 0 for site in self._dense)
        self._filled, self._scale, self._kernel = filled, scale, kernel
        self._adapters: dict[Slot, Tensor] = {}
        self._slots: list[Slot | None] = []  # of the rows, then of the runs
        self._rows = 0
        self.runs: tuple[Run, ...] = ()
        self._x: Tensor | None = None  # the input whose product with the A's of this group is there
        self._group = -1
        self._z_TG = torch.empty(0, 0)  # that product, with room for as many tokens as ever came
        self._laid_out: tuple[list[Slot | None], tuple[Run, ...], int, int] | None = None
        self._seen: list[tuple[Site, Tensor]] | None = []  # inputs of the first forward, until targets are grouped
        self._arrange([[site] for site in self._dense])

    @torch.no_grad()
    def choose(self, slots: Sequence[int], runs: Sequence[Run] = ()) -> None:
        """Row i uses slot `slots[i]`, -1 is the base alone. What is packed is not packed again. With `runs`, the next
        forward is over one flat row: a token of each row, then the tokens of each run."""
        self.runs, self._rows = tuple(runs), len(slots)
        every = [*slots, *(slot for slot, _ in runs)]
        self._slots = [(slot, self._filled(slot)) if slot >= 0 else None for slot in every]
        for slot, _ in {slot for slot in self._slots if slot is not None and slot not in self._adapters}:
            self.pack(slot)
        self._tokens = 0  # of a forward: its first target says how many

    @torch.no_grad()
    def pack(self, slot: int) -> None:
        """Pack what is in a slot, and let go of what was. Any thread may, while no row uses it: then `choose` finds it
        done."""
        adapters, groups, key = self._adapters, self._groups, (slot, self._filled(slot))
        for stale in [other for other in list(adapters) if other[0] == slot and other != key]:
            adapters.pop(stale, None)
        adapters.setdefault(key, _pack(slot, groups, self._even))

    def add(self, site: Site, x: Tensor, out: Tensor) -> Tensor | None:
        """`out + scale * B A x`, in place; x `[..., in]` and out `[..., out]` in row order, as many tokens in each row.
        None: not for the kernel, which takes float32 without gaps. `InputError`: another number of tokens."""
        if self._seen is not None:
            self._seen.append((site, x))
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
    def rest(self) -> None:
        """After a forward: let go of inputs; after the first, put targets together that had the same one."""
        self._x = None
        if self._seen:
            groups = together(self._dense, self._seen)
            self._seen = None
            self._arrange(groups)

    def _lay_out(self, tokens: int) -> None:
        """The first target of a forward over so many tokens."""
        wanted = self._slots, self.runs, tokens, torch.get_num_threads()
        if wanted != self._laid_out:
            each = 1 if self.runs else tokens // max(self._rows, 1)
            many = [each] * self._rows + [count for _, count in self.runs]
            if sum(many) != tokens:  # the kernel would write beyond them
                raise InputError(f"a batch of {tokens} tokens with slots for {sum(many)}")
            parts: list[tuple[Tensor | None, int]] = []
            for slot, count in zip(self._slots, many, strict=True):
                adapter = None if slot is None else self._adapters[slot]
                parts += [(adapter, min(_TOKENS, count - start)) for start in range(0, count, _TOKENS)]
            self._parts = Runs(parts, wanted[-1])
            self._all, self._laid_out = ctypes.addressof(self._parts), wanted
        if tokens > len(self._z_TG):
            self._z_TG = torch.empty(tokens, self._z_TG.shape[1])
            for _, _, target, _ in self._targets.values():
                target.z = self._z_TG.data_ptr()

    def _arrange(self, groups: Sequence[Sequence[Site]]) -> None:
        self._groups, self._adapters, self._laid_out = groups, {}, None
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


def _pack(slot: int, groups: Sequence[Sequence[Site]], even: bool) -> Tensor:
    """One adapter, flat: in bfloat16 where that loses nothing and its sizes are `even`."""
    stacked = [t for sites in groups for site in sites for t in (site.a, site.b)]
    half = even and all(torch.equal(t[slot].bfloat16(), t[slot]) for t in stacked)
    kept = torch.bfloat16 if half else torch.float32
    flat = [columns([site.a[slot].to(kept) for site in sites], half) for sites in groups]
    return torch.cat([*flat, *(blocks(site.b[slot].to(kept), half) for sites in groups for site in sites)])


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
