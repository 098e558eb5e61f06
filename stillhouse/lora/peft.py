"""An adapter as PEFT stores it: the config, and tensors by PEFT's names fitted to a bank's sites.

In: sites, PEFT's tensors and adapter_config.json as a mapping. Out: the same for PEFT, so that
`PeftModel.from_pretrained` gives the bank's logits. Format: `docs/formats/adapter.md`; written against PEFT 0.21.
It does not read or write files (`export/peft.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import ModelError
from .sites import LoraConfig, Site, has_experts

Targets = tuple[list[str], list[str]]

# PEFT 0.21 rewrites these target_modules to stacked experts on mixture-of-experts models, dense layers included.
_REWRITTEN = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
_PLAIN: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "fan_in_fan_out": (False, None),
    "trainable_token_indices": (None, []),
    "layer_replication": (None, []),
    "use_bdlora": (False, None),
    "alora_invocation_tokens": (None, []),
}


def targets(network: PreTrainedModel, sites: Sequence[Site]) -> Targets:
    """PEFT's `target_modules` and `target_parameters` that select exactly the bank's sites."""
    rewritten = _REWRITTEN if has_experts(network) else set()
    dense = [s.path for s in sites if not s.experts]
    by_module = {p for p in dense if _leaf(p) not in rewritten}
    linear = {n for n, m in network.named_modules() if isinstance(m, nn.Linear)}
    leaves = {_leaf(p) for p in by_module}
    exact = {n for n in linear if _leaf(n) in leaves} == by_module
    parameters = {re.sub(r"^.*\.\d+\.", "", s.weight) for s in sites if s.experts}
    return sorted(leaves if exact else by_module), sorted(
        parameters | {f"{p}.weight" for p in dense} - {f"{p}.weight" for p in by_module}
    )


def config(lora: LoraConfig, selected: Targets, base_ref: str) -> dict[str, Any]:
    """PEFT's adapter_config.json, as a mapping."""
    modules, parameters = selected
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_ref,
        "revision": None,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "target_modules": modules,
        "target_parameters": parameters or None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "lora_dropout": lora.dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "layers_to_transform": None,
        "layers_pattern": None,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }


def fit(
    sites: Sequence[Site], tensors: Mapping[str, Tensor], config: Mapping[str, Any], lora: LoraConfig
) -> list[tuple[Tensor, Tensor]]:
    """A and B per site, padded to the bank's rank, B scaled so that the bank's alpha / rank gives the adapter's."""
    _check_plain(config)
    known = {name for site in sites for name in site.names}
    for name in tensors:
        if name not in known:
            raise ModelError(
                f"adapter tensor {name!r} has no place here: another base, other targets or another format"
            )
    return [_fit_one(site, tensors, config, lora) for site in sites]


def _fit_one(
    site: Site, tensors: Mapping[str, Tensor], config: Mapping[str, Any], lora: LoraConfig
) -> tuple[Tensor, Tensor]:
    a, b = (tensors.get(name) for name in site.names)
    if a is None or b is None:
        if a is not b or _named(site, config):
            raise ModelError(f"adapter tensor {site.names[a is not None]!r} is missing")
        return site.a.new_zeros(site.a.shape[1:]), site.b.new_zeros(site.b.shape[1:])
    experts = max(site.experts, 1)
    out = site.b.shape[-1] if site.experts else site.b.shape[-2]
    rank = len(a) // experts if a.dim() == 2 else 0
    if rank < 1 or tuple(a.shape) != (experts * rank, site.a.shape[-1]) or tuple(b.shape) != (out, experts * rank):
        shapes = f"{list(a.shape)} and {list(b.shape)}"
        place = f"in {site.a.shape[-1]}, out {out}" + (f", {experts} experts" if site.experts else "")
        raise ModelError(f"adapter tensors {site.names[0]!r} and lora_B have shapes {shapes}; the base has {place}")
    if rank > lora.rank:
        raise ModelError(f"adapter tensor {site.names[0]!r} has rank {rank}; at most {lora.rank} fits: raise the rank")
    folded = _scale(site, rank, config) / (lora.alpha / lora.rank)
    a, b = site.from_peft(a.to(site.a), b.to(site.b), rank)
    return a, b * folded


def _scale(site: Site, rank: int, config: Mapping[str, Any]) -> float:
    """alpha / rank (rank-stabilised: / sqrt(rank)) with PEFT's alpha_pattern: the first pattern that fits the name."""
    names = (site.weight,) if site.experts else (site.path, site.weight)
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
            alpha = value
            break
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check_plain(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise ModelError(f"adapter of type {config.get('peft_type')!r}: only LORA adapters can be loaded")
    for key, allowed in _PLAIN.items():
        if config.get(key) not in allowed:
            raise ModelError(f"adapter with {key} = {config[key]!r}: only plain LoRA weights can be loaded")


def _named(site: Site, config: Mapping[str, Any]) -> bool:
    """Whether the adapter's config says that it adapts this site, as far as it says so by name."""
    if config.get("layers_to_transform") is not None or config.get("exclude_modules"):
        return False
    chosen = config.get("target_parameters") or []
    if any(site.weight == t or site.weight.endswith(f".{t}") for t in chosen):
        return True
    modules = config.get("target_modules") or []
    if isinstance(modules, str) or site.experts:
        return False
    return any(site.path == t or site.path.endswith(f".{t}") for t in modules)


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
