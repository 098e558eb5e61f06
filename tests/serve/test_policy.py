"""When to consolidate and what follows a refusal: every row of the table."""

from __future__ import annotations

import pytest

from stillhouse.errors import InputError
from stillhouse.serve.policy import Decision, Policy, UserState, after_refusal, decide

RULES = Policy(min_new_tokens=100, min_session_count=3, max_kv_cache_size=1000)


@pytest.mark.parametrize(
    ("state", "due", "why"),
    [
        (UserState(), False, "nothing new"),
        (UserState(new_tokens=99), False, "99 new tokens, 0 ended sessions: not enough yet"),
        (UserState(new_tokens=100), True, "100 new tokens (>= 100)"),
        (UserState(new_tokens=1, ended_sessions=2), False, "not enough"),
        (UserState(new_tokens=1, ended_sessions=3), True, "3 ended sessions"),
        (UserState(new_tokens=0, ended_sessions=9, kv_bytes=9999), False, "nothing new"),
        (UserState(new_tokens=1, kv_bytes=1000), False, "not enough"),
        (UserState(new_tokens=1, kv_bytes=1001), True, "1001 KV bytes"),
        (UserState(new_tokens=100, ended_sessions=3, kv_bytes=1001), True, "tokens (>= 100), 3 ended"),
        (UserState(new_tokens=100, queued=True), False, "queued or running"),
        (UserState(new_tokens=100, attempted=True), False, "tried already"),
    ],
)
def test_any_one_condition_is_enough(state: UserState, due: bool, why: str) -> None:
    decision = decide(RULES, state)
    assert decision.consolidate is due
    assert why in decision.why
    assert not decision.wait


def test_who_does_not_run_async_waits_for_what_is_due() -> None:
    rules = Policy(min_new_tokens=1, run_async=False)
    assert decide(rules, UserState(new_tokens=5)) == Decision(True, "5 new tokens (>= 1)", wait=True)
    assert not decide(rules, UserState()).wait


@pytest.mark.parametrize(
    ("rules", "rank", "following"),
    [
        (Policy(), 16, None),
        (Policy(on_validation_fail="retry_lower_rank"), 16, 8),
        (Policy(on_validation_fail="retry_lower_rank"), 8, 4),
        (Policy(on_validation_fail="retry_lower_rank"), 7, None),
        (Policy(on_validation_fail="retry_lower_rank", min_rank=1), 2, 1),
        (Policy(on_validation_fail="retry_lower_rank", min_rank=1), 1, None),
    ],
)
def test_after_a_refusal(rules: Policy, rank: int, following: int | None) -> None:
    assert after_refusal(rules, rank).rank == following
    assert "retrieval" in after_refusal(rules, rank).why or following


@pytest.mark.parametrize("name", ["min_new_tokens", "min_session_count", "max_kv_cache_size", "max_consolidation_time"])
def test_settings_that_make_no_sense(name: str) -> None:
    with pytest.raises(InputError, match=rf"policy\.{name}: 0 is not allowed"):
        Policy(**{name: 0})  # type: ignore[arg-type]
