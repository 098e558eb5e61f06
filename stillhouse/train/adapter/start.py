"""A start: an adapter that has learned, from public memories, what all students of one base have in common.

In: a model's folder, or the folder of a start. Out: the adapter to begin with, and how long and how fast to train from
there. Most of what a student learns is what all students share: to answer about somebody without notes, and to say so
where nothing is known. From a start it therefore needs little more than half of the steps. `stillhouse prime` makes
one. In a folder `start` beside a base's weights it is used without being named. Format: `docs/formats/adapter.md`.

A start is for exactly one base, as its fingerprint says. It does not know how it was made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError, ModelError
from ...export import peft
from ...lora import AdapterBank, LoraConfig
from ...models import Model
from ...storage.files import write_atomic

FORMAT = 1
FOLDER = "start"  # beside the weights
ABOUT = "start.json"
AUTO, NONE = "auto", "none"


@dataclass(frozen=True)
class Start:
    """Where it lies, the SHA-256 of its weights, the shape of its adapter, and the steps and peak learning rate that it
    was made for."""

    folder: Path
    digest: str
    rank: int
    targets: str
    experts: bool
    steps: int
    learning_rate: float

    def fits(self, lora: LoraConfig) -> bool:
        """Whether adapters of this shape can begin with it; a larger rank begins with what it has beside it."""
        return (lora.targets, lora.experts) == (self.targets, self.experts) and lora.rank >= self.rank


def find(model: Model, which: str, lora: LoraConfig) -> Start | None:
    """The start that `which` names: a folder, "auto" (the one beside the base's weights, where there is one for exactly
    this base and shape of adapter), or "none".

    `InputError` for a folder that is no start, or one for another base or another shape.
    """
    if which == NONE:
        return None
    folder = model.path / FOLDER if which == AUTO else Path(which).expanduser().resolve()
    if not (folder / ABOUT).is_file():
        if which == AUTO:
            return None
        raise InputError(f"train.start: {which!r} is no start; 'auto', 'none' or a folder of `stillhouse prime`")
    start, base = _read(folder)
    wrong = ""
    if base != model.fingerprint:
        wrong = f"for another base ({base[:12]}; this one is {model.fingerprint[:12]})"
    elif not start.fits(lora):
        wrong = f"of rank {start.rank}, targets {start.targets!r}, experts {start.experts}, which does not fit these"
    if wrong and which != AUTO:
        raise InputError(f"train.start: {which!r} is {wrong}")
    return None if wrong else start


def begin(bank: AdapterBank, slot: int, seed: int, start: Start | None) -> None:
    """A new adapter in `slot`: the start's, or one that equals the base. Where the bank's rank is larger than the
    start's, the rest is as without one. `ModelError` when the start's files are damaged."""
    bank.reset(slot, seed)
    if start is None:
        return
    tensors, config = peft.read(start.folder)
    if _digest(start.folder) != start.digest:
        raise ModelError(f"{start.folder / peft.WEIGHTS} is not what {ABOUT} says: make it again, or take it away")
    drawn = [site.a[slot].detach().clone() for site in bank.sites]
    bank.load(slot, tensors, config)
    with torch.no_grad():
        for site, a in zip(bank.sites, drawn, strict=True):
            unused = (site.a[slot] == 0).all(-1, keepdim=True)
            site.a[slot] = torch.where(unused, a, site.a[slot])


def write(
    folder: Path, model: Model, tensors: Mapping[str, Tensor], adapter_config: Mapping[str, Any], lora: LoraConfig,
    steps: int, learning_rate: float, made: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write a start of `model` as PEFT's two files, rounded to bfloat16, and `start.json`, which comes last and names
    their digest: a folder that has it is complete. `made`: how, for people."""
    (folder / ABOUT).unlink(missing_ok=True)
    peft.write(folder, {name: tensor.bfloat16() for name, tensor in tensors.items()}, adapter_config)
    about = {
        "format": FORMAT, "base": model.fingerprint, "digest": _digest(folder), "rank": lora.rank,
        "targets": lora.targets, "experts": lora.experts, "steps": steps, "learning_rate": learning_rate,
        "made": dict(made),
    }  # fmt: skip
    write_atomic(folder / ABOUT, (json.dumps(about, indent=1) + "\n").encode())


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / peft.WEIGHTS).read_bytes()).hexdigest()


def _read(folder: Path) -> tuple[Start, str]:
    """A start, and the fingerprint of its base."""
    file = folder / ABOUT
    try:
        raw = json.loads(file.read_bytes())
        if raw["format"] != FORMAT:
            raise InputError(f"{str(file)!r} is of format {raw['format']}; this version reads {FORMAT}")
        names = ("digest", "rank", "targets", "experts", "steps", "learning_rate")
        return Start(folder, *(raw[name] for name in names)), str(raw["base"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(file)!r} is damaged ({error!r}); make it again, or take the folder away") from error
