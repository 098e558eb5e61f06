"""A loaded model: its text side with a network of transformers that computes it.

It does not know where a model comes from (`loading.py`), adapters, memories or users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from .text_model import TextModel

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class Model(TextModel):
    """A loaded causal language model with its tokenizer."""

    network: PreTrainedModel
    device: torch.device

    @property
    def vocabulary(self) -> int:
        """Width of the logits, padding rows of the embedding included."""
        return int(self.network.get_output_embeddings().weight.shape[0])

    @property
    def context(self) -> int:
        """Longest sequence the model was made for, in tokens."""
        return int(getattr(self.network.config.get_text_config(), "max_position_embeddings", 0) or 2048)

    @property
    def temperature(self) -> float:
        """Of the generation config that came with the weights, where that draws at all."""
        own = self.network.generation_config
        return float(getattr(own, "temperature", None) or 1.0) if getattr(own, "do_sample", False) else 0.0
