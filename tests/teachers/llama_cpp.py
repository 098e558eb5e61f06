"""A real llama.cpp server over a small random-weight Llama: weights as GGUF, and a server as long as a block runs.

In: a `Model` of the stock Llama class with the byte-level tokenizer of `tests/tokenizers.py`. Out: the base URL of
llama.cpp's own HTTP server (through xllamacpp, whose wheels hold it compiled) with the same weights in float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import xllamacpp
from numpy.typing import NDArray

from stillhouse.models import Model

LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write(model: Model, file: Path) -> Path:
    """The model as a GGUF file in float32."""
    config: Any = model.network.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(model.context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(model.vocabulary)
    _tokenizer(writer, model)
    state = model.network.state_dict()
    for name, tensor in state.items():
        writer.add_tensor(*_tensor(name.removesuffix(".weight"), tensor.float().numpy(), config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _tokenizer(writer: gguf.GGUFWriter, model: Model) -> None:
    tokenizer = model.tokenizer
    special = set(tokenizer.added_tokens_decoder)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    kinds = [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for _, i in vocabulary]
    writer.add_token_types(kinds)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)


def _tensor(name: str, weight: NDArray[np.float32], config: Any) -> tuple[str, NDArray[np.float32]]:
    if name in WHOLE:
        return f"{WHOLE[name]}.weight", weight
    _, _, number, part = name.split(".", 3)
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    if part in heads:  # llama.cpp turns neighbouring pairs, transformers halves
        weight = weight.reshape(heads[part], 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)
    return f"blk.{number}.{LAYER[part]}.weight", np.ascontiguousarray(weight)


@contextmanager
def serving(file: Path, parallel: int = 2) -> Iterator[str]:
    """llama.cpp's server on a free port."""
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.port = 512 * parallel, parallel, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    server = xllamacpp.Server(params)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server
