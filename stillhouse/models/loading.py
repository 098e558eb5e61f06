"""A model reference becomes a model. The only file that knows transformers' loaders.

In: a reference (`references.py`). Out: `Model`. Weights must be safetensors: pickle is refused.

It does not know adapters, memories or users.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from ..compute.memory import memory_bytes
from ..errors import ModelError, first_line
from ..weights.fingerprints import fingerprint
from .model import Device, Model
from .quiet import silence
from .references import DEFAULT, digests, here, locate
from .tokens import stop_ids

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def load(ref: str = DEFAULT, device: Device = "auto", home: Path | None = None) -> Model:
    """Load `ref` for inference and adapter training: evaluation mode, no gradients on the weights.

    `home` is where fetched models are looked for first (`weights/places.py`), and where files' digests are remembered.
    dtype: bfloat16 on accelerators that have it; on a CPU float32 while that takes under a quarter of the memory.
    The process is left as it was; whoever computes chooses threads (`compute/threads.py`).
    Raises `ModelError` with what is wrong and what is allowed.
    """
    path = locate(ref, home)
    check(path)
    with silence():
        return _load(ref, path, device, digests(home))


def _load(ref: str, path: Path, device: Device, cache: Path | None) -> Model:
    where = choose_device(device)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=False)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=_dtype(path, where), use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # transformers, tokenizers and safetensors raise a dozen kinds, `Exception` itself too
        raise ModelError(f"{ref}: cannot be loaded as a causal language model: {first_line(error)}") from error
    network, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{ref}: {len(missing)} tensors are missing from the weights, {missing[0]!r} first")
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(f"{ref}: has no fast tokenizer (tokenizer.json); convert it with transformers first")
    stops = stop_ids(network, tokenizer)
    _check_text_side(ref, network, tokenizer, stops)
    network.to(device=where).eval().requires_grad_(False)
    return Model(ref, path, tokenizer, fingerprint(path, cache), stops, network, where)


def _check_text_side(
    ref: str, network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, stops: frozenset[int]
) -> None:
    """Refuse a tokenizer that does not belong to the weights."""
    table: Any = network.get_input_embeddings()
    rows, largest = len(table.weight), max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise ModelError(
            f"{ref}: its tokenizer has ids up to {largest}, but the weights have {rows} embedding rows; a token was "
            "added without resizing the model, or the tokenizer is another model's"
        )
    if not stops:
        raise ModelError(f"{ref}: neither tokenizer nor generation_config.json names a token that ends an answer (eos)")


def outline(ref: str, home: Path | None = None) -> PreTrainedModel:
    """The network of `ref` without its weights, on the device "meta". `ModelError` as `load` says it."""
    path = locate(ref, home)
    check(path)
    try:
        with silence(), torch.device("meta"):
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            network: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # as in loading
        raise ModelError(f"{ref}: cannot be loaded as a causal language model: {first_line(error)}") from error
    return network


def load_tokenizer(ref: str, home: Path | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer of a reference; of a hub id, no weights are fetched. `ModelError`: none there, or a slow one."""
    path = here(ref, home) or (ref if "/" in ref else locate(ref, home))
    try:
        with silence():
            tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{ref}: no tokenizer there: {first_line(error)}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(f"{ref}: has no fast tokenizer (tokenizer.json)")
    return tokenizer


def check(path: Path) -> None:
    """Refuse a folder that cannot be used, before anything is loaded from it."""
    if not (path / "config.json").is_file():
        raise ModelError(f"{path}: no config.json; a model folder is in Hugging Face format")
    if (path / "modules.json").is_file():
        raise ModelError(f"{path}: an embedder of sentences (modules.json), which writes no answers")
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        pickles = [p.name for pattern in _PICKLES for p in path.glob(pattern)]
        if pickles:
            raise ModelError(f"{path}: only pickle weights ({pickles[0]}), which can run code; convert to safetensors")
        raise ModelError(f"{path}: no *.safetensors weights")
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{path}: no tokenizer (tokenizer.json) beside the weights")
    for file in weights:
        try:
            with safe_open(file, framework="pt") as handle:
                handle.keys()
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: damaged or cut off: {first_line(error)}") from error


def choose_device(device: Device) -> torch.device:
    """The device asked for; `auto` is CUDA, else Apple's, else the CPU."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _dtype(path: Path, device: torch.device) -> torch.dtype:
    if device.type != "cpu":
        return torch.bfloat16
    return torch.float32 if 4 * _weights(path) < memory_bytes() / 4 else torch.bfloat16


def _weights(path: Path) -> int:
    """How many numbers the weights of a folder are."""
    count = 0
    for file in path.glob("*.safetensors"):
        with safe_open(file, framework="pt") as handle:
            count += sum(prod(handle.get_slice(name).get_shape()) for name in handle.keys())  # noqa: SIM118
    return count
