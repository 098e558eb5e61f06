"""LoRA for several users on one frozen network: every row of a batch picks its own adapter.

In: a transformers causal LM and, per batch, the slot of each row. Out: the network's own forward, with
`W x + (alpha / rank) B A x` at every target (Hu et al. 2021, arXiv 2106.09685). All slots of a target are stacked in
one tensor, so one forward trains or serves many adapters at once. An elementwise optimiser (Adam, SGD) keeps the slots
of a stacked parameter apart. Adapters come and go in PEFT's names and shapes (`docs/formats/adapter.md`).

The product of A and B is added behind a module's own forward; the base weights are neither copied nor changed. It does
not know users, files, losses or optimisers.
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
from ..errors import InputError
from . import experts, peft
from .batch import BatchAdapters, Run
from .gathered import GatheredAdapters
from .kernel import rows_kernel
from .packed import PackedAdapters
from .rows import RowSlots
from .sites import LoraConfig, Site, find_sites
from .stacked import add_stacked

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
        self._rows: RowSlots | None = None
        self._batch: BatchAdapters | None = None
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

        Equally many neighbouring rows per slot take one product per target; any other order takes one small product
        per row. `wide`: on a CPU all rows are multiplied with the adapters of all slots in one product, and each keeps
        its own, which is fastest in training; an adapter that is not finite then spoils the others. Contexts nest. The
        backward pass may run outside, unless layers are recomputed in it (activation checkpointing).
        """
        before, chosen = (self._rows, self._batch), list(slots or [])
        if not all(-1 <= s < self.slots for s in chosen):
            raise InputError(f"slots {sorted(set(chosen))}: allowed are 0 to {self.slots - 1}, and -1 for the base")
        self._rows = RowSlots(chosen, self.slots, wide) if any(s >= 0 for s in chosen) else None
        self._batch = None
        try:
            yield
        finally:
            self._rows, self._batch = before

    @property
    def device(self) -> torch.device:
        """Where the stacked parameters are."""
        return self._sites[0].a.device

    def batch_adapters(self, by_kernel: bool = True) -> BatchAdapters:
        """For `step`: copies of the adapters of a batch, kept from step to step. `by_kernel`: in the form of the
        package's kernel where that was built, on a CPU."""
        a = self._sites[0].a
        kernel = rows_kernel() if by_kernel and a.device.type == "cpu" and a.dtype == torch.float32 else None
        if kernel is None:
            return GatheredAdapters(self._sites, self._filled.__getitem__, self.scale)
        return PackedAdapters(self._sites, self._filled.__getitem__, self.scale, kernel)

    @contextmanager
    def step(self, batch: BatchAdapters, slots: Sequence[int], runs: Sequence[Run] = ()) -> Iterator[None]:
        """`rows(slots)` without gradients for one forward of a batch that goes on. Only an adapter of a row whose slot
        changed, or was filled anew by `load` or `reset`, is copied again. With `runs`, (slot, tokens) each, the forward
        is over one flat row: a token of every row of `slots`, then the tokens of every run."""
        with self.rows([*slots, *(slot for slot, tokens in runs for _ in range(tokens))]):
            if self._rows is None:
                yield
                return
            batch.assign(slots, runs)
            self._batch = batch
            try:
                yield
            finally:
                batch.finish()

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
        """The output of a dense target for x; `out` is that of its module alone."""
        rows = self._rows
        if rows is None:
            return out
        if self.training and self.config.dropout:
            x = nn.functional.dropout(x, self.config.dropout)
        if self._batch is not None:
            if len(x) != rows.count and not self._batch.runs:
                rows.check(len(x), flat=x.dim() == 2)
            added = self._batch.add(site, x, out)
            if added is not None:
                return added
        if rows.wide and x.device.type == "cpu":
            rows.check(len(x), flat=x.dim() == 2)
            flat_TI = x.flatten(0, -2)
            chosen, stacks = rows.adapters(len(flat_TI), x.device, site.a.shape[1]), site.as_rows(site.a, site.b)
            return add_stacked(out.flatten(0, -2), flat_TI, *stacks, chosen, self.scale).view_as(out)
        return _add_grouped(x, out, *rows.weights(site, len(x), x.dim()), self.scale)


def _add_grouped(x: Tensor, out: Tensor, a_GRI: Tensor, b_GOR: Tensor, scale: float) -> Tensor:
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
