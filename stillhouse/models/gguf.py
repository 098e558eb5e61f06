"""A GGUF file becomes a folder in Hugging Face's format, once.

In: a file. Out: a folder with safetensors, the configuration, the tokenizer and its chat template, named by the file's
SHA-256, so that the same file is converted once. transformers reads the file and unpacks its weights. They are written
as bfloat16, which is more than a quantised file holds.

It does not know where a file came from.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from contextlib import redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.quantization_config import GgufConfig

from ..errors import ModelError, first_line
from ..progress import progress
from ..storage.files import hash_file, make_folder, new_partial, sync_folder, write_atomic
from ..storage.locks import locked
from .places import SOURCE, models_folder
from .quiet import silence

MAGIC = b"GGUF"
SUFFIX = ".gguf"
HOURS = 3600.0  # how long a second process waits while a first one converts


def is_gguf(path: Path) -> bool:
    """Whether a path names a file of this format."""
    return path.is_file() and path.suffix == SUFFIX


def converted(file: Path, home: Path | None, show: bool = True) -> Path:
    """The folder of `file`, made when it is not there. `ModelError`: what `convert` says."""
    check(file)
    digest = hash_file(file)
    folder = models_folder(home) / f"gguf-{digest[:16]}"
    if not (folder / SOURCE).is_file():
        with progress("convert", 1, show, user=file.name) as step:
            convert(file, folder, {"file": file.name, "sha256": digest})
            step()
    return folder


def check(file: Path) -> None:
    """Refuse what is no GGUF file, before anything is loaded from it."""
    try:
        with file.open("rb") as handle:
            start = handle.read(len(MAGIC))
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
    if start != MAGIC:
        raise ModelError(f"{file}: no GGUF file: it begins with {start!r}, not with {MAGIC!r}")


def convert(file: Path, folder: Path, source: Mapping[str, Any]) -> None:
    """Write `folder` whole, or not at all. Two processes that convert the same file write it once.

    `ModelError` names a file of a class that transformers cannot read, one without a tokenizer, one that is cut off.
    """
    make_folder(folder.parent)
    with locked(folder.parent / f".{folder.name}.lock", f"{folder.name} is being made", wait=HOURS):
        if (folder / SOURCE).is_file():
            return
        partial = new_partial(folder.parent)
        try:
            _write(file, partial)
            install(partial, folder, {**source, "converted_by": f"transformers {version('transformers')}"})
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def install(partial: Path, folder: Path, source: Mapping[str, Any]) -> None:
    """Rename a finished folder into its place. What a killed process left there goes first."""
    write_atomic(partial / SOURCE, (json.dumps({"format": 1, **source}, indent=1) + "\n").encode())
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    sync_folder(folder.parent)


def _write(file: Path, folder: Path) -> None:
    where: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        with silence(), redirect_stderr(io.StringIO()):  # a bar of transformers that no setting of its own turns off
            tokenizer = AutoTokenizer.from_pretrained(file.parent, use_fast=True, **where)
            network = AutoModelForCausalLM.from_pretrained(
                file.parent, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True), **where
            )
    except Exception as error:  # transformers and gguf raise a dozen kinds for classes and files they cannot read
        raise ModelError(f"{file}: transformers cannot read this GGUF file: {first_line(error)}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(f"{file}: its tokenizer is not one that transformers can make a fast one of")
    with silence():
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
