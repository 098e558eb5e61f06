"""An adapter as PEFT's two files: `adapter_config.json` and `adapter_model.safetensors` (`docs/formats/adapter.md`).

In: tensors under PEFT's names and the config as a mapping (`AdapterBank.export`, `.adapter_config`). Out: a folder that
`peft`, vLLM, SGLang and llama.cpp load, and back. Pickle (`adapter_model.bin`) is refused. It does not know what the
tensors mean: `AdapterBank.load` checks them against a network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ..errors import ModelError
from ..storage.files import write_atomic

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"


def write(folder: Path, tensors: Mapping[str, torch.Tensor], adapter_config: Mapping[str, Any]) -> None:
    """Write both files, each whole or not at all; the config comes last, so a folder that has it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / WEIGHTS, to_bytes(tensors))
    write_atomic(folder / CONFIG, (json.dumps(adapter_config, indent=2, sort_keys=True) + "\n").encode())


def read(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and config of an adapter folder. `ModelError`: a file missing, pickled, truncated or not an adapter."""
    if not (folder / WEIGHTS).is_file():
        if (folder / PICKLE).exists():
            raise ModelError(f"{folder / PICKLE} is a pickle, which can run code: save the adapter as {WEIGHTS}")
        raise ModelError(f"{folder}: no {WEIGHTS} there, so it is not an adapter in PEFT's format")
    return from_bytes((folder / WEIGHTS).read_bytes(), str(folder / WEIGHTS)), _read_config(folder / CONFIG)


def to_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The content of adapter_model.safetensors; equal tensors give equal bytes, whatever their order."""
    ready = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return save(ready, metadata={"format": "pt"})


def from_bytes(content: bytes, where: str = WEIGHTS) -> dict[str, torch.Tensor]:
    """The opposite of `to_bytes`. `ModelError` naming `where` when the bytes are not a whole safetensors file."""
    try:
        return load(content)
    except (SafetensorError, ValueError) as problem:
        raise ModelError(f"{where} is not a whole safetensors file: {problem}") from None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: an adapter needs it beside {WEIGHTS}") from None
    except ValueError as problem:
        raise ModelError(f"{path} is not JSON: {problem}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return config
