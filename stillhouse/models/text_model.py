"""The text side of a model: what everybody needs who speaks with it, whatever computes its logits.

In: a tokenizer with its chat template, and a fingerprint. Out: messages and texts as ids, ids as text. It does not know
weights: `Model` adds a network of transformers, and another engine (a file of its own format, another process) adds
what it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerFast

from ..errors import InputError
from ..text.prompts import Message
from .chat import render
from .tokens import opening_ids, token_bytes

T = TypeVar("T")


@dataclass(frozen=True)
class TextModel(ABC):
    """A causal language model as far as text goes.

    `ref` is what it was asked for by, `path` where its files are. `fingerprint` is SHA-256 (hex) over configuration,
    tokenizer and weights; `stop_ids` are the ids that end an answer.
    """

    ref: str
    path: Path
    tokenizer: PreTrainedTokenizerFast
    fingerprint: str
    stop_ids: frozenset[int]
    _known: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Width of the logits."""

    @property
    @abstractmethod
    def context(self) -> int:
        """Longest sequence the model was made for, in tokens."""

    @property
    def temperature(self) -> float:
        """At which the model's makers want answers to be drawn, where a request does not say; 0: greedy."""
        return 0.0

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Returns what `make()` gave the first time: trials of the weights, tables of the vocabulary. It goes with the
        model, and a changed copy (`dataclasses.replace`) begins anew."""
        if name not in self._known:
            self._known[name] = make()
        known: T = self._known[name]
        return known

    def chat_text(self, messages: Sequence[Message]) -> str:
        """Messages by the model's own chat template, or as a transcript, ready for the assistant's reply."""
        return render(self.tokenizer, messages)

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of `chat_text`. A template has written all special tokens that it wants: none are added to its
        text. A transcript is a text like any other."""
        text = self.chat_text(messages)
        return self.text_ids(text) if self.tokenizer.chat_template else self.opened_ids(text)

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text that goes on, of any length, without special tokens around it. `InputError`: half of a
        surrogate pair is in it, which no tokenizer reads."""
        try:
            return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        except (UnicodeEncodeError, TypeError) as error:
            place = next((i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff"), None)
            if place is None:
                raise
            near = text[max(0, place - 20) : place + 1]
            raise InputError(f"not Unicode text: half of a surrogate pair after {near!r}") from error

    @cached_property
    def opening(self) -> tuple[int, ...]:
        """Ids that the model's tokenizer puts before every text, as a BOS; none where it puts none."""
        return opening_ids(self.tokenizer)

    def opened_ids(self, text: str) -> list[int]:
        """Token ids of a text that begins here, after `opening`, which is not put before a text that has it: a raw
        prompt, running text."""
        ids = self.text_ids(text)
        return ids if tuple(ids[: len(self.opening)]) == self.opening else [*self.opening, *ids]

    def text(self, ids: Iterable[int]) -> str:
        """Text of ids without special tokens, surrounding space removed."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    @property
    def pad_id(self) -> int:
        """The id that fills up rows; any would do where the tokenizer has none."""
        return self.tokenizer.pad_token_id or 0

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes each id stands for; ids without a token stand for nothing."""
        return token_bytes(self.tokenizer, self.vocabulary)
