"""A teacher whose weights are kept in 8 or 4 bits, so that a larger one fits.

In: a model reference. Out: a `Model` whose linear layers are quantised by torchao, weights only. Its fingerprint is
another one, since its logits differ a little. The weights are read into the CPU's memory, and only the quantised ones
go to the accelerator. It does not know what the teacher is for.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from .. import models
from ..errors import InputError, ModelError
from ..models import Device, Model
from ..records import digest

Bits = Literal[0, 4, 8]
CONFIGS = {8: "Int8WeightOnlyConfig", 4: "Int4WeightOnlyConfig"}


def load(ref: str, bits: Bits, device: Device = "auto", home: Path | None = None) -> Model:
    """`models.load`, quantised where `bits` is not 0.

    `InputError`: torchao is not installed; `ModelError`: it cannot do this here (4 bits take an accelerator).
    """
    if not bits:
        return models.load(ref, device, home)
    try:
        library: Any = importlib.import_module("torchao.quantization")
    except ImportError as error:
        raise InputError(
            f"teacher.bits: {bits} takes torchao: pip install 'stillhouse[quantise]'; or bits = 0"
        ) from error
    where = models.choose_device(device)
    model = models.load(ref, "cpu", home)
    network: Any = model.network
    if where.type != "cpu":
        network.to(torch.bfloat16)
    try:
        library.quantize_(network.to(where) if bits == 4 else network, getattr(library, CONFIGS[bits])())
        network.to(where)
    except Exception as error:  # torchao raises whatever its kernels do
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{ref}: cannot be kept in {bits} bits on {where.type}: {first}; use bits = 0") from error
    return replace(model, device=where, fingerprint=digest([model.fingerprint, "torchao", bits]))
