"""Responses in OpenAI's format, whole or in chunks. Pure: from the engine's events to what is written as JSON.

In: the events of each choice. Out: dictionaries. Beside OpenAI's fields stands one of ours, `stillhouse`: the route an
answer took, whose adapter of which version answered, the session. It does not know HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from ...generate import Choice
from ...models import TextModel
from ..engine.engine import Done, Event, Piece


@dataclass
class ChoiceOutput:
    """The output of one choice so far."""

    text: str = ""
    pieces: list[Piece] = field(default_factory=list)
    done: Done | None = None

    def take(self, event: Piece | Done) -> None:
        """Add one more event."""
        self.text += event.text
        if isinstance(event, Piece):
            self.pieces.append(event)
        else:
            self.done = event


@dataclass(frozen=True)
class ResponseFormat:
    """How the parts of one response are written."""

    id: str
    created: int
    """Seconds since 1970."""
    model: str
    """The model as the request named it."""
    chat: bool
    """Whether it is a chat completion, or a completion."""
    about: dict[str, Any]
    """Our own field, `stillhouse`."""
    logprobs: bool
    words: TextModel
    n: int = 1
    """Choices per prompt."""

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def whole(self, outputs: Sequence[ChoiceOutput]) -> dict[str, Any]:
        """The whole response."""
        choices = [self._choice(i, o) for i, o in enumerate(outputs)]
        kind = "chat.completion" if self.chat else "text_completion"
        return self._head(kind) | {"choices": choices, "usage": usage(outputs, self.n), "stillhouse": self.about}

    def _choice(self, place: int, output: ChoiceOutput) -> dict[str, Any]:
        text = {"message": {"role": "assistant", "content": output.text}} if self.chat else {"text": output.text}
        reason = output.done.reason if output.done else None
        return {"index": place, **text, "logprobs": self._logprobs(output.pieces), "finish_reason": reason}

    def opening(self, place: int) -> dict[str, Any] | None:
        """The first chunk of a chat's choice; None in a completion."""
        return self._chunk(place, {"role": "assistant", "content": ""}, None, None) if self.chat else None

    def chunk(self, place: int, event: Event) -> dict[str, Any] | None:
        """The chunk of one event; None where it would be empty."""
        if isinstance(event, Piece):
            if not event.text and not self.logprobs:
                return None
            return self._chunk(place, {"content": event.text}, None, self._logprobs([event]))
        if isinstance(event, Done):
            delta = {"content": event.text} if event.text else {}
            return self._chunk(place, delta, event.reason, None) | {"stillhouse": self.about}
        return None

    def last(self, outputs: Sequence[ChoiceOutput]) -> dict[str, Any]:
        """The last chunk, with the tokens used."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return self._head(kind) | {"choices": [], "usage": usage(outputs, self.n), "stillhouse": self.about}

    def _chunk(self, place: int, delta: dict[str, str], reason: str | None, logprobs: Any) -> dict[str, Any]:
        body = {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        choice = {"index": place, **body, "logprobs": logprobs, "finish_reason": reason}
        return self._head(kind) | {"choices": [choice]}

    def _logprobs(self, pieces: Iterable[Piece]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        choices = [piece.choice for piece in pieces]
        return {"content": list(map(self._token, choices)), "refusal": None} if self.chat else self._legacy(choices)

    def _token(self, choice: Choice) -> dict[str, Any]:
        """The logprobs of one token of a chat, with its alternatives."""
        top = [self._one(token, logprob) for token, logprob in choice.top]
        return self._one(choice.token, choice.logprob) | {"top_logprobs": top}

    def _one(self, token: int, logprob: float | None) -> dict[str, Any]:
        data = self.words.token_bytes[token]
        return {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": list(data)}

    def _legacy(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The logprobs of a completion."""
        tokens = [self._one(c.token, c.logprob)["token"] for c in choices]
        offsets = list(accumulate(map(len, tokens), initial=0))[:-1]
        top = [{self._one(t, p)["token"]: p for t, p in c.top} or None for c in choices]
        logprobs = [c.logprob for c in choices]
        return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets}


def usage(outputs: Sequence[ChoiceOutput], n: int = 1) -> dict[str, Any]:
    """Tokens of all choices; a prompt counts once, however many choices it has."""
    done = [output.done for output in outputs if output.done]
    prompt, answer = sum(d.prompt_tokens for d in done[::n]), sum(d.completion_tokens for d in done)
    return {
        "prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": sum(d.cached_tokens for d in done[::n])},
    }  # fmt: skip
