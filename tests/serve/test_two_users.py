"""The example of two users, up to where the weights come in: what it tells, what it waits for, and that it can say no.

The whole of it takes minutes: `python examples/two_users.py`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from examples import two_users
from stillhouse.models import Model
from stillhouse.serve.service import Config
from tests.serve.served import serving


def test_what_was_told_is_answered_at_once_and_becomes_jobs(
    shipped: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = serving(tmp_path / "home", shipped, Config(slots=1))
    with running as served, contextlib.closing(two_users.Talk(served.url)) as talk:
        jobs = two_users.tell(talk)
        assert talk.wrong == []
        assert {user: served.service.jobs.get(name).user for user, name in jobs.items()} == {
            "alice": "alice",
            "bob": "bob",
        }
        two_users.ask_again(talk)  # nobody has consolidated: it is not the weights that answer
        assert [what.split(",")[0] for what in talk.wrong] == ["alice", "bob"]
        for name in jobs.values():
            served.service.jobs.cancel(name)
        talk.wrong.clear()
        two_users.learned(talk, jobs)
        assert talk.wrong == ["alice: cancelled", "bob: cancelled"]
    printed = capsys.readouterr().out.splitlines()
    assert "ok     alice, at once: 'Zorvik' by retrieval" in printed
    assert "ok     bob does not know Zorvik" in printed
    assert printed[-1] == "WRONG  bob: cancelled"
