"""Student kind `full`: a whole model, or LoRA adapters on one, that learn a teacher's signals over data sets.

In: a student and a feed of a teacher's signals. Out: the student, trained in place: all of its weights, or adapters in
PEFT's form, one for every slot the feed's examples name, all in the same batches. Under `torchrun` the weights are
shared out over the processes. The loss is `alpha * T^2 * divergence + (1 - alpha) * cross-entropy` on the teacher's
sparse distribution at answer tokens (`losses/divergence.py`); with another tokenizer, on chunks of bytes
(`feeds/aligned.py`).

It does not know where the student came from or where it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..compute.packed import BYTES, pack
from ..config import as_dict, check_numbers, later
from ..errors import InputError
from ..feeds.epochs import steps, together
from ..feeds.same_tokens import Feed
from ..feeds.states import Matching, TracedFeed
from ..lora import AdapterBank, LoraConfig
from ..losses import Objective
from ..models import Model
from ..records import BestStep, digest
from ..trainer.feed_task import FeedTask, SlotFeed, prepare
from ..trainer.loop import Measured, Schedule, TrainingPlan, best_of, check_patience, fit, validation_of
from ..trainer.ranks import Ranks, ranks

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Config:
    """How a student learns from a feed."""

    lora: LoraConfig | None = None
    """The shape of the adapter that is trained; None trains all weights."""
    objective: Objective = field(default_factory=Objective)
    """What is minimised at every target."""
    learning_rate: float = 0.0
    """The peak. 0 is 5e-4 for all weights and 2e-3 for an adapter."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate grows, 0 to under 1."""
    weight_decay: float = 0.0
    """AdamW's."""
    clip: float = 1.0
    """Largest norm of a step's gradient."""
    epochs: float = 1.0
    """How often every example comes; a share of the last epoch is allowed."""
    steps: int = 0
    """At most so many steps; 0: as many as the epochs give."""
    batch_tokens: int = 4096
    """Tokens of a micro-batch, padding included, over all processes. One example always fits."""
    accumulate: int = 1
    """Micro-batches of one step."""
    mixed: Literal["auto", "on", "off"] = "auto"
    """Products in bfloat16 with weights in float32; "auto" is on where an accelerator has bfloat16."""
    recompute: bool = False
    """Layers are computed again in the backward pass instead of kept: less memory, more time."""
    hidden: float = 0.0
    """Weight of the distance from the teacher's hidden states; needs traces of them."""
    routing: float = 0.0
    """Weight of the divergence from the teacher's choice of experts; needs traces of it."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    seed: int = 0
    """Of the order of examples, of new adapters and of dropout."""
    validate_every: int = later(0)
    """Steps between validations on held-out examples, 0: none. The student is then the best one that was validated."""
    patience: int = later(0)
    """Validations in a row without a better one after which training ends; 0: it takes all its steps."""

    def __post_init__(self) -> None:
        check_numbers(self, "train", ("clip", "epochs", "batch_tokens", "accumulate", "checkpoint_every"))
        if self.warmup >= 1:
            raise InputError(f"train.warmup: {self.warmup} is not allowed; it is a share of the steps, 0 to under 1")
        check_patience(self.patience, self.validate_every)

    @property
    def peak(self) -> float:
        """The peak learning rate."""
        return self.learning_rate or (2e-3 if self.lora else 5e-4)


@dataclass
class Trained:
    """What was trained. With LoRA the bank stays on the network until `bank.detach()`."""

    steps: int
    by_slot: tuple[tuple[float, ...], ...]  # every adapter's losses, in nats per target
    bank: AdapterBank | None = None
    validation: tuple[Measured, ...] = ()
    """Of every adapter: steps, and the loss on held-out examples after so many. It is of the first lowest."""
    best: tuple[BestStep | None, ...] = ()
    """Of every adapter the step that it is of, None without validation."""

    @property
    def losses(self) -> tuple[float, ...]:
        """Of the only adapter, or of all weights."""
        return self.by_slot[0]

    def adapter(self, base_ref: str, slot: int = 0) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """PEFT's tensors and configuration, or None where all weights were trained."""
        return (self.bank.export(slot), self.bank.adapter_config(base_ref)) if self.bank else None


def planned(feed: Feed, config: Config, slots: Sequence[int] = ()) -> int:
    """How many steps a training takes."""
    return max(map(len, _steps(feed, config, slots)))


def train(
    model: Model,
    feed: Feed,
    config: Config = Config(),
    work: Path | None = None,
    on_step: Callable[[int, str], None] = lambda n, note: None,
    key: str = "",
    slots: Sequence[int] = (),
    names: Sequence[str] = (),
    held_out: Feed | None = None,
    held_out_slots: Sequence[int] = (),
) -> Trained:
    """Train `model` in place. With `work`, checkpoints go there and are gone on from; `key` says what the feed is.

    `slots`: the adapter that every example of the feed belongs to, 0 and up; `names` are theirs. Each adapter takes
    the steps, and becomes, what it would by itself. `held_out` is what validation reads, `held_out_slots` as `slots`.
    `ModelError`: a loss that is not a number (the batch and the last good checkpoint are named), a damaged checkpoint
    or one of another run.
    """
    if config.validate_every and held_out is None:
        raise InputError("train.validate_every: there are no held-out examples to validate on; set it to 0")
    if slots and config.lora is None:
        raise InputError("train.lora: missing; several students on one base are adapters, for example lora = {}")
    each, here = _steps(feed, config, slots), ranks()
    matching = _matching(model, feed, config, len(each), here)
    learner, losses = prepare(model, config.lora, len(each), config.seed, config.weight_decay, here, matching)
    parts, mixed = together(each, feed.lengths, config.batch_tokens), _mixed(model, config)
    validation = SlotFeed(held_out, held_out_slots) if held_out else None
    task = FeedTask(
        learner, losses, SlotFeed(feed, slots), parts, config.objective, mixed, validation, config.batch_tokens
    )
    key = digest([2, key, as_dict(config), model.fingerprint, list(slots)])
    schedules = [Schedule(len(own), config.peak, max(1, round(config.warmup * len(own)))) for own in each]
    plan = TrainingPlan(
        schedules, config.clip, config.checkpoint_every, key, config.seed, config.validate_every, config.patience, names
    )
    bank = learner.bank
    frozen = bank is not None and here.world == 1 and not mixed
    unpack = pack(learner.model.network, BYTES, gradients=True, once=model.once) if frozen else lambda: None
    try:
        with _training(learner.model, config):
            progress = fit(task, plan, work / CHECKPOINT if work else None, on_step)
        bank = learner.finish(model)
    except BaseException:
        if bank:
            bank.detach()
        raise
    finally:
        unpack()
    model.network.eval().requires_grad_(False)
    by_slot, best = tuple(map(tuple, progress.losses)), best_of(progress, plan)
    return Trained(progress.step, by_slot, bank, validation_of(progress), best)


def _steps(feed: Feed, config: Config, slots: Sequence[int]) -> list[list[list[list[int]]]]:
    """Every adapter's steps by themselves, in the numbers of the feed."""
    by_slot = []
    for slot in range(max(slots, default=0) + 1):
        numbers = [i for i in range(len(feed.lengths)) if not slots or slots[i] == slot]
        if not numbers:
            raise InputError(f"no examples for adapter {slot + 1} of {max(slots) + 1}: there is nothing to train it on")
        lengths = [feed.lengths[i] for i in numbers]
        own = steps(lengths, config.batch_tokens, config.accumulate, config.epochs, config.steps, config.seed)
        by_slot.append([[[numbers[i] for i in part] for part in step] for step in own])
    return by_slot


def _matching(model: Model, feed: Feed, config: Config, slots: int, here: Ranks) -> Matching | None:
    """What is added to the loss where inner states are matched too."""
    if not config.hidden and not config.routing:
        return None
    name = "hidden" if config.hidden else "routing"
    if not isinstance(feed, TracedFeed):
        raise InputError(f"train.{name}: no traces of the teacher; give the recipe a [traces] table")
    if slots > 1 or here.world > 1:
        raise InputError(f"train.{name}: inner states are matched by one student in one process; leave it out")
    return Matching(model, feed, config.hidden, config.routing)


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
    method: Callable[..., None] = getattr(network, f"activation_{name}", None) or getattr(network, f"gradient_{name}")
    return method
