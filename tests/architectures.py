"""Small random-weight models of the real transformers classes, for tests that must hold on every architecture.

Each function returns a model in evaluation mode whose weights depend on `seed` alone. They know nothing; only their
shapes and their arithmetic are real. `ALL` maps a name to its function; `MORE_EXPERTS` has
further ways to store experts, of interest to adapters alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def llama(vocabulary: int = 320, seed: int = 0, **settings: Any) -> PreTrainedModel:
    return _random(LlamaForCausalLM, LlamaConfig, vocabulary, seed, settings)


def qwen3(vocabulary: int = 320, seed: int = 0, **settings: Any) -> PreTrainedModel:
    return _random(Qwen3ForCausalLM, Qwen3Config, vocabulary, seed, {"head_dim": 8, **settings})


def qwen3_moe(vocabulary: int = 320, seed: int = 0, **settings: Any) -> PreTrainedModel:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
    return _random(Qwen3MoeForCausalLM, Qwen3MoeConfig, vocabulary, seed, experts | settings)


def qwen3_moe_with_dense_layer(vocabulary: int = 320, seed: int = 0, **settings: Any) -> PreTrainedModel:
    """Its first layer has a plain MLP, named as the experts' projections once were."""
    return qwen3_moe(vocabulary, seed, mlp_only_layers=[0], **settings)


def olmoe(vocabulary: int = 320, seed: int = 0, **settings: Any) -> PreTrainedModel:
    experts = {"num_experts": 4, "num_experts_per_tok": 2}
    return _random(OlmoeForCausalLM, OlmoeConfig, vocabulary, seed, experts | settings)


def gemma2(vocabulary: int = 320, seed: int = 0, **settings: Any) -> PreTrainedModel:
    """Soft-capped logits, sliding windows in every other layer."""
    return _random(Gemma2ForCausalLM, Gemma2Config, vocabulary, seed, {"head_dim": 8, "sliding_window": 16} | settings)


def gemma3(vocabulary: int = 320, seed: int = 0, **settings: Any) -> PreTrainedModel:
    windows = {"head_dim": 8, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
    return _random(Gemma3ForCausalLM, Gemma3TextConfig, vocabulary, seed, windows | settings)


def mixtral(vocabulary: int = 320, seed: int = 0, **settings: Any) -> PreTrainedModel:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
    return _random(MixtralForCausalLM, MixtralConfig, vocabulary, seed, experts | settings)


def gpt_oss(vocabulary: int = 320, seed: int = 0, **settings: Any) -> PreTrainedModel:
    """Transposed experts with biases and interleaved gates."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 16}
    layers = {"layer_types": ["sliding_attention", "full_attention"]}
    return _random(GptOssForCausalLM, GptOssConfig, vocabulary, seed, experts | layers | settings)


ALL: dict[str, Callable[..., PreTrainedModel]] = {
    f.__name__: f for f in (llama, qwen3, qwen3_moe, qwen3_moe_with_dense_layer, olmoe, gemma2, gemma3)
}
MORE_EXPERTS: dict[str, Callable[..., PreTrainedModel]] = {"mixtral": mixtral, "gpt_oss": gpt_oss}


def _random(model: Any, config: Any, vocabulary: int, seed: int, settings: dict[str, Any]) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: PreTrainedModel = model(config(**{**SHAPE, "vocab_size": vocabulary, **settings})).eval()
        with torch.no_grad():  # the stock initialisation is so small that all logits look alike
            for parameter in made.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.7 / parameter.shape[-1] ** 0.5)
    return made
