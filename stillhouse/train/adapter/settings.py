"""How a user's adapter is trained.

In: settings of the table `train`. Out: a frozen `Config`; `InputError` for what is not allowed.

It does not know how they are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...config import check_numbers, later
from ...errors import InputError
from ...losses import Tail
from ...trainer.loop import check_patience
from ...trainer.precision import Precision
from .start import AUTO

POSITIVE = ("rank", "alpha", "clip", "checkpoint_every", "batch_tokens", "anchor_every", "curvature_tokens")


@dataclass(frozen=True)
class Config:
    """How an adapter learns one user's memory."""

    rank: int = 16
    """Of the adapter."""
    alpha: float = 32.0
    """The adapter's update is multiplied by `alpha / rank`."""
    targets: Literal["all", "attention", "mlp"] = "all"
    """Which linear layers are adapted; the MLP alone learns less of a memory."""
    experts: bool = True
    """Whether stacked experts are adapted too; engines that cannot serve them want false."""
    start: str = AUTO
    """The adapter to begin with: "auto" (the base's own where it has one), "none" or a folder of `stillhouse prime`."""
    learning_rate: float = 0.0
    """The peak. 0: what the start was made for, or 12e-3 without one."""
    steps: int = 0
    """At most so many steps. 0: what the start was made for, or 90 without one."""
    warmup: int = 8
    """Steps in which the learning rate grows; at most an eighth of all."""
    facts: int = 18
    """Questions that the memory answers, per user and step."""
    unknowns: int = 14
    """Questions that it does not answer, per user and step."""
    unknown_wholes: int = 2
    """Of so many unknowns in a step the whole answer is trained; of the others what tells it from a fact's answer."""
    anchors: int = 2
    """Prompts that have nothing to do with the memory, per user and step."""
    curvature_weight: float = 200.0
    """Weight that the drift from the base has at the end, as the base's curvature foretells it; 0: none."""
    curvature_tokens: int = 4096
    """Tokens of running text that the curvature is read from."""
    anchor_rows: int = 0
    """Windows of running text on which the drift from the base is measured; 0: none."""
    anchor_tokens: int = 96
    """Tokens of such a window."""
    anchor_every: int = 2
    """Steps from one set of windows to the next."""
    fact_weight: float = 1.0
    """Weight of the mean loss of facts, in nats."""
    unknown_weight: float = 0.5
    """Weight of the mean loss of unknowns, in nats."""
    prompt_weight: float = 0.5
    """Weight of the mean loss of unrelated prompts, in nats."""
    anchor_weight: float = 32.0
    """Weight that the drift measured on windows has at the end."""
    noise: float = 0.9
    """Embeddings are moved by up to so many of their own standard deviations."""
    clip: float = 1.0
    """Largest norm of a user's gradient in a step."""
    mastered: float = 0.2
    """Nats per token below which an example is mastered. A user who has mastered all is done."""
    anchored: float = 0.015
    """Drift from the base, nats per token, below which a user may be done."""
    tail: Tail = "sampled"
    """What the teacher's tail counts for, as in `losses`."""
    precision: Precision = "auto"
    """Number format of the network's products; "auto" is bfloat16 where it is fast."""
    checkpoint_every: int = 20
    """Steps between checkpoints."""
    batch_tokens: int = 4096
    """Tokens that go through the network at once, padding included. One example always fits."""
    together: int = 0
    """Users in one batch. 0: as many as suit the device."""
    seed: int = 0
    """Of new adapters, of the order of examples, of noise and dropout."""
    dropout: float = later(0.0)
    """Share of an adapter's inputs that are left out at random in training, 0 to under 1. Not for stacked experts."""
    validate_every: int = later(0)
    """Steps between validations on examples held out from training, 0: none. The adapter is then the best one that was
    validated."""
    held_out: float = later(0.1)
    """Share of a user's facts and unknowns that validation holds out, at least one of each kind there are two of."""
    patience: int = later(0)
    """Validations in a row without a better one after which a user is done; 0: never."""

    def __post_init__(self) -> None:
        check_numbers(self, "train", POSITIVE)
        if not self.facts + self.unknowns + self.anchors:
            raise InputError("train.facts, train.unknowns and train.anchors are all 0: nothing would be trained on")
        for name in ("dropout", "held_out"):
            if getattr(self, name) >= 1:
                raise InputError(f"train.{name}: {getattr(self, name)} is not allowed; it is a share, 0 to under 1")
        check_patience(self.patience, self.validate_every)
