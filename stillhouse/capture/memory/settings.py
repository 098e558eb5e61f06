"""How a memory is captured."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError
from ...signals.sparsify import Sparsity


@dataclass(frozen=True)
class Config:
    """How a memory is captured: how much is asked of the teacher, and how much of its distribution is kept."""

    wordings: int = 5
    """Questions that the teacher is asked to write about a statement, at least 1; a reverse one comes on top."""
    rounds: int = 3
    """How often the teacher is asked again, by sampling, where too few of its questions were usable; 0: never."""
    chunk_tokens: int = 768
    """Tokens of memory that a teacher reads at once; at most half of the model's context is used."""
    max_memory_tokens: int = 131_072
    """Tokens of the longest memory that is taken."""
    top_k: int = 16
    """Exact entries of a distribution that are kept per token, 1 to 255."""
    draws: int = 4
    """Draws from the rest of a distribution per token, 0 to 255."""
    unknown_per_statement: int = 36
    """Near misses per statement: questions that the memory does not answer."""
    decoys: int = 64
    """Everyday questions per chunk that the memory probably does not answer."""
    anchor_texts: int = 0
    """Passages of running text on which the base is recorded. Only a student that is trained where its base is not at
    hand needs them: `train` computes its own."""
    anchor_tokens: int = 32
    """Tokens of each such passage."""
    anchor_prompts: int = 24
    """Everyday requests on which the base's own answers are recorded."""
    max_answer_tokens: int = 48
    """Tokens of the longest answer of a teacher, at least 1."""
    seed: int = 0
    """Seed of everything that is drawn."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise InputError(f"capture.{name}: {getattr(self, name)} is too small; at least {least} is allowed")
        for name in ("top_k", "draws"):
            if getattr(self, name) > 255:  # counted in one byte on disk
                raise InputError(f"capture.{name}: {getattr(self, name)} is too large; at most 255 is allowed")

    @property
    def sparsity(self) -> Sparsity:
        """How a distribution is cut down."""
        return Sparsity(self.top_k, self.draws)


_LEAST = {
    "wordings": 1, "rounds": 0, "chunk_tokens": 1, "max_memory_tokens": 1, "top_k": 1, "draws": 0,
    "unknown_per_statement": 0, "decoys": 0, "anchor_texts": 0, "anchor_tokens": 0, "anchor_prompts": 0,
    "max_answer_tokens": 1,
}  # fmt: skip

DEFAULTS = Config()
