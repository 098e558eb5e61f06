"""Many dialogues with teachers at once: what they want to know next is asked in one batch.

In: dialogues, which are generators. A dialogue yields several requests to teachers at a time, is sent the responses to
them, and returns its result. Out: the result of every dialogue, which is what it would be alone. The batch saves time
where a step of a network costs nearly the same for one row and for many: on an accelerator, or with few rows.

It does not know what the dialogues are about.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from ...generate import Sampling
from .teacher import AnswerRequest, WriteRequest, answer, write

R = TypeVar("R")
Requests = Sequence[WriteRequest | AnswerRequest]
# Sent: for each request of the last yield, list[str] for a WriteRequest, list[TeacherAnswer] for an AnswerRequest.
Dialogue = Generator[Requests, list[Any], R]


def run_dialogues(dialogues: Iterable[Dialogue[R]], at_once: int) -> Iterator[tuple[int, R]]:
    """Number and result of every dialogue, in the order in which they end.

    Dialogues begin in the order given; at most `at_once` are under way.
    """
    numbered = enumerate(dialogues)
    turns: list[tuple[int, Dialogue[R], list[Any] | None]] = []
    while True:
        turns += [(number, dialogue, None) for number, dialogue in islice(numbered, at_once - len(turns))]
        if not turns:
            return
        pending: list[tuple[int, Dialogue[R], Requests]] = []
        for number, dialogue, responses in turns:
            try:
                pending.append((number, dialogue, dialogue.send(responses)))  # type: ignore[arg-type]  # None begins it
            except StopIteration as end:
                yield number, end.value
        responded = _respond([requests for _, _, requests in pending])
        turns = [
            (number, dialogue, responses) for (number, dialogue, _), responses in zip(pending, responded, strict=True)
        ]


def _respond(pending: Sequence[Requests]) -> list[list[Any]]:
    """The responses to each dialogue's requests, in their order."""
    responses: dict[int, Any] = {}  # by the identity of the request
    writes: dict[Sampling, list[WriteRequest]] = {}
    answers: dict[int, list[AnswerRequest]] = {}
    for request in (request for requests in pending for request in requests):
        if isinstance(request, WriteRequest):
            writes.setdefault(request.sampling, []).append(request)
        else:
            answers.setdefault(request.max_new_tokens, []).append(request)
    for same_sampling in writes.values():
        responses |= zip(map(id, same_sampling), write(same_sampling), strict=True)
    for same_limit in answers.values():
        responses |= zip(map(id, same_limit), answer(same_limit), strict=True)
    return [[responses[id(request)] for request in requests] for requests in pending]
