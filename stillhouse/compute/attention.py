"""Attention as something that can be exchanged: for networks whose tokens lie side by side, whoever's row they are of.

In: a network of transformers whose attention goes through its `AttentionInterface`. Out: whether a function of ours can
stand in for it, and a context in which it does. Everything else in such a network looks at one token at a time. It does
not know what lies beside what.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

_TYPES = {"full_attention", "sliding_attention"}


def replaceable(network: PreTrainedModel) -> bool:
    """Whether tokens of several rows can lie side by side in this network: all its attention is replaceable, and
    causal or causal in a window."""
    config = network.config.get_text_config()
    types = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    known = types <= _TYPES and (window is None) != ("sliding_attention" in types)
    own = not getattr(config, "num_kv_shared_layers", 0) and getattr(config, "is_causal", True)
    return bool(known and own and network._supports_attention_backend and config._attn_implementation == "sdpa")


def window_of(module: nn.Module) -> int | None:
    """How many tokens back this layer's attention looks; None: all."""
    config: Any = module.config
    types = getattr(config, "layer_types", None)
    slides = types is not None and types[int(module.layer_idx)] == "sliding_attention"  # type: ignore[arg-type]
    return config.sliding_window if slides else None


@contextmanager
def attending(network: PreTrainedModel, name: str) -> Iterator[None]:
    """Inside, the network's attention is the function registered under `name`."""
    config = network.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
