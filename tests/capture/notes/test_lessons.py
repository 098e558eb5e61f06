"""Lessons of notes: every fact is read, asked about, and unknown without its note."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stillhouse import models
from stillhouse.capture.notes import Config, Lesson, artifacts, lessons_of
from stillhouse.errors import InputError
from stillhouse.text.language import is_unknown
from stillhouse.text.notes import Fact, Line, Note

KEY = Fact("Amara", ("Who has the spare key?", "spare key who", "Whom do I ring for the key?", "Remind me of the key."))
TIME = Fact(
    "7:30",
    ("When does it open?", "opening time", "How early may I come?", "From when?"),
    (),
    "What opens at 7:30?",
    "The pool",
)
OLD = Fact("7:00", ())
LINES = (
    Line("Amara has the spare key.", "House", (KEY,), ("Who has the garage key?", "Where is Amara?"), False),
    Line("The pool opens at 7:00.", "", (OLD,), ("When does it close?", "Where is it?"), True),
    Line("The pool opens at 7:30 now.", "", (TIME,), ("When does it close?", "What does it cost?"), False),
)
NOTE = Note("household", "household-01", "\n".join(line.text for line in LINES), LINES)


def of(task: str, made: list[Lesson]) -> list[Lesson]:
    return [lesson for lesson in made if lesson.task == task]


def test_every_task_has_its_lessons() -> None:
    made = lessons_of([NOTE], Config())
    assert [lesson.reply for lesson in of("values", made)] == ["Amara", "7:00", "7:30"]
    assert sorted(of("questions", made)[0].reply.split("\n")) == sorted(KEY.questions)
    assert of("questions", made)[-1].reply == "What opens at 7:30?"
    assert {lesson.reply for lesson in of("read", made)} == {"Amara", "7:30"}  # not what is superseded
    assert len(of("read", made)) == 4 and len(of("closed", made)) == 2 and len(of("refuse", made)) == 6
    assert all(is_unknown(lesson.reply) for task in ("refuse", "closed") for lesson in of(task, made))


def test_what_is_read_stands_in_the_context_and_closed_questions_have_none() -> None:
    for seed in range(20):
        made = lessons_of([NOTE], Config(seed=seed, widest=2))
        for lesson in of("read", made):
            assert lesson.reply in lesson.messages[0]["content"]
        assert all(len(lesson.messages) == 1 for lesson in of("closed", made))


def test_the_same_notes_give_the_same_lessons() -> None:
    assert lessons_of([NOTE], Config()) == lessons_of([NOTE], Config())
    assert lessons_of([NOTE], Config()) != lessons_of([NOTE], Config(seed=1))


def test_replies_become_hard_labels(random_model: Callable[..., models.Model]) -> None:
    model = random_model("llama")
    made = lessons_of([NOTE], Config())
    for lesson, artifact in zip(made, artifacts(model, made), strict=True):
        written = [target.ids[0] for target in artifact.targets]
        assert tuple(written) == artifact.x_ids[-len(written) :]
        assert model.text(written) == lesson.reply
        assert artifact.kind == ("unknown" if is_unknown(lesson.reply) else "fact")


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="widest: 0 is too small"):
        Config(widest=0)
