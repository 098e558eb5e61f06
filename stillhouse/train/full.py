"""Student kind `full`: a whole model, or a LoRA adapter on one, that learns a teacher's signals over a data set.

In: a student and a feed of a teacher's signals. Out: the student, trained in place: all of its weights, or an adapter
in PEFT's form. The loss is `alpha * T^2 * divergence + (1 - alpha) * cross-entropy` on the teacher's sparse
distribution at answer tokens (`losses.py`); with another tokenizer, on chunks of bytes (`_aligned.py`).

It does not know where the student came from or where it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..config import as_dict
from ..errors import InputError
from ..lora import AdapterBank, LoraConfig
from ..losses import Objective
from ..models import Model
from ..records import digest
from ._epochs import steps
from ._examples import Feed
from ._loop import Plan, fit

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Config:
    """`lora` None trains all weights. `steps` 0: as many as the epochs give. `warmup` is a share of the steps.

    `mixed`: bfloat16 products with float32 weights; "auto" is on accelerators. `recompute`: layers are computed again
    in the backward pass instead of kept. A peak learning rate of 0 is 5e-4 for all weights and 2e-3 for an adapter.
    """

    lora: LoraConfig | None = None
    objective: Objective = field(default_factory=Objective)
    learning_rate: float = 0.0
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    epochs: float = 1.0
    steps: int = 0
    batch_tokens: int = 4096
    accumulate: int = 1
    mixed: Literal["auto", "on", "off"] = "auto"
    recompute: bool = False
    checkpoint_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("clip", "epochs", "batch_tokens", "accumulate", "checkpoint_every"):
            if getattr(self, name) <= 0:
                raise InputError(f"train.{name}: {getattr(self, name)} is not allowed; it must be more than 0")
        for name in ("learning_rate", "weight_decay", "steps"):
            if getattr(self, name) < 0:
                raise InputError(f"train.{name}: {getattr(self, name)} is not allowed; it must be at least 0")
        if not 0 <= self.warmup < 1:
            raise InputError(f"train.warmup: {self.warmup} is not allowed; it is a share of the steps, 0 to under 1")

    @property
    def peak(self) -> float:
        """The peak learning rate."""
        return self.learning_rate or (2e-3 if self.lora else 5e-4)


@dataclass
class Trained:
    """What came of it. With LoRA the bank stays on the network, in slot 0, until `bank.detach()`."""

    steps: int
    losses: tuple[float, ...]  # nats per target
    bank: AdapterBank | None = None

    def adapter(self, base_ref: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """PEFT's tensors and configuration, or None where all weights were trained."""
        return (self.bank.export(0), self.bank.adapter_config(base_ref)) if self.bank else None


def planned(feed: Feed, config: Config) -> int:
    """How many steps it will take."""
    return len(_steps(feed, config))


def train(
    model: Model,
    feed: Feed,
    config: Config = Config(),
    work: Path | None = None,
    on_step: Callable[[int, str], None] = lambda n, note: None,
    key: str = "",
) -> Trained:
    """Train `model` in place. With `work`, checkpoints go there and are gone on from; `key` says what the feed is.

    `ModelError`: a loss that is not a number (the batch and the last good checkpoint are named), a damaged checkpoint
    or one of another run.
    """
    bank = _adapters(model, config) if config.lora else None
    learning = bank.parameters() if bank else _thawed(model)
    plan = Plan(
        _steps(feed, config), config.peak, config.warmup, config.weight_decay, config.clip, config.objective,
        _mixed(model, config), config.checkpoint_every, config.seed,
        digest([key, as_dict(config), model.fingerprint]),
    )  # fmt: skip
    file = work / CHECKPOINT if work else None
    try:
        with _training(model, config):
            progress = fit(model, learning, bank_rows(bank), feed, plan, file, on_step)
    except BaseException:
        if bank:
            bank.detach()
        raise
    return Trained(progress.step, tuple(progress.losses), bank)


def bank_rows(bank: AdapterBank | None) -> Callable[[int], Any]:
    """What is entered around a batch of n rows so that each uses the adapter of slot 0."""
    return lambda n: bank.rows([0] * n) if bank else nullcontext()


def _steps(feed: Feed, config: Config) -> list[list[list[int]]]:
    return steps(feed.lengths, config.batch_tokens, config.accumulate, config.epochs, config.steps, config.seed)


def _adapters(model: Model, config: Config) -> AdapterBank:
    assert config.lora is not None, "asked for only with LoRA"
    bank = AdapterBank(model.network, 1, config.lora)
    for parameter in bank.parameters():
        parameter.data = parameter.data.float()  # small updates are lost in bfloat16
    bank.reset(0, config.seed)
    return bank


def _thawed(model: Model) -> list[nn.Parameter]:
    model.network.float()
    model.network.requires_grad_(True)
    return list(model.network.parameters())


def _mixed(model: Model, config: Config) -> bool:
    accelerated = model.device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.mixed == "on" or (config.mixed == "auto" and accelerated)


@contextmanager
def _training(model: Model, config: Config) -> Iterator[None]:
    """The network in training mode, layers recomputed where asked; as it was afterwards."""
    network: Any = model.network
    enable, disable = (_either(network, "checkpointing_" + verb) for verb in ("enable", "disable"))
    network.train()
    if config.recompute:
        enable({"use_reentrant": False})
        network.enable_input_require_grads()
    try:
        yield
    finally:
        if config.recompute:
            disable()
            network.disable_input_require_grads()
        network.eval()
        network.requires_grad_(False)


def _either(network: Any, name: str) -> Callable[..., None]:
    """transformers renamed gradient checkpointing to activation checkpointing."""
    found: Callable[..., None] = getattr(network, f"activation_{name}", None) or getattr(network, f"gradient_{name}")
    return found
