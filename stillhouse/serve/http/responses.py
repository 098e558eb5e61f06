"""Answers in OpenAI's wire format, whole or in chunks. Pure: from events to what is written as JSON.

In: what the engine told of each choice. Out: dictionaries. Beside OpenAI's fields stands one of ours, `stillhouse`: the
path an answer took, whose adapter of which version, the session. It does not know HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from ...models import Model
from ..engine.engine import Done, Event, Piece
from ..engine.sampling import Choice


@dataclass
class ChoiceOutput:
    """What was told of one choice so far."""

    text: str = ""
    pieces: list[Piece] = field(default_factory=list)
    done: Done | None = None

    def take(self, event: Piece | Done) -> None:
        """One more event."""
        self.text += event.text
        if isinstance(event, Piece):
            self.pieces.append(event)
        else:
            self.done = event


@dataclass(frozen=True)
class ResponseFormat:
    """What is the same in every part of a reply."""

    id: str
    created: int
    model: str
    chat: bool
    about: dict[str, Any]
    logprobs: bool
    words: Model
    n: int = 1  # choices per prompt

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def whole(self, told: Sequence[ChoiceOutput]) -> dict[str, Any]:
        """The reply in one piece."""
        choices = [self._choice(i, t) for i, t in enumerate(told)]
        kind = "chat.completion" if self.chat else "text_completion"
        return self._head(kind) | {"choices": choices, "usage": usage(told, self.n), "stillhouse": self.about}

    def _choice(self, place: int, told: ChoiceOutput) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": told.text}} if self.chat else {"text": told.text}
        reason = told.done.reason if told.done else None
        return {"index": place, **said, "logprobs": self._logprobs(told.pieces), "finish_reason": reason}

    def opening(self, place: int) -> dict[str, Any] | None:
        """What a chat's stream begins with."""
        return self._chunk(place, {"role": "assistant", "content": ""}, None, None) if self.chat else None

    def chunk(self, place: int, event: Event) -> dict[str, Any] | None:
        """One event as a chunk; None where there is nothing to say."""
        if isinstance(event, Piece):
            if not event.text and not self.logprobs:
                return None
            return self._chunk(place, {"content": event.text}, None, self._logprobs([event]))
        if isinstance(event, Done):
            said = {"content": event.text} if event.text else {}
            return self._chunk(place, said, event.reason, None) | {"stillhouse": self.about}
        return None

    def last(self, told: Sequence[ChoiceOutput]) -> dict[str, Any]:
        """The chunk with the tokens used."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return self._head(kind) | {"choices": [], "usage": usage(told, self.n), "stillhouse": self.about}

    def _chunk(self, place: int, said: dict[str, str], reason: str | None, logprobs: Any) -> dict[str, Any]:
        body = {"delta": said} if self.chat else {"text": said.get("content", "")}
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        choice = {"index": place, **body, "logprobs": logprobs, "finish_reason": reason}
        return self._head(kind) | {"choices": [choice]}

    def _logprobs(self, pieces: Iterable[Piece]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        choices = [piece.choice for piece in pieces]
        return {"content": list(map(self._token, choices)), "refusal": None} if self.chat else self._legacy(choices)

    def _token(self, choice: Choice) -> dict[str, Any]:
        """A token with its alternatives, as in a chat's logprobs."""
        top = [self._one(token, logprob) for token, logprob in choice.top]
        return self._one(choice.token, choice.logprob) | {"top_logprobs": top}

    def _one(self, token: int, logprob: float | None) -> dict[str, Any]:
        data = self.words.token_bytes[token]
        return {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": list(data)}

    def _legacy(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """As in a completion's logprobs."""
        tokens = [self._one(c.token, c.logprob)["token"] for c in choices]
        offsets = list(accumulate(map(len, tokens), initial=0))[:-1]
        top = [{self._one(t, p)["token"]: p for t, p in c.top} or None for c in choices]
        logprobs = [c.logprob for c in choices]
        return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets}


def usage(told: Sequence[ChoiceOutput], n: int = 1) -> dict[str, Any]:
    """Tokens of all choices; a prompt counts once, however many choices it has."""
    done = [t.done for t in told if t.done]
    prompt, answer = sum(d.prompt_tokens for d in done[::n]), sum(d.completion_tokens for d in done)
    return {
        "prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": sum(d.cached_tokens for d in done[::n])},
    }  # fmt: skip
