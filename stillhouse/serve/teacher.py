"""A fallback: a teacher answers where the served student is not sure, and the next student can learn its answers.

In: the events of one answer, with the log-probability of every token. Out: the same events, or the teacher's answer in
their place. The teacher is an OpenAI-compatible endpoint. It is sent the conversation as the student saw it, with the
passages of the user's memory. A student's confidence is the geometric mean of its tokens' probabilities, so an answer
is held back until it is whole. Where the teacher cannot be reached, the student's answer goes out.

It does not know what a user's adapter knows, so it never answers in place of one.
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
from ..generate import Sampling
from ..teachers.client import EndpointClient, EndpointRequest
from ..text.prompts import Message
from .engine.sequence import Done, Event, Piece
from .router import Route

ROUTES: frozenset[Route] = frozenset({"base", "retrieval"})  # on which the teacher may answer
EventStream = AsyncGenerator[tuple[int, Event], None]


@dataclass(frozen=True)
class Config:
    """Which teacher answers, and when."""

    url: str = ""
    """Address of the endpoint, ending in /v1; empty, as by default: no teacher."""
    model: str = ""
    """Name of the model at the endpoint; given together with `url`."""
    secret: str = ""
    """Name of the environment variable that holds the key; empty: no key."""
    threshold: float = 0.5
    """Confidence, 0 to 1, below which the teacher answers."""
    timeout: float = 30.0
    """Seconds to wait for its answer; the user waits as long."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InputError(f"teacher.threshold: {self.threshold} is not allowed; it is a probability, 0 to 1")
        if bool(self.url) != bool(self.model):
            raise InputError("teacher.url and teacher.model belong together: give both, or neither")
        if self.secret and self.secret not in os.environ:
            raise InputError(f"teacher.secret: there is no environment variable {self.secret!r}")


class FallbackTeacher:
    """One endpoint. `InputError`: its address is malformed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._wire = EndpointClient(config.url, os.environ.get(config.secret, ""), config.timeout, retries=0)

    def answer(self, messages: Sequence[Message], sampling: Sampling) -> str:
        """The teacher's answer. `ModelError`: the endpoint cannot be reached, or its answer is empty."""
        body = {
            "model": self.config.model, "messages": list(messages), "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature, "top_p": sampling.top_p,
        }  # fmt: skip
        (reply,) = self._wire.ask([EndpointRequest("chat/completions", body)])
        try:
            text = reply["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            text = None
        if not isinstance(text, str) or not text.strip():
            raise ModelError(f"{self.config.url}: the teacher's reply holds no answer")
        return text

    async def replace_uncertain(
        self, messages: Sequence[Message], sampling: Sampling, events: EventStream, about: dict[str, Any]
    ) -> EventStream:
        """Yield the student's events, or one event with the teacher's answer where the student is not sure.

        `about`, our field of the response, gets the confidence, and the student's answer if the teacher's goes out.
        """
        async with contextlib.aclosing(events):
            student = [item async for item in events]
        _, last = student[-1]
        if isinstance(last, Done) and last.reason != "cancelled":
            certainty = confidence(student)
            about["confidence"] = round(certainty, 4)
            if certainty < self.config.threshold:
                student = await self._replaced(messages, sampling, student, about)
        for item in student:
            yield item

    async def _replaced(
        self, messages: Sequence[Message], sampling: Sampling, student: list[tuple[int, Event]], about: dict[str, Any]
    ) -> list[tuple[int, Event]]:
        """The teacher's answer as one event; the student's events where the teacher does not answer."""
        place, last = student[-1]
        assert isinstance(last, Done), "only a whole answer is replaced"
        try:
            text = await asyncio.to_thread(self.answer, messages, sampling)
        except StillhouseError as error:
            about["teacher"] = str(error)
            return student
        about |= {"path": "teacher", "student": "".join(e.text for _, e in student if isinstance(e, Piece | Done))}
        return [(place, replace(last, text=text, reason="stop"))]


def confidence(events: Sequence[tuple[int, Event]]) -> float:
    """Geometric mean of the probabilities of an answer's tokens; 0 for an empty answer."""
    logprobs = [e.choice.logprob for _, e in events if isinstance(e, Piece) and e.choice.logprob is not None]
    return math.exp(sum(logprobs) / len(logprobs)) if logprobs else 0.0
