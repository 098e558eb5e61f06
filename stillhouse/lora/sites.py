"""Where LoRA goes in a network: its targets, and the stacked parameters that belong to each.

In: a transformers causal LM and `LoraConfig`. Out: one `Site` per adapted weight, in module order: every `nn.Linear`
of the decoder layers, and the stacked experts of transformers' mixture-of-experts classes. Routers, the LM head,
embeddings and anything outside the decoder (a vision tower) are never targets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..config import SettingError, later
from ..errors import InputError, ModelError

EXPERT_PARAMETERS = ("gate_up_proj", "down_proj")
_ROUTER = re.compile(r"(^|\.)(gate|router|shared_expert_gate)(\.|$)")
_ONE_EXPERT = re.compile(r"\.experts\.\d+\.")  # gets the tokens routed to it alone: their rows are not known there
_LAYER = re.compile(r"\.\d+\.")
ExpertWeights = list[tuple[str, tuple[int, int, int]]]  # names of stacked parameters, each with (experts, in, out)


@dataclass(frozen=True)
class LoraConfig:
    """The shape of every adapter of a bank, and what it is put on."""

    rank: int = 16
    """Rows of A and columns of B, at least 1. The figures of `consolidate` are measured with 16."""
    alpha: float = 32.0
    """`B A x` is multiplied by alpha / rank. Twice the rank is the usual choice."""
    targets: Literal["all", "attention", "mlp"] = "all"
    """Which linear layers of the decoder are adapted."""
    experts: bool = True
    """Whether experts whose weights are stacked in one parameter are adapted too; never with `targets` attention."""
    dropout: float = later(0.0)
    """Share of an adapter's inputs that are left out at random in training, 0 to under 1. Not for stacked experts."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise SettingError("lora", "rank", f"{self.rank} is not a positive number")
        if not 0 <= self.dropout < 1:
            raise SettingError("lora", "dropout", f"{self.dropout} is not allowed; it is a share, 0 to under 1")


@dataclass(frozen=True, eq=False)
class Site:
    """One adapted weight: its module, its name in PEFT's files, and A and B of all slots.

    experts = 0: a `[slots, rank, in]`, b `[slots, out, rank]`. Otherwise a `[slots, experts, rank, in]`,
    b `[slots, experts, rank, out]`.
    """

    module: nn.Module
    weight: str  # full name of the adapted parameter in the network
    path: str  # of the module in PEFT's tensor names, in which stacked parameters of one module are nested
    experts: int
    a: nn.Parameter
    b: nn.Parameter

    @property
    def names(self) -> tuple[str, str]:
        return f"base_model.model.{self.path}.lora_A.weight", f"base_model.model.{self.path}.lora_B.weight"

    def as_rows(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Views `[slots, experts, rank, in]` and `[slots, experts, rank, out]` of tensors with the shapes of A and B; a
        dense weight counts as one expert."""
        return (a, b) if self.experts else (a[:, None], b.mT[:, None])

    def to_peft(self, slot: int) -> Iterator[tuple[str, Tensor]]:
        """A `[experts * rank, in]` with the expert outermost, B `[out, rank * experts]` with the rank outermost."""
        a, b = self.a[slot], self.b[slot]
        if self.experts:
            a, b = a.flatten(0, 1), b.permute(2, 1, 0).flatten(1)
        return zip(self.names, (a, b), strict=True)

    def from_peft(self, a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """The opposite of `to_peft`, for any rank, padded with zeros to the site's."""
        if self.experts:
            a = a.reshape(self.experts, rank, -1)
            b = b.reshape(-1, rank, self.experts).permute(2, 1, 0)
        else:
            b = b.T
        more = self.a.shape[-2] - rank
        a, b = (nn.functional.pad(t, (0, 0, 0, more)) for t in (a, b))
        return a, b if self.experts else b.T


def find_sites(network: PreTrainedModel, slots: int, config: LoraConfig) -> list[Site]:
    """All sites of `network`, parameters zero. Raises what `check_sites` does."""
    check_sites(network, config)
    return list(_sites(network, slots, config))


def check_sites(network: PreTrainedModel, config: LoraConfig, table: str = "lora") -> None:
    """`ModelError` when `network` has no sites; `InputError` for dropout on stacked experts. Weights are not read, so
    they may be on the device "meta". `table`: where the settings stand, for the error."""
    targets = list(_targets(network, config))
    if not targets:
        name = type(network).__name__
        raise ModelError(f"{name} has no {config.targets!r} linear layer or stacked experts in its decoder layers")
    if config.dropout and any(experts for _, _, experts in targets):
        raise InputError(
            f"{table}.dropout: {config.dropout} is not for stacked experts; set it to 0, or leave them out with "
            f"{table}.experts = false"
        )


def has_experts(network: PreTrainedModel) -> bool:
    """Whether the network stores experts as stacked parameters."""
    return any(_expert_weights(m) for m in network.modules())


def _sites(network: PreTrainedModel, slots: int, config: LoraConfig) -> Iterator[Site]:
    for name, module, stacked in _targets(network, config):
        if isinstance(module, nn.Linear):
            a, b = (module.in_features, module.out_features)
            yield _site(module, f"{name}.weight", name, 0, slots, (config.rank, a), (b, config.rank))
        for i, (weight, (experts, into, out)) in enumerate(stacked):
            path = name + ".base_layer" * (len(stacked) - 1 - i)
            shapes = (experts, config.rank, into), (experts, config.rank, out)
            yield _site(module, f"{name}.{weight}", path, experts, slots, *shapes)


def _targets(network: PreTrainedModel, config: LoraConfig) -> Iterator[tuple[str, nn.Module, ExpertWeights]]:
    """Adapted modules with their names, in module order; of linear layers no stacked experts."""
    decoder = cast(Any, network).get_decoder()  # untyped in some versions of transformers
    prefix = next(name for name, module in network.named_modules() if module is decoder)
    for name, module in network.named_modules():
        inside = name.startswith(f"{prefix}." if prefix else "") and _LAYER.search(f"{name}.")
        if not inside or _ROUTER.search(name) or _ONE_EXPERT.search(name) or not _wanted(name, config):
            continue
        if isinstance(module, nn.Linear):
            yield name, module, []
        elif config.experts and (stacked := _expert_weights(module)):
            yield name, module, stacked


def _wanted(name: str, config: LoraConfig) -> bool:
    attention = re.search(r"attn|attention", name) is not None
    return config.targets == "all" or attention == (config.targets == "attention")


def _expert_weights(module: nn.Module) -> ExpertWeights:
    """Stacked expert parameters in the module's own order, each with (experts, in, out)."""
    stacked = [(n, p) for n, p in module.named_parameters(recurse=False) if n in EXPERT_PARAMETERS and p.dim() == 3]
    transposed = bool(getattr(module, "is_transposed", False))
    shapes = [(n, (p.shape[0], p.shape[1 if transposed else 2], p.shape[2 if transposed else 1])) for n, p in stacked]
    return shapes if len(shapes) == len(EXPERT_PARAMETERS) else []


def _site(
    module: nn.Module, weight: str, path: str, experts: int, slots: int, a: tuple[int, ...], b: tuple[int, ...]
) -> Site:
    like = next(module.parameters())
    dtype = like.dtype if like.device.type != "cpu" and like.is_floating_point() else torch.float32
    stacks = (nn.Parameter(torch.zeros(slots, *shape, dtype=dtype, device=like.device)) for shape in (a, b))
    return Site(module, weight, path, experts, *stacks)
