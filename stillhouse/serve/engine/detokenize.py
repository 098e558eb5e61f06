"""Turns the tokens of an answer into text, one token at a time, up to a stop string.

In: token ids, one at a time. Out: the text that is certain so far. Half of a character, and text that may turn out to
be the beginning of a stop string, are withheld. This module does not know models or requests.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

from ...models import TextModel


class TextStream:
    """The text of one answer. `stopped` is True after a stop string; the text ends before it."""

    def __init__(self, model: TextModel, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = model.tokenizer, tuple(stop)
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._decoded = 0  # characters that the decoder has returned
        self._withheld = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is certain since this token; it may be empty."""
        self._ids.append(token)
        piece = self._decoder.step(self._tokenizer.backend_tokenizer, token) or ""
        self._decoded += len(piece)
        return self._certain(piece)

    def finish(self) -> str:
        """The withheld text, when no more tokens come. Half a character becomes U+FFFD."""
        if self.stopped:
            return ""
        whole = str(self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        text = self._certain(whole[self._decoded :])
        rest, self._withheld = self._withheld, ""
        return text + ("" if self.stopped else rest)

    def _certain(self, piece: str) -> str:
        text = self._withheld + piece
        stops = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if stops:
            self.stopped, self._withheld = True, ""
            return text[: min(stops)]
        overlap = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._withheld = text[len(text) - overlap :]
        return text[: len(text) - overlap]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
