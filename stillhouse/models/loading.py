"""A model reference becomes a model. The only file that knows transformers' loaders.

In: `tiny` (the model that ships), the name of a fetched model, a local Hugging Face directory, a GGUF file, or a hub
id. Out: `Model`. Weights must be safetensors: pickle is refused. A GGUF file is converted once (`gguf.py`).

It does not know adapters, memories or users, nor which of the models is the small one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from ..compute.memory import memory_bytes
from ..errors import ModelError, first_line
from .fingerprints import fingerprint
from .gguf import SUFFIX, converted, is_gguf
from .model import Device, Model
from .places import find, present
from .published import all_published
from .quiet import silence
from .tokens import stop_ids

DEFAULT = "tiny"
FINGERPRINTS = "fingerprints.json"  # in a home: digests of files by path, size and time
ALLOWED = "a model is 'tiny', the name of a fetched one, a Hugging Face folder, a GGUF file or a hub id 'owner/name'"
_ASSETS = Path(__file__).parents[1] / "assets"
_WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def load(ref: str = DEFAULT, device: Device = "auto", home: Path | None = None) -> Model:
    """Load `ref` for inference and adapter training: evaluation mode, no gradients on the weights.

    `home` is where fetched models are looked for first (`places.py`), and where digests of files are remembered.
    dtype: bfloat16 on accelerators that have it; on a CPU float32 while that takes under a quarter of the memory.
    The process is left as it was; whoever computes chooses threads (`compute/threads.py`).
    Raises `ModelError` with what is wrong and what is allowed.
    """
    path = locate(ref, home)
    check(path)
    with silence():
        return _load(ref, path, device, home / FINGERPRINTS if home else None)


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


def locate(ref: str, home: Path | None = None) -> Path:
    """The folder of a reference: a GGUF file is converted, a hub id fetched from the hub, where that is yet to do."""
    if ref == DEFAULT:
        return _ASSETS / "tiny"
    path = Path(ref).expanduser()
    if is_gguf(path):
        return converted(path, home)
    if path.is_file():
        raise ModelError(f"{ref}: a file, but not a {SUFFIX} one; {ALLOWED}")
    if path.is_dir():
        return path.resolve()
    if folder := find(ref, home):
        return folder
    if ref in all_published():
        raise ModelError(f"{ref}: not fetched yet; run: stillhouse models fetch {ref}")
    if ref.count("/") != 1 or ref.startswith((".", "/", "~")):
        names = ", ".join(dict.fromkeys(folder.name for folder in present(home)))
        raise ModelError(f"{ref}: no such model; {ALLOWED}. Fetched are: {names or 'none'}")
    try:
        return Path(snapshot_download(ref, allow_patterns=list(_WANTED)))
    except Exception as error:  # the hub's client raises a dozen unrelated kinds: network, auth, missing, offline
        raise ModelError(f"{ref}: not a folder here, and the hub did not give it: {first_line(error)}") from error


def load_tokenizer(ref: str, home: Path | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder or a hub id, whose weights are not fetched. `ModelError`: none there, or a slow one."""
    here = ref == DEFAULT or Path(ref).expanduser().exists() or find(ref, home)
    path = locate(ref, home) if here else ref
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
    half_bytes = sum(p.stat().st_size for p in path.glob("*.safetensors"))
    return torch.float32 if 2 * half_bytes < memory_bytes() / 4 else torch.bfloat16
