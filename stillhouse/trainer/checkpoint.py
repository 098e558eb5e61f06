"""Everything that a run needs to go on, in one safetensors file that is replaced atomically.

In: the parameters that learn, their AdamW, where the run is. Out: the file, and the same again from it, to the last
bit. Weights that are shared out over processes are written whole, so that any number of processes goes on from it.

It does not know what is trained.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import ModelError
from ..storage.files import sync_folder
from .ranks import Ranks, like, put, whole

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save(
    file: Path, learning: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, state: Mapping[str, Any],
    here: Ranks,
) -> None:  # fmt: skip
    """Write it; every process calls, the first writes."""
    tensors: dict[str, Tensor] = {}
    for i, p in enumerate(learning):
        named = {f"p/{i}": p.detach()} | {f"{m}/{i}": optimizer.state[p][m] for m in MOMENTS if p in optimizer.state}
        for name, tensor in named.items():
            full = whole(tensor)
            if here.first:
                tensors[name] = full.cpu().contiguous()
    if here.first:
        _write(file, tensors, json.dumps(dict(state)))
    here.wait()


def resume(file: Path, learning: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, key: str) -> dict[str, Any]:
    """Parameters and optimiser as they were; returns the state. `ModelError`: damaged, or of another run."""
    try:
        with safe_open(file, framework="pt") as handle:
            state: dict[str, Any] = json.loads(handle.metadata()["state"])
            if state["key"] != key:
                raise ModelError(f"{file}: checkpoint of another run (other signals, settings or student); delete it")
            for i, p in enumerate(learning):
                put(p, handle.get_tensor(f"p/{i}"))
                if f"{MOMENTS[0]}/{i}" in handle.keys():  # noqa: SIM118 - the handle itself cannot be iterated
                    count, *moments = (handle.get_tensor(f"{name}/{i}") for name in MOMENTS)
                    moved = zip(MOMENTS[1:], (like(p.detach(), m) for m in moments), strict=True)
                    optimizer.state[p] = {MOMENTS[0]: count, **dict(moved)}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{file}: checkpoint cannot be read ({error}); delete it to start over") from error
    return state


def _write(file: Path, tensors: dict[str, Tensor], state: str) -> None:
    partial = file.parent / f".partial-{uuid.uuid4().hex}"
    try:
        save_file(tensors, partial, {"state": state})
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
        partial.replace(file)
        sync_folder(file.parent)
    finally:
        partial.unlink(missing_ok=True)
