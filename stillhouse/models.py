"""A model reference becomes a model, its tokenizer and a fingerprint. The only file that knows transformers' loaders.

In: `tiny` (the model that ships), a local Hugging Face directory, or a hub id. Out: `Model`. Weights must be
safetensors: pickle is refused. The fingerprint is a digest of configuration, tokenizer and weight bytes, so an adapter
can be tied to exactly the base it was made for.

It does not know adapters, memories or users, nor which of the models is the small one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from jinja2 import TemplateError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from ._models_threads import choose_threads
from .blobs import write_atomic
from .chat import Message
from .errors import ModelError

DEFAULT = "tiny"
Device = Literal["auto", "cpu", "cuda", "mps"]
_ASSETS = Path(__file__).parent / "assets"
_WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_DECIDING = frozenset(  # files beside the weights that change what a model answers
    "config.json generation_config.json tokenizer.json tokenizer.model tokenizer_config.json vocab.json merges.txt "
    "special_tokens_map.json added_tokens.json chat_template.jinja".split()
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Model:
    """A loaded causal language model with its tokenizer.

    `fingerprint` is SHA-256 (hex) over configuration, tokenizer and weights; `stop_ids` are the ids that end an answer.
    """

    ref: str
    path: Path
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    fingerprint: str
    device: torch.device
    stop_ids: frozenset[int] = field(default_factory=frozenset)

    @property
    def vocabulary(self) -> int:
        """Width of the logits, padding rows of the embedding included."""
        return int(self.network.get_output_embeddings().weight.shape[0])

    @property
    def context(self) -> int:
        """Longest sequence the model was made for, in tokens."""
        return int(getattr(self.network.config.get_text_config(), "max_position_embeddings", 0) or 2048)

    def chat_text(self, messages: Sequence[Message]) -> str:
        """Messages rendered by the model's own chat template, ready for the assistant's reply."""
        return render(self.tokenizer, messages)

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of `chat_text`. A template that writes special tokens has written them all: none are added."""
        return self.text_ids(self.chat_text(messages))

    def text_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: Iterable[int]) -> str:
        """Text of ids without special tokens, surrounding space removed."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes each id stands for; ids without a token stand for nothing."""
        return token_bytes(self.tokenizer, self.vocabulary)


def load(ref: str = DEFAULT, device: Device = "auto", cache: Path | None = None) -> Model:
    """Load `ref` for inference and adapter training: evaluation mode, no gradients on the weights.

    dtype: bfloat16 on accelerators that have it; on a CPU float32 while that takes under a quarter of the memory.
    Raises `ModelError` with what is wrong and what is allowed.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    path = locate(ref)
    check(path)
    where = _device(device)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=False)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=_dtype(path, where), use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # transformers, tokenizers and safetensors raise a dozen kinds, `Exception` itself too
        raise ModelError(f"{ref}: cannot be loaded as a causal language model: {_first_line(error)}") from error
    network, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise ModelError(f"{ref}: {len(missing)} tensors are missing from the weights, {missing[0]!r} first")
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(f"{ref}: has no fast tokenizer (tokenizer.json); convert it with transformers first")
    network.to(device=where).eval().requires_grad_(False)
    choose_threads(network)
    return Model(ref, path, network, tokenizer, fingerprint(path, cache), where, stop_ids(network, tokenizer))


def locate(ref: str) -> Path:
    """The folder of a reference, fetched from the hub when it is a hub id."""
    if ref == DEFAULT:
        return _ASSETS / "tiny"
    path = Path(ref).expanduser()
    if path.exists():
        return path.resolve()
    if ref.count("/") != 1 or ref.startswith((".", "/", "~")):
        allowed = "'tiny', a local Hugging Face folder or a hub id 'owner/name'"
        raise ModelError(f"{ref}: no such folder; a model is {allowed}")
    try:
        return Path(snapshot_download(ref, allow_patterns=list(_WANTED)))
    except Exception as error:  # the hub's client raises a dozen unrelated kinds: network, auth, missing, offline
        raise ModelError(f"{ref}: not a folder here, and the hub did not give it: {_first_line(error)}") from error


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
            raise ModelError(f"{file}: damaged or cut off: {_first_line(error)}") from error


def fingerprint(path: Path, cache: Path | None = None) -> str:
    """SHA-256 over the names and bytes of configuration, tokenizer, chat template and weights.

    Hashing a large model takes seconds per gigabyte, so a file's digest is kept in `cache` under its path, size and
    modification time.
    """
    known = _read_cache(cache)
    whole = hashlib.sha256()
    for name in sorted({p.name for p in path.glob("*.safetensors")} | _DECIDING):
        file = path / name
        if file.is_file():
            whole.update(f"{name}\0{_file_digest(file, known)}\n".encode())
    _write_cache(cache, known)
    return whole.hexdigest()


def render(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> str:
    """The chat template's text, without a thinking block where a template knows that switch.

    A template that refuses or drops a system message gets its text at the head of the first user message; a tokenizer
    without a template gets `Role: text` lines. Special tokens written out in a message are broken up: a memory cannot
    end its own turn. Raises `ModelError` when the template cannot be rendered.
    """
    messages = [{**m, "content": _inert(tokenizer, m["content"])} for m in messages]
    if not tokenizer.chat_template:
        lines = [f"{m['role'].capitalize()}: {m['content']}" for m in messages]
        return "\n".join([*lines, "Assistant:"])
    if messages[0]["role"] != "system":
        return _templated(tokenizer, messages)
    system, user, *rest = messages
    try:
        text = _templated(tokenizer, messages)
    except ModelError:
        text = ""
    if system["content"].strip() in text:
        return text
    merged = {"role": "user", "content": f"{system['content']}\n\n{user['content']}"}
    return _templated(tokenizer, [merged, *rest])


def _templated(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> str:
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    try:
        return str(tokenizer.apply_chat_template(list(messages), **options))
    except (TemplateError, TypeError, ValueError) as error:
        where = tokenizer.name_or_path or "the tokenizer"
        raise ModelError(f"{where}: its chat template cannot be rendered: {_first_line(error)}") from error


def _inert(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    """`text` with a space after the first character of every special token in it, so that it stays text."""
    for token in tokenizer.added_tokens_decoder.values():
        if token.special and token.content in text:
            text = text.replace(token.content, f"{token.content[:1]} {token.content[1:]}")
    return text


def stop_ids(network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Ids that end an answer, from the tokenizer and the generation config."""
    found: set[int] = set()
    for value in (tokenizer.eos_token_id, getattr(network.generation_config, "eos_token_id", None)):
        found.update([value] if isinstance(value, int) else value or [])
    return frozenset(found)


def token_bytes(tokenizer: PreTrainedTokenizerFast, vocabulary: int) -> list[bytes]:
    """Bytes of every id, for byte-level BPE (GPT-2's table of printable stand-ins) and for SentencePiece-like
    vocabularies (U+2581 for a space, `<0xNN>` for a raw byte). Special tokens stand for their own text."""
    added = tokenizer.get_added_vocab()
    backend = tokenizer.backend_tokenizer
    byte_level = "ByteLevel" in f"{backend.decoder}{backend.pre_tokenizer}"
    table = _byte_level_table() if byte_level else {}
    found = [b""] * vocabulary
    for token, index in tokenizer.get_vocab().items():
        if index >= vocabulary:
            continue
        if token in added:
            found[index] = token.encode()
        elif byte_level:
            found[index] = b"".join(bytes([table[c]]) if c in table else c.encode() for c in token)
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            found[index] = bytes([int(token[3:5], 16)])
        else:
            found[index] = token.replace("\u2581", " ").encode()
    return found


def memory_bytes() -> int:
    """Of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _byte_level_table() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in set(printable)]
    return table | {chr(256 + i): b for i, b in enumerate(others)}


def _device(device: Device) -> torch.device:
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


def _file_digest(file: Path, known: dict[str, str]) -> str:
    about = file.stat()
    key = f"{file.resolve()}\0{about.st_size}\0{about.st_mtime_ns}"
    if key not in known:
        with file.open("rb") as handle:
            known[key] = hashlib.file_digest(handle, "sha256").hexdigest()
    return known[key]


def _read_cache(cache: Path | None) -> dict[str, str]:
    try:
        return dict(json.loads(cache.read_text())) if cache else {}
    except (OSError, ValueError, TypeError):
        return {}  # a cache that cannot be read is made again


def _write_cache(cache: Path | None, known: dict[str, str]) -> None:
    if cache is None or known == _read_cache(cache):
        return
    write_atomic(cache, json.dumps(known).encode())


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
