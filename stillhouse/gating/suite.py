"""Questions of the user's own, from a file, on which a student may not do worse than its base.

In: a TOML file of `[[question]]` tables, or a JSONL file of objects. Each has `question` and `answer`; it has `choices`
where the answer is one of several. A TOML file may also name `tasks` of lm-evaluation-harness, and a YAML file is such
a task. Out: a `Suite`, or `InputError` naming the line and what is wrong.

It does not know models, nor whether a student was trained on these questions: the gate `suite` looks for that.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..records import digest
from ..text.answers import Expected, grade, normalise

TASK_FILES = (".yaml", ".yml")

_KEYS = {"question", "answer", "choices"}


@dataclass(frozen=True)
class SuiteQuestion:
    """One question. With `choices` the student's likeliest choice is compared with `answer`, else its written
    answer."""

    question: str
    answer: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """Questions from one file, in its order; `tasks`: task files, or names that lm-evaluation-harness knows."""

    name: str
    items: tuple[SuiteQuestion, ...] = ()
    tasks: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Digest of the questions and of the task files' content. A task that is no file counts by its name."""
        return digest([*self.items, *(_task_digest(task) for task in self.tasks)])


def read_suite(path: Path | str) -> Suite:
    """The questions of a file.

    Raises `InputError` where the file is missing, is not TOML or JSONL, or has no questions, and where an answer is
    empty or none of the choices, or a question comes twice.
    """
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; a suite is a TOML or JSONL file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; convert it first") from error
    if file.suffix in TASK_FILES:
        return Suite(file.stem, (), (str(file),))
    rows, tasks = _toml(path, text) if file.suffix == ".toml" else (_jsonl(path, text), ())
    items = tuple(_question(row, f"{path}: {where}") for where, row in rows)
    if not items and not tasks:
        raise InputError(f"{path}: no questions in it; each needs a question and an answer")
    _refuse_twins(path, items)
    return Suite(file.stem, items, tuple(_task(task, file.parent, path) for task in tasks))


def _task(task: Any, folder: Path, path: Path | str) -> str:
    """The path of a task file, which the suite names as seen from its own folder; or the name of a task."""
    if not isinstance(task, str) or not task.strip():
        raise InputError(f"{path}: the task is {task!r:.60}; it must be a YAML file or the name of a task")
    if Path(task).suffix not in TASK_FILES:
        return task
    file = folder / Path(task).expanduser()
    if not file.is_file():
        raise InputError(f"{path}: there is no task file {str(file)!r}; name it as seen from the suite's folder")
    return str(file)


def _task_digest(task: str) -> str:
    file = Path(task)
    return digest(file.read_bytes() if file.suffix in TASK_FILES else task.encode())


def _toml(path: Path | str, text: str) -> tuple[list[tuple[str, Any]], list[Any]]:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    rows, tasks = content.get("question", []), content.get("tasks", [])
    if not content or set(content) - {"question", "tasks"} or not isinstance(rows, list) or not isinstance(tasks, list):
        raise InputError(
            f"{path}: found {sorted(content) or 'nothing'}; a suite has [[question]] tables, a list `tasks`, no others"
        )
    return [(f"question {n}", row) for n, row in enumerate(rows, 1)], tasks


def _jsonl(path: Path | str, text: str) -> list[tuple[str, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append((f"line {number}", json.loads(line)))
            except json.JSONDecodeError as error:
                raise InputError(f"{path}: line {number} is not JSON: {error.msg}; one object a line") from error
    return rows


def _question(row: Any, where: str) -> SuiteQuestion:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: {row!r:.60} is no question; it needs the keys question and answer")
    if extra := sorted(set(row) - _KEYS):
        raise InputError(f"{where}: unknown keys {', '.join(extra)}; allowed: {', '.join(sorted(_KEYS))}")
    question, choices = row.get("question"), row.get("choices", [])
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{where}: the question is {question!r:.60}; it must be a text that is not empty")
    if not isinstance(choices, list) or not all(isinstance(c, str) and c.strip() for c in choices):
        raise InputError(f"{where}: choices are {choices!r:.60}; they must be texts that are not empty")
    if choices and len(set(choices)) < max(2, len(choices)):
        raise InputError(f"{where}: choices are {choices!r:.60}; there must be two or more, all different")
    return SuiteQuestion(question, _answer(row.get("answer"), choices, where), tuple(choices))


def _answer(answer: Any, choices: list[str], where: str) -> str:
    """The answer's text. With choices, the file may give it by its number, from 0."""
    if choices and isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return choices[answer]
    if not isinstance(answer, str) or not answer.strip():
        raise InputError(f"{where}: the answer is {answer!r:.60}; it must be a text that is not empty")
    if choices and answer not in choices:
        raise InputError(f"{where}: the answer {answer!r:.60} is none of the choices")
    return answer


def _refuse_twins(path: Path | str, items: tuple[SuiteQuestion, ...]) -> None:
    seen: dict[str, SuiteQuestion] = {}
    for item in items:
        key = normalise(item.question) or item.question
        before = seen.setdefault(key, item)
        if before is not item:
            agree = grade(before.answer, Expected(item.answer)).correct
            what = "comes twice" if agree else f"has two answers, {before.answer!r} and {item.answer!r}"
            raise InputError(f"{path}: the question {item.question!r:.80} {what}; keep one")
