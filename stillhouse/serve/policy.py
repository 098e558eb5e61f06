"""When a user's memory is consolidated, and what follows when the gates refuse it. Pure: no clock, no files.

In: a user's state as plain numbers. Out: a decision with its reason. One of three conditions is enough. It does not
know where the numbers come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import InputError

Priority = Literal["low", "normal", "high"]
OnFail = Literal["keep_in_retrieval", "retry_lower_rank"]


@dataclass(frozen=True)
class Policy:
    """When a consolidation is due, and how it runs. All numbers are more than 0."""

    min_new_tokens: int = 1024
    """Tokens of new statements at which it is due, session or not; fewer wait for the end of a session."""
    min_session_count: int = 1
    """Ended sessions with new statements at which it is due: at 1 the end of any such session is enough."""
    max_kv_cache_size: int = 64 << 20
    """Bytes of a user's idle keys and values above which it is due: weights can take their place."""
    run_async: bool = True
    """False: ending a session waits for the consolidation that follows."""
    priority: Priority = "low"
    """Which jobs are taken first, and how nice their process is; low: answers come before training."""
    max_consolidation_time: float = 3600.0
    """Seconds after which the job is stopped and has failed."""
    on_validation_fail: OnFail = "keep_in_retrieval"
    """What follows a refusal: answers from retrieval, or another candidate of half the rank."""
    min_rank: int = 4
    """The lowest rank that is tried after a refusal; each retry halves the rank."""

    def __post_init__(self) -> None:
        for name in ("min_new_tokens", "min_session_count", "max_kv_cache_size", "max_consolidation_time", "min_rank"):
            if getattr(self, name) <= 0:
                raise InputError(f"policy.{name}: {getattr(self, name)} is not allowed; it must be more than 0")


DEFAULTS = Policy()


@dataclass(frozen=True)
class UserState:
    """What the policy looks at in one user."""

    new_tokens: int = 0
    """Tokens of statements that the champion was not made of."""
    ended_sessions: int = 0
    """Ended sessions in which some of them were stated."""
    kv_bytes: int = 0
    """Bytes of idle keys and values."""
    queued: bool = False
    """Whether a job is queued or running."""
    attempted: bool = False
    """Whether the newest version, approved or not, was made of exactly this memory."""


@dataclass(frozen=True)
class Decision:
    """Whether to `consolidate`, and `why`; `wait`: the caller waits for the job before it goes on."""

    consolidate: bool
    why: str
    wait: bool = False


@dataclass(frozen=True)
class Retry:
    """What follows a refusal: another candidate of `rank`, or None: answers from retrieval."""

    rank: int | None
    why: str


def decide(config: Policy, state: UserState) -> Decision:
    """Whether to consolidate now."""
    if state.queued:
        return Decision(False, "a job of this user is queued or running")
    if state.new_tokens <= 0:
        return Decision(False, "nothing new was stated")
    if state.attempted:
        return Decision(False, "this memory was tried already: it is answered from retrieval")
    reasons = [
        (state.new_tokens >= config.min_new_tokens, f"{state.new_tokens} new tokens (>= {config.min_new_tokens})"),
        (
            state.ended_sessions >= config.min_session_count,
            f"{state.ended_sessions} ended sessions (>= {config.min_session_count})",
        ),
        (state.kv_bytes > config.max_kv_cache_size, f"{state.kv_bytes} KV bytes (> {config.max_kv_cache_size})"),
    ]
    due = [why for is_met, why in reasons if is_met]
    if not due:
        return Decision(False, f"{state.new_tokens} new tokens, {state.ended_sessions} ended sessions: not enough yet")
    return Decision(True, ", ".join(due), wait=not config.run_async)


def after_refusal(config: Policy, rank: int) -> Retry:
    """Whether another candidate is made when the gates have refused one of `rank`."""
    if config.on_validation_fail == "keep_in_retrieval":
        return Retry(None, "refused: the memory is answered from retrieval")
    if rank // 2 < config.min_rank:
        return Retry(None, f"refused at rank {rank}, and no rank below {config.min_rank} is tried: retrieval")
    return Retry(rank // 2, f"refused at rank {rank}: once more at rank {rank // 2}")
