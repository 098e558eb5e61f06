"""A teacher that answers where the served student is not sure, and whose answers the next student can learn.

In: the events of one answer, with the log-probability of every token. Out: the same events, or the teacher's answer in
their place. The teacher is an OpenAI-compatible endpoint; it is sent the conversation as the student saw it, with the
passages of the user's memory. How sure a student is: the geometric mean of its tokens' probabilities. An answer is
held back until that is known. Where the teacher cannot be reached, the student's answer stands.

It does not know what a user's adapter knows: who is answered by one is never answered by the teacher.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError, ModelError, StillhouseError
from ..teachers.client import Request, Wire
from ..text.prompts import Message
from .engine.sequence import Done, Event, Piece, Sampling
from .router import Route

ASKED_ON: frozenset[Route] = frozenset({"base", "retrieval"})
Events = AsyncGenerator[tuple[int, Event], None]


@dataclass(frozen=True)
class Config:
    """`url` of the endpoint, ending in /v1 (empty: no teacher), and the `model` there; `secret` names the environment
    variable that holds its key. Asked where the student is less sure than `threshold`; waited for `timeout` seconds."""

    url: str = ""
    model: str = ""
    secret: str = ""
    threshold: float = 0.5
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InputError(f"teacher.threshold: {self.threshold} is not allowed; it is a probability, 0 to 1")
        if bool(self.url) != bool(self.model):
            raise InputError("teacher.url and teacher.model belong together: give both, or neither")
        if self.secret and self.secret not in os.environ:
            raise InputError(f"teacher.secret: there is no environment variable {self.secret!r}")


class FallbackTeacher:
    """One endpoint. `InputError`: the address is none."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._wire = Wire(config.url, os.environ.get(config.secret, ""), config.timeout, retries=0)

    def answer(self, messages: Sequence[Message], sampling: Sampling) -> str:
        """What it says. `ModelError`: it cannot be reached, or says nothing."""
        body = {
            "model": self.config.model, "messages": list(messages), "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature, "top_p": sampling.top_p,
        }  # fmt: skip
        (reply,) = self._wire.ask([Request("chat/completions", body)])
        try:
            text = reply["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            text = None
        if not isinstance(text, str) or not text.strip():
            raise ModelError(f"{self.config.url}: the teacher's reply holds no answer")
        return text

    async def instead(
        self, messages: Sequence[Message], sampling: Sampling, events: Events, about: dict[str, Any]
    ) -> Events:
        """The events of the student's answer, or the teacher's answer as the last of them; `about` says which, and how
        sure the student was."""
        async with contextlib.aclosing(events):
            held = [item async for item in events]
        _, last = held[-1]
        if isinstance(last, Done) and last.reason != "cancelled":
            about["confidence"] = round(sure := confidence(held), 4)
            if sure < self.config.threshold:
                held = await self._asked(messages, sampling, held, about)
        for item in held:
            yield item

    async def _asked(
        self, messages: Sequence[Message], sampling: Sampling, held: list[tuple[int, Event]], about: dict[str, Any]
    ) -> list[tuple[int, Event]]:
        place, last = held[-1]
        assert isinstance(last, Done), "only a whole answer is doubted"
        try:
            text = await asyncio.to_thread(self.answer, messages, sampling)
        except StillhouseError as error:
            about["teacher"] = str(error)
            return held
        about |= {"path": "teacher", "student": "".join(e.text for _, e in held if isinstance(e, Piece | Done))}
        return [(place, replace(last, text=text, reason="stop"))]


def confidence(events: Sequence[tuple[int, Event]]) -> float:
    """Geometric mean of the probabilities of an answer's tokens; 0 for an empty answer."""
    logprobs = [e.choice.logprob for _, e in events if isinstance(e, Piece) and e.choice.logprob is not None]
    return math.exp(sum(logprobs) / len(logprobs)) if logprobs else 0.0
