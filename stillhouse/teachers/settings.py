"""What a capture of a data set may be told, and how its answers' positions are chosen.

In: a recipe's `[capture]` table. Out: `Config`. It does not know models or files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from ..errors import InputError
from ..signals.sparsify import Sparsity

Dialect = Literal["auto", "openai", "vllm", "sglang", "llama.cpp"]  # how an endpoint is spoken to


@dataclass(frozen=True)
class Positions:
    """Which answer tokens get signals: all of them while nothing is set, otherwise those that any of these names.

    `spans`: regular expressions; tokens that touch a match, or its first group where it has one. `entropy`: positions
    where the teacher's distribution has at least so many nats. `refusal`: so many tokens before and after each place
    where an answer begins, or begins or stops to refuse or to say that it does not know.
    """

    spans: tuple[str, ...] = ()
    entropy: float = 0.0
    refusal: int = 0

    def __post_init__(self) -> None:
        for name in ("entropy", "refusal"):
            if getattr(self, name) < 0:
                raise InputError(f"capture.positions.{name}: {getattr(self, name)} is not allowed; at least 0")
        for pattern in self.spans:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(
                    f"capture.positions.spans: {pattern!r} is not a regular expression: {error}"
                ) from error

    @property
    def all(self) -> bool:
        """Whether nothing is left out."""
        return not (self.spans or self.entropy or self.refusal)


@dataclass(frozen=True)
class Config:
    """`top_k` entries at most are exact, none (but the first) under the probability `keep`. A draw from the rest stands
    for `share` of mass while `draws` last, and entries under three quarters of `share` are left to the draws; with 0
    all draws are used. `samples` answers are written per prompt where none is given; `temperature` 0 is greedy.
    `max_tokens`: longest example, 0 for the teacher's context."""

    top_k: int = 8
    draws: int = 16
    share: float = 0.054
    keep: float = 1e-3
    teacher_system: str = ""
    max_new_tokens: int = 128
    temperature: float = 0.0
    samples: int = 1
    max_tokens: int = 0
    too_long: Literal["refuse", "skip"] = "refuse"
    positions: Positions = field(default_factory=Positions)
    shard_examples: int = 256
    batch_tokens: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most in _RANGES:
            if not least <= getattr(self, name) <= most:
                allowed = f"{least} to {most}" if most < 1 << 31 else f"at least {least}"
                raise InputError(f"capture.{name}: {getattr(self, name)} is not allowed; it must be {allowed}")
        if self.samples > 1 and not self.temperature:
            raise InputError(
                f"capture.samples: {self.samples} greedy answers are all the same; set capture.temperature"
            )

    @property
    def sparsity(self) -> Sparsity:
        """How a distribution is cut down."""
        return Sparsity(self.top_k, self.draws, self.share, self.keep)


_RANGES = (
    ("top_k", 1, 255), ("draws", 0, 255), ("share", 0.0, 1.0), ("keep", 0.0, 0.5), ("max_new_tokens", 1, 1 << 31),
    ("temperature", 0, 100), ("samples", 1, 1 << 31), ("max_tokens", 0, 1 << 31), ("shard_examples", 1, 1 << 31),
    ("batch_tokens", 1, 1 << 31),
)  # fmt: skip
