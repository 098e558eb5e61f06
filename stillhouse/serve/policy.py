"""When a user's memory is consolidated, and what is done when the gates refuse it: pure functions, no clock, no files.

In: what is known of a user, as plain numbers. Out: a decision with its reason. Any one of the three conditions is
enough. It does not know where the numbers come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import InputError

Priority = Literal["low", "normal", "high"]
OnFail = Literal["keep_in_retrieval", "retry_lower_rank"]


@dataclass(frozen=True)
class Policy:
    """A consolidation is due at `min_new_tokens` of new statements, at `min_session_count` ended sessions that stated
    something new, or when the user's keys and values take more than `max_kv_cache_size` bytes. `max_consolidation_time`
    is in seconds."""

    min_new_tokens: int = 1024
    min_session_count: int = 1
    max_kv_cache_size: int = 64 << 20
    run_async: bool = True
    priority: Priority = "low"
    max_consolidation_time: float = 3600.0
    on_validation_fail: OnFail = "keep_in_retrieval"
    min_rank: int = 4

    def __post_init__(self) -> None:
        for name in ("min_new_tokens", "min_session_count", "max_kv_cache_size", "max_consolidation_time", "min_rank"):
            if getattr(self, name) <= 0:
                raise InputError(f"policy.{name}: {getattr(self, name)} is not allowed; it must be more than 0")


DEFAULTS = Policy()


@dataclass(frozen=True)
class UserState:
    """What counts of one user. `new_tokens`: of statements that no consolidation has seen; `ended_sessions`: those that
    made some of them; `attempted`: the newest consolidation, approved or not, was of exactly this memory."""

    new_tokens: int = 0
    ended_sessions: int = 0
    kv_bytes: int = 0
    queued: bool = False
    attempted: bool = False


@dataclass(frozen=True)
class Decision:
    """`consolidate` or not, and `why`; `wait`: the caller waits for the job before it goes on."""

    consolidate: bool
    why: str
    wait: bool = False


@dataclass(frozen=True)
class Retry:
    """After a refusal: `rank` to try with, or None: answer from retrieval and leave it."""

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
    due = [why for met, why in reasons if met]
    if not due:
        return Decision(False, f"{state.new_tokens} new tokens, {state.ended_sessions} ended sessions: not enough yet")
    return Decision(True, ", ".join(due), wait=not config.run_async)


def after_refusal(config: Policy, rank: int) -> Retry:
    """What follows when the gates refused a candidate of `rank`."""
    if config.on_validation_fail == "keep_in_retrieval":
        return Retry(None, "refused: the memory is answered from retrieval")
    if rank // 2 < config.min_rank:
        return Retry(None, f"refused at rank {rank}, and no rank below {config.min_rank} is tried: retrieval")
    return Retry(rank // 2, f"refused at rank {rank}: once more at rank {rank // 2}")
