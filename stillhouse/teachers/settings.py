"""Settings of a capture of a data set, and of the choice of an answer's positions.

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
    """Which answer tokens get signals: all while nothing is set, otherwise the tokens that any of these chooses."""

    spans: tuple[str, ...] = ()
    """Regular expressions. They choose the tokens that touch a match, or its first group where it has one."""
    entropy: float = 0.0
    """Nats of the teacher's distribution from which a token is chosen; 0: this chooses none."""
    refusal: int = 0
    """Tokens chosen before and after each place where an answer begins, or begins or stops to refuse or to say that it
    does not know; 0: this chooses none."""

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
    """How a data set is captured. The defaults keep a position in some 30 bytes at a vocabulary of 152k."""

    top_k: int = 8
    """Exact entries of a distribution that are kept per token, at most; 1 to 255."""
    draws: int = 16
    """Draws from the rest of a distribution per token, at most; 0 to 255."""
    share: float = 0.054
    """Probability mass that one draw stands for while `draws` last, 0 to 1; entries under three quarters of it are left
    to the draws. 0: all draws are made."""
    keep: float = 1e-3
    """Probability of an exact entry, at least; 0 to 0.5. The first entry is always kept."""
    teacher_system: str = ""
    """A system message that the teacher reads and the student does not; empty: none."""
    max_new_tokens: int = 128
    """Tokens of the longest answer that the teacher writes, at least 1."""
    temperature: float = 0.0
    """Of the answers that the teacher writes, 0 to 100; 0: the likeliest token each time."""
    samples: int = 1
    """Answers that the teacher writes per prompt without an answer, at least 1; more than 1 takes a temperature."""
    max_tokens: int = 0
    """Tokens of the longest example; 0: the teacher's context."""
    too_long: Literal["refuse", "skip"] = "refuse"
    """What happens to a longer example: an error that names it, or the capture goes on without it."""
    positions: Positions = field(default_factory=Positions)
    """Which answer tokens get signals; by default all."""
    shard_examples: int = 256
    """Examples per shard, at least 1. A killed run goes on with the first shard that is missing."""
    batch_tokens: int = 4096
    """Tokens in one forward of the teacher, padding included; at least 1."""
    seed: int = 0
    """Seed of everything that is drawn."""

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
