"""A GGUF file becomes a folder in Hugging Face's format, once.

In: a file. Out: a folder with safetensors, the configuration, the tokenizer and its chat template, named by the file's
SHA-256, so that the same file is converted once. transformers reads the file and unpacks its weights; they are written
as they are where the file has them in float32 or float16, and as bfloat16 where it is quantised, which is more than it
holds. The same file gives the same bytes.

It does not know where a file came from.
"""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.quantization_config import GgufConfig

from ..errors import ModelError, StoreError, first_line
from ..progress import Audience, Step, progress
from ..weights.fingerprints import file_digest
from ..weights.folders import CONVERSION_STEPS, Source, making, write_folder
from ..weights.places import SOURCE, find, models_folder
from .quiet import silence

MAGIC = b"GGUF"
SUFFIX = ".gguf"
_WHOLE = {"F32": torch.float32, "F16": torch.float16}  # kept as they are


def is_gguf(path: Path) -> bool:
    """Whether a path names a file of this format, by its suffix or by how it begins."""
    if not path.is_file():
        return False
    if path.suffix.lower() == SUFFIX:
        return True
    try:
        with path.open("rb") as handle:
            return handle.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def converted(file: Path, home: Path | None, cache: Path | None = None, to: Audience = True) -> Path:
    """The folder of `file`, made when it is not there. `ModelError`: what `convert` says."""
    try:
        digest = file_digest(file, cache)
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
    name = f"gguf-{digest[:16]}"
    if folder := find(name, home):
        return folder
    folder = models_folder(home) / name
    source = Source(name, file=file.name, sha256=digest)
    with progress("convert", CONVERSION_STEPS, to, user=file.name) as step, making(folder, step):
        if not (folder / SOURCE).is_file():
            write_folder(folder, source, lambda into: convert(file, into, step))
    return folder


def convert(file: Path, folder: Path, step: Step) -> dict[str, str]:
    """Fill an empty folder; returns the versions of what read the file.

    `ModelError`: a file of a class that transformers cannot read, one without a tokenizer, one that is cut off, or one
    that lacks some of its network's weights.
    """
    kind, dtype = _examine(file)
    with silence(), redirect_stderr(io.StringIO()):  # a bar of transformers that no setting of its own turns off
        step(0, "reading the tokenizer")
        tokenizer = _tokenizer(file)
        step(1, "unpacking the weights")
        network = _network(file, kind, dtype)
        step(1, "writing")
        try:
            network.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        except SafetensorError as error:
            raise StoreError(f"cannot write {str(folder)!r}: {first_line(error)}; is there room?") from error
    _settle(folder)
    step(1, "")
    return {name: version(name) for name in ("transformers", "gguf", "torch")}


def _examine(file: Path) -> tuple[str, torch.dtype]:
    """Refuse what cannot be converted before it is; returns the class of the network and how to write its weights."""
    with file.open("rb") as handle:
        start = handle.read(len(MAGIC))
    if start != MAGIC:
        raise ModelError(f"{file}: no GGUF file: it begins with {start!r}, not with {MAGIC!r}")
    try:
        reader = gguf.GGUFReader(file)
    except Exception as error:  # whatever the bytes of a damaged file lead it to
        raise ModelError(f"{file}: damaged, or cut off at {file.stat().st_size} bytes: {first_line(error)}") from error
    kind, parts = _value(reader, "general.architecture"), _value(reader, "split.count")
    if not isinstance(kind, str):
        raise ModelError(f"{file}: names no class of network (general.architecture)")
    if isinstance(parts, int) and parts > 1:
        raise ModelError(f"{file}: one of {parts} parts; join them with llama.cpp's llama-gguf-split --merge")
    if not isinstance(_value(reader, "tokenizer.ggml.model"), str) or not reader.get_field("tokenizer.ggml.tokens"):
        raise ModelError(f"{file}: no tokenizer in it (tokenizer.ggml.tokens); convert it from its original folder")
    types = {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1}
    return kind, _WHOLE.get(types.pop(), torch.bfloat16) if len(types) == 1 else torch.bfloat16


def _value(reader: gguf.GGUFReader, key: str) -> object:
    field = reader.get_field(key)
    return field.contents() if field else None


def _tokenizer(file: Path) -> PreTrainedTokenizerFast:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, use_fast=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises a dozen kinds
        raise ModelError(f"{file}: transformers cannot read its tokenizer: {first_line(error)}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(f"{file}: its tokenizer is not one that transformers can make a fast one of")
    return tokenizer


def _network(file: Path, kind: str, dtype: torch.dtype) -> PreTrainedModel:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=dtype, quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False, output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # transformers raises a dozen kinds
        why = f"transformers cannot read a GGUF file of the class {kind!r}"
        raise ModelError(f"{file}: {why}: {first_line(error)}") from error
    network, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{file}: {len(missing)} tensors of a {kind!r} are missing, {missing[0]!r} first")
    made: PreTrainedModel = network
    return made


def _settle(folder: Path) -> None:
    """Take out of the files what another version or umask would make different."""
    for name in ("config.json", "generation_config.json"):
        file = folder / name
        if file.is_file():
            values = json.loads(file.read_bytes())
            values.pop("transformers_version", None)
            file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", file)
