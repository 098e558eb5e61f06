"""A student that is not sure and a teacher that is asked: two real servers, the teacher's with other weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillhouse.errors import InputError
from stillhouse.models import Model
from stillhouse.serve import teacher
from stillhouse.serve.log.journal_records import Exchange, Feedback
from stillhouse.store import Store
from tests.serve.served import CONFIG, QUESTION, Served, chat, expected, save, serving


@pytest.fixture(scope="module")
def teaching(random_model: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("teacher") / "home", random_model("llama"), CONFIG) as running:
        yield running


def asking(teaching: Served, threshold: float, url: str = "") -> teacher.Config:
    return teacher.Config(url or f"{teaching.url}/v1", teaching.model.ref, threshold=threshold, timeout=20)


@pytest.mark.parametrize("stream", [False, True])
def test_an_unsure_answer_is_the_teachers_and_is_kept_to_learn_from(
    stream: bool, teaching: Served, random_model: Callable[..., Model], tmp_path: Path
) -> None:
    student = random_model("qwen3")
    theirs, ours = expected(teaching.model, None, QUESTION), expected(student, None, QUESTION)
    assert theirs != ours
    with serving(tmp_path / "home", student, replace(CONFIG, teacher=asking(teaching, 1.0))) as served:
        client: Any = served.openai()
        create = client.chat.completions.create
        if stream:
            chunks = list(create(model=student.ref, messages=QUESTION, user="carol", stream=True))
            said, about = (
                "".join(c.choices[0].delta.content or "" for c in chunks),
                chunks[-1].model_extra["stillhouse"],
            )
        else:
            reply = create(model=student.ref, messages=QUESTION, user="carol")
            said, about = reply.choices[0].message.content, reply.model_extra["stillhouse"]
        assert (said, about["path"], about["student"]) == (theirs, "teacher", ours)
        assert 0 < about["confidence"] < 1
        records = list(served.service.journal.records("exchange", "feedback"))
    (exchange,) = [r for r in records if isinstance(r, Exchange)]
    (correction,) = [r for r in records if isinstance(r, Feedback)]
    assert (exchange.path, exchange.answer) == ("teacher", theirs)
    assert (correction.response_id, correction.source, correction.key) == (exchange.id, "model", "teacher")
    assert (correction.correction, correction.comment, correction.value) == (theirs, ours, about["confidence"])


def test_who_is_sure_or_knows_more_answers_alone(
    teaching: Served, random_model: Callable[..., Model], tmp_path: Path
) -> None:
    """A threshold of 0; a user with weights of their own; the base asked for by name."""
    student = random_model("qwen3")
    save(Store(tmp_path / "home"), student, "alice", 1)
    ours = expected(student, None, QUESTION)
    with serving(tmp_path / "home", student, replace(CONFIG, teacher=asking(teaching, 1.0))) as served:
        assert chat(served, user="alice")["stillhouse"]["path"] == "adapted"  # type: ignore[index]
        assert chat(served, model=f"{student.ref}:base")["choices"][0]["message"]["content"] == ours  # type: ignore[index]
    with serving(tmp_path / "sure", student, replace(CONFIG, teacher=asking(teaching, 0.0))) as served:
        body = chat(served)
    assert body["choices"][0]["message"]["content"] == ours  # type: ignore[index]
    assert body["stillhouse"]["path"] == "base"  # type: ignore[index]
    assert body["stillhouse"]["confidence"] > 0  # type: ignore[index]


def test_a_teacher_that_is_away_costs_no_answer(
    teaching: Served, random_model: Callable[..., Model], tmp_path: Path
) -> None:
    student = random_model("qwen3")
    away = asking(teaching, 1.0, "http://127.0.0.1:9/v1")
    with serving(tmp_path / "home", student, replace(CONFIG, teacher=away)) as served:
        body = chat(served)
    assert body["choices"][0]["message"]["content"] == expected(student, None, QUESTION)  # type: ignore[index]
    assert body["stillhouse"]["path"] == "base"  # type: ignore[index]
    assert "127.0.0.1:9" in body["stillhouse"]["teacher"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"threshold": 1.5}, "teacher.threshold"),
        ({"url": "http://localhost:1/v1"}, "belong together"),
        ({"secret": "NO_SUCH_VARIABLE_HERE"}, "teacher.secret"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        teacher.Config(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is not an address"):
        teacher.FallbackTeacher(teacher.Config("nowhere", "m"))
