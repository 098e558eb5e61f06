"""A loaded model: network, tokenizer, device, fingerprint, and text <-> ids.

It does not know where a model comes from (`loading.py`), adapters, memories or users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..text.prompts import Message
from .tokens import render, token_bytes

T = TypeVar("T")
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class Model:
    """A loaded causal language model with its tokenizer.

    `fingerprint` is SHA-256 (hex) over configuration, tokenizer and weights; `stop_ids` are the ids that end an answer.
    """

    ref: str
    path: Path
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    fingerprint: str
    device: torch.device
    stop_ids: frozenset[int] = field(default_factory=frozenset)
    _known: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make()` gave the first time: trials of this network, tables of this vocabulary. Gone with the model."""
        if name not in self._known:
            self._known[name] = make()
        known: T = self._known[name]
        return known

    @property
    def vocabulary(self) -> int:
        """Width of the logits, padding rows of the embedding included."""
        return int(self.network.get_output_embeddings().weight.shape[0])

    @property
    def context(self) -> int:
        """Longest sequence the model was made for, in tokens."""
        return int(getattr(self.network.config.get_text_config(), "max_position_embeddings", 0) or 2048)

    def chat_text(self, messages: Sequence[Message]) -> str:
        """Messages rendered by the model's own chat template, ready for the assistant's reply."""
        return render(self.tokenizer, messages)

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of `chat_text`. A template that writes special tokens has written them all: none are added."""
        return self.text_ids(self.chat_text(messages))

    def text_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: Iterable[int]) -> str:
        """Text of ids without special tokens, surrounding space removed."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes each id stands for; ids without a token stand for nothing."""
        return token_bytes(self.tokenizer, self.vocabulary)
