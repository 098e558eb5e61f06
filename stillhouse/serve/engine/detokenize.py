"""Tokens become text as they come: whole characters only, and nothing behind a stop string.

In: token ids, one at a time. Out: the text that can be said now. What may still turn out to be the beginning of a stop
string, or half of a character, is held back. It does not know models or requests.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

from ...models import TextModel


class TextStream:
    """The text of one answer. `stopped`: a stop string has been met; it and what follows are not said."""

    def __init__(self, model: TextModel, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = model.tokenizer, tuple(stop)
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._decoded = 0  # characters that came out of the decoder
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that this token lets be said."""
        self._ids.append(token)
        piece = self._decoder.step(self._tokenizer.backend_tokenizer, token) or ""
        self._decoded += len(piece)
        return self._said(piece)

    def finish(self) -> str:
        """What was held back, when no more tokens come: half a character becomes U+FFFD."""
        if self.stopped:
            return ""
        whole = str(self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        said = self._said(whole[self._decoded :])
        rest, self._held = self._held, ""
        return said + ("" if self.stopped else rest)

    def _said(self, piece: str) -> str:
        text = self._held + piece
        met = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if met:
            self.stopped, self._held = True, ""
            return text[: min(met)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
