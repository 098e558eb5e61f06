"""Admission control: which requests may wait in the engine's queue, and which are refused at once.

In: requests, from any thread. Out: a place in the queue, or an error that says why not. It counts the waiting rows of
every user. It does not know in which order they are answered.
"""

from __future__ import annotations

import threading
from collections import Counter

from ...errors import InputError, ModelError
from ..errors import Overloaded, Unavailable
from .sequence import Config, Request


class AdmissionControl:
    """Counts rows that `enter` and `leave` the queue."""

    def __init__(self, config: Config, room: int, context: int, adapters: bool) -> None:
        """`room`: tokens that prompt and answer of a request may have together. `context`: tokens that the model can
        read. `adapters`: whether requests may name an adapter."""
        self._config, self._room, self._context, self._adapters = config, room, context, adapters
        self._lock = threading.Lock()
        self._waiting: Counter[str | None] = Counter()  # rows, by user
        self._closed = False

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return self._waiting.total()

    def enter(self, request: Request) -> None:
        """Count one more row in the queue, or refuse it.

        Raises `InputError` for an empty prompt or one that leaves no room for its answer, `ModelError` for an adapter
        when there are no slots, `Overloaded` when the queue is full, and `Unavailable` after `close`.
        """
        self._check(request)
        with self._lock:
            if self._closed:
                raise Unavailable("the server is stopping; ask again when it is back")
            self._refuse_if_full(request.user)
            self._waiting[request.user] += 1

    def leave(self, user: str | None) -> None:
        """Count one row of this user less in the queue."""
        with self._lock:
            self._waiting[user] -= 1
            if not self._waiting[user]:
                del self._waiting[user]

    def close(self) -> None:
        """Refuse every request from now on."""
        with self._lock:
            self._closed = True

    def _check(self, request: Request) -> None:
        prompt, answer = len(request.prompt), request.sampling.max_new_tokens
        if not prompt:
            raise InputError("the prompt is empty")
        if prompt + answer > self._room:
            raise InputError(
                f"prompt of {prompt} tokens and an answer of {answer} do not fit: "
                f"{self._room} tokens are allowed together (the model's context is {self._context})"
            )
        if request.adapter is not None and not self._adapters:
            raise ModelError("this engine serves the base alone: it was started without adapters")

    def _refuse_if_full(self, user: str | None) -> None:
        config = self._config
        if self._waiting.total() >= config.queue:
            raise Overloaded(f"{config.queue} answers are waiting already; try again in a moment", 2)
        if user is not None and self._waiting[user] >= config.queue_per_user:
            raise Overloaded(f"{config.queue_per_user} answers of yours are waiting already; try again later", 2)
