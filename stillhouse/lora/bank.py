"""LoRA for several users on one frozen network: every row of a batch picks its own adapter.

In: a transformers causal LM and, per batch, the slot of each row. Out: the network's own forward, with
`W x + (alpha / rank) B A x` at every target (Hu et al. 2021, arXiv 2106.09685). All slots of a target are stacked in
one tensor, so one forward trains or serves many adapters at once, and stacked parameters keep an elementwise optimiser
(Adam, SGD) apart per slot. Adapters come and go in PEFT's names and shapes (`docs/formats/adapter.md`).

It does not know users, files, losses or optimisers. It follows modules' own forwards; the base weights are neither
copied nor changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..compute.patch import follow
from ..compute.tensor_version import version_of
from ..errors import InputError
from . import experts, peft
from .gathered import Held, Run
from .kernel import rows_kernel
from .packed import Packed
from .sites import LoraConfig, Site, find_sites
from .stacked import Owners, add_wide

__all__ = ["AdapterBank", "Held", "LoraConfig", "Packed", "Run", "Site"]

DEFAULT = LoraConfig()


class AdapterBank:
    """`slots` adapters stacked per target of `network`; a slot equals the base alone until `reset` or `load`.

    Parameters are float32 on a CPU and the network's own type on an accelerator. The network's parameters stop
    requiring gradients until `detach`. `ModelError` when the network has nothing to adapt.
    """

    def __init__(self, network: PreTrainedModel, slots: int, config: LoraConfig = DEFAULT) -> None:
        if slots < 1:
            raise InputError(f"slots: {slots} is not a positive number of adapters")
        with torch.inference_mode(False):
            self._sites = find_sites(network, slots, config)
        self.config = config
        self.slots = slots
        self.scale = config.alpha / config.rank
        self.training = False
        """Whether inputs are dropped as `config.dropout` says, by torch's global generator."""
        self._rows: _Rows | None = None
        self._held: Held | Packed | None = None
        self._filled = [0] * slots
        self._targets = peft.targets(network, self._sites)
        self._thawed = [p for p in network.parameters() if p.requires_grad]
        for parameter in self._thawed:
            parameter.requires_grad_(False)
        self._undo = list(self._attach())

    def parameters(self) -> list[nn.Parameter]:
        """All stacked parameters: A_NRI `[slots, rank, in]` and B_NOR `[slots, out, rank]` of every linear target,
        A_NERI `[slots, experts, rank, in]` and B_NERO `[slots, experts, rank, out]` of stacked experts.

        A slot without rows in a batch has gradient 0; an optimiser's momentum still moves it.
        """
        return [p for site in self._sites for p in (site.a, site.b)]

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every adapted weight, with A and B of all slots."""
        return tuple(self._sites)

    @contextmanager
    def rows(self, slots: Sequence[int] | None, wide: bool = False) -> Iterator[None]:
        """Inside: row i of a batch uses slot `slots[i]`; -1 is the base alone, and None is that for all rows.

        Equally many neighbouring rows per slot are one product per target; any other order costs one small product
        per row. `wide`: every row meets all adapters in one product and keeps its own, which is fastest in training on
        a CPU; an adapter that is not finite then spoils the others. Without gradients the stacked weights are gathered
        once per context. Contexts nest. The backward pass may run outside, unless layers are recomputed in it
        (activation checkpointing).
        """
        before, chosen = (self._rows, self._held), list(slots or [])
        if not all(-1 <= s < self.slots for s in chosen):
            raise InputError(f"slots {sorted(set(chosen))}: allowed are 0 to {self.slots - 1}, and -1 for the base")
        self._rows = _Rows(chosen, self.slots, wide) if any(s >= 0 for s in chosen) else None
        self._held = None
        try:
            yield
        finally:
            self._rows, self._held = before

    @property
    def device(self) -> torch.device:
        """Where the stacked parameters are."""
        return self._sites[0].a.device

    def held(self) -> Held | Packed:
        """For `holding`: gathered weights of one batch, kept from step to step."""
        site = self._sites[0]
        kernel = rows_kernel() if site.a.device.type == "cpu" and site.a.dtype == torch.float32 else None
        if kernel is None:
            return Held(self._sites, self._filled.__getitem__, self.scale)
        return Packed(self._sites, self._filled.__getitem__, self.scale, kernel)

    @contextmanager
    def holding(self, held: Held | Packed, slots: Sequence[int], runs: Sequence[Run] = ()) -> Iterator[None]:
        """`rows(slots)` without gradients for a batch that goes on: only rows whose slot changed, or was filled anew by
        `load` or `reset`, are gathered again. One forward per context. With `runs`, (slot, tokens) each, the forward is
        over one flat row: a token of every row of `slots`, then the tokens of every run."""
        with self.rows([*slots, *(slot for slot, tokens in runs for _ in range(tokens))]):
            if self._rows is None:
                yield
                return
            held.choose(slots, runs)
            self._held = held
            try:
                yield
            finally:
                held.rest()

    @torch.no_grad()
    def reset(self, slot: int, seed: int) -> None:
        """A new adapter in `slot`: A uniform in +-1/sqrt(in) as PEFT draws it, B = 0. Same seed, same adapter."""
        self._check(slot)
        self._filled[slot] += 1
        generator = torch.Generator().manual_seed(seed)
        for site in self._sites:
            bound = 1 / math.sqrt(site.a.shape[-1])
            site.a[slot] = torch.empty(site.a.shape[1:]).uniform_(-bound, bound, generator=generator).to(site.a)
            site.b[slot] = 0

    @torch.no_grad()
    def export(self, slot: int) -> dict[str, Tensor]:
        """The adapter under PEFT's tensor names: contiguous, on the CPU, float32."""
        self._check(slot)
        named = (pair for site in self._sites for pair in site.to_peft(slot))
        return {name: tensor.to("cpu", torch.float32, copy=True).contiguous() for name, tensor in named}

    @torch.no_grad()
    def load(self, slot: int, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Put an adapter in PEFT's names into `slot`: a smaller rank is padded with zeros, its scaling folded into B.

        Targets of the bank that the adapter's config does not name become 0. `ModelError`: another method than plain
        LoRA, tensors the bank has no place for, missing tensors, other shapes, a larger rank. Nothing changes then.
        """
        self._check(slot)
        ready = peft.fit(self._sites, tensors, config, self.config)
        self._filled[slot] += 1
        for site, (a, b) in zip(self._sites, ready, strict=True):
            site.a[slot] = a.to(site.a)
            site.b[slot] = b.to(site.b)

    @torch.no_grad()
    def check(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """`ModelError` where `load` would raise it. Nothing changes; any thread may call."""
        peft.fit(self._sites, tensors, config, self.config)

    def adapter_config(self, base_ref: str) -> dict[str, Any]:
        """PEFT's adapter_config.json for every slot of this bank. `base_ref`: what the base was loaded from."""
        return peft.config(self.config, self._targets, base_ref)

    def detach(self) -> None:
        """Take everything off the network; its parameters require gradients again where they did."""
        for undo in self._undo:
            undo()
        for parameter in self._thawed:
            parameter.requires_grad_(True)
        self._undo, self._thawed = [], []

    @torch.no_grad()
    def per_slot_norms(self) -> Tensor:
        """L2 norm of each slot's gradient over all targets, `[slots]`, float32."""
        grads = [p.grad.flatten(1) for p in self.parameters() if p.grad is not None]
        if not grads:
            return torch.zeros(self.slots)
        return torch.stack([g.float().square().sum(1) for g in grads]).sum(0).sqrt()

    @torch.no_grad()
    def clip_per_slot(self, max_norm: float) -> Tensor:
        """Scale each slot's gradient to norm <= `max_norm`, apart from the others. Returns the norms before."""
        norms = self.per_slot_norms()
        factor = (max_norm / (norms + 1e-6)).clamp(max=1.0)
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor.view(-1, *[1] * (parameter.dim() - 1)).to(parameter.grad.dtype))
        return norms

    def _check(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise InputError(f"slot {slot}: allowed are 0 to {self.slots - 1}")

    def _attach(self) -> Iterator[Callable[[], None]]:
        by_module: dict[nn.Module, list[Site]] = {}
        for site in self._sites:
            by_module.setdefault(site.module, []).append(site)
        for module, sites in by_module.items():
            if sites[0].experts:
                yield experts.attach(module, sites, self.scale, lambda: self._rows)
            else:
                yield follow(module, partial(self._add, sites[0]))

    def _add(self, site: Site, x: Tensor, out: Tensor) -> Tensor:
        """What a dense target gives for x, from what its module alone gives."""
        rows = self._rows
        if rows is None:
            return out
        if self.training and self.config.dropout:
            x = nn.functional.dropout(x, self.config.dropout)
        if self._held is not None:
            if len(x) != rows.count and not self._held.runs:
                rows.check(len(x), flat=x.dim() == 2)
            added = self._held.add(site, x, out)
            if added is not None:
                return added
        if rows.wide and x.device.type == "cpu":
            rows.check(len(x), flat=x.dim() == 2)
            flat_TI = x.flatten(0, -2)
            owners = rows.owners(len(flat_TI), x.device, site.a.shape[1])
            return add_wide(out.flatten(0, -2), flat_TI, *site.as_rows(site.a, site.b), owners, self.scale).view_as(out)
        return _adapted(x, out, *rows.weights(site, len(x), x.dim()), self.scale)


def _adapted(x: Tensor, out: Tensor, a_GRI: Tensor, b_GOR: Tensor, scale: float) -> Tensor:
    """`out + scale * B A x`. x `[..., in]` and out `[..., out]` in row order; a, b stacked by group or not."""
    exact = out.dtype == a_GRI.dtype or torch.is_autocast_enabled(x.device.type)
    x = x if exact else x.to(a_GRI.dtype)
    if a_GRI.dim() == 2:
        z = x.reshape(-1, x.shape[-1]) @ a_GRI.T
        base, right = out.reshape(-1, out.shape[-1]), b_GOR.T
        y = torch.addmm(base, z, right, alpha=scale) if exact else base + scale * (z @ right)
    else:
        z = torch.bmm(x.reshape(len(a_GRI), -1, x.shape[-1]), a_GRI.transpose(1, 2))
        base, right = out.reshape(len(a_GRI), -1, out.shape[-1]), b_GOR.transpose(1, 2)
        y = torch.baddbmm(base, z, right, alpha=scale) if exact else base + scale * torch.bmm(z, right)
    return y.to(out.dtype).view(out.shape)


class _Rows:
    """Which slot each row uses, as the largest groups of equally many neighbouring rows that share a slot."""

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
        self._gathered: dict[int, tuple[tuple[int | None, int | None], Tensor, Tensor]] = {}
        self._slot_N: dict[int, Tensor] = {}

    def owners(self, tokens: int, device: torch.device, rank: int) -> Owners:
        """Whose adapter of a linear target each token of a flattened batch uses."""
        slot_T = self.slot_of_token(tokens, device)
        return Owners(slot_T, self.present, [tokens], partial(self.columns, slot_T, rank))

    def columns(self, slot_T: Tensor, rank: int) -> Tensor | None:
        """`[T, slots present * rank]`, True in the columns of a row's own adapter; None where that is everywhere."""
        if not self._with_base and len(self._distinct) == 1:
            return None
        owner_G = torch.tensor(self._distinct, device=slot_T.device).repeat_interleave(rank)
        return slot_T[:, None] == owner_G

    def weights(self, site: Site, length: int, dims: int) -> tuple[Tensor, Tensor]:
        """A and B for a linear target: of the one slot, or stacked per group of rows."""
        self.check(length, flat=dims == 2)
        versions = version_of(site.a), version_of(site.b)
        if torch.is_grad_enabled() or None in versions:
            return self._gather(site)
        kept = self._gathered.get(id(site))
        if kept is None or kept[0] != versions:
            kept = self._gathered[id(site)] = (versions, *self._gather(site))
        return kept[1], kept[2]

    def _gather(self, site: Site) -> tuple[Tensor, Tensor]:
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
        """Slot (-1: base) of each token of a flattened batch, `[tokens]` int64."""
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
