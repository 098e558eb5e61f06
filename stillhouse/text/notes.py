"""Notes with questions written by hand: what a base is primed on, and what a student is judged by.

In: a folder with a JSON Lines file for each kind of note, and the notes themselves beside it as they were typed
(`KIND.jsonl`, `KIND/NOTE.md`). Out: `Note`s with their lines, the facts of each line, and questions about them.
Everything that can be wrong with such a file is named with its line. Format: `docs/formats/study.md`.

It does not know models, nor whether a question is a good one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError

LEAST_QUESTIONS = 4  # about a fact that still holds
_OF_LINE = {"kind": str, "note": str, "text": str, "facts": list}
_OF_LINE_OPTIONAL = {"context": str, "near": list, "superseded": bool}
_OF_FACT = {"value": str, "questions": list}
_OF_FACT_OPTIONAL = {"aliases": list, "reverse": str, "reverse_value": str}


@dataclass(frozen=True)
class Fact:
    """One thing that a line says, and how people ask for it."""

    value: str
    """The shortest whole span of the line that answers."""
    questions: tuple[str, ...]
    """No two of one frame; the first is what a person would ask first."""
    aliases: tuple[str, ...] = ()
    """Other ways to say the value."""
    reverse: str = ""
    """A question from the value back; "" where there is none."""
    reverse_value: str = ""


@dataclass(frozen=True)
class Line:
    """A sentence, bullet, table row or turn of a note."""

    text: str
    context: str
    """What a reader needs beside it: heading, speaker, table header. "" where nothing."""
    facts: tuple[Fact, ...]
    near: tuple[str, ...]
    """Questions that the note does not answer, about the same people and things."""
    superseded: bool
    """Whether a later line of the note says otherwise."""

    def told(self) -> str:
        """The line with what a reader needs to understand it alone."""
        return f"{self.context}: {self.text}" if self.context else self.text


@dataclass(frozen=True)
class Note:
    """One person's note: its kind, its name, the text as it was typed, and its lines in order."""

    kind: str
    name: str
    text: str
    lines: tuple[Line, ...]


def read_notes(folder: Path) -> list[Note]:
    """The notes of every kind in `folder`, by kind and by the order of their first lines.

    `InputError` names the file, the line and what is wrong: no JSON object, a missing or unknown field, a text that
    does not stand in its note, a value that does not stand in its text or is cut out of a word, a question that holds
    its value, too few questions.
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise InputError(f"{folder}: no notes there; a folder of notes has KIND.jsonl files")
    return [note for file in files for note in _read_kind(file)]


def _read_kind(file: Path) -> list[Note]:
    lines: dict[str, list[Line]] = {}
    texts: dict[str, str] = {}
    for where, raw in _objects(file):
        _check_fields(raw, _OF_LINE, _OF_LINE_OPTIONAL, where)
        if raw["kind"] != file.stem:
            raise InputError(f"{where}: kind {raw['kind']!r} in a file named {file.name}")
        name = raw["note"]
        if name not in texts:
            texts[name] = _note_text(file, name, where)
        line = _line(raw, where)
        if _squeezed(line.text) not in texts[name]:
            raise InputError(f"{where}: its text does not stand in {name}.md: {line.text[:60]!r}")
        lines.setdefault(name, []).append(line)
    folder = file.with_suffix("")
    return [
        Note(file.stem, name, (folder / f"{name}.md").read_text(encoding="utf-8"), tuple(own))
        for name, own in lines.items()
    ]


def _objects(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, object) of every line that is not empty. Lines end at "\\n" alone, as JSON Lines has it."""
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            raw = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: not JSON: {error}") from error
        if not isinstance(raw, dict):
            raise InputError(f"{where}: expected an object, found {line[:40]!r}")
        yield where, raw


def _note_text(file: Path, name: str, where: str) -> str:
    note = file.with_suffix("") / f"{name}.md"
    if not note.is_file():
        raise InputError(f"{where}: no such note: {note}")
    return _squeezed(note.read_text(encoding="utf-8"))


def _line(raw: Mapping[str, Any], where: str) -> Line:
    superseded = raw.get("superseded", False)
    facts = tuple(_fact(fact, raw["text"], superseded, where) for fact in raw["facts"])
    return Line(raw["text"], raw.get("context", ""), facts, tuple(raw.get("near", ())), superseded)


def _fact(raw: Mapping[str, Any], text: str, superseded: bool, where: str) -> Fact:
    _check_fields(raw, _OF_FACT, _OF_FACT_OPTIONAL, where)
    fact = Fact(
        raw["value"], tuple(raw["questions"]), tuple(raw.get("aliases", ())), raw.get("reverse", ""),
        raw.get("reverse_value", ""),
    )  # fmt: skip
    if not _stands(_squeezed(fact.value), _squeezed(text)):
        raise InputError(f"{where}: the value {fact.value!r} is no whole span of {text[:60]!r}")
    if len(fact.questions) < LEAST_QUESTIONS and not superseded:
        raise InputError(f"{where}: {fact.value!r} has {len(fact.questions)} questions; at least {LEAST_QUESTIONS}")
    for question in fact.questions:
        if _stands(_squeezed(fact.value).casefold(), _squeezed(question).casefold()):
            raise InputError(f"{where}: the question {question!r} holds its value {fact.value!r}")
    if bool(fact.reverse) != bool(fact.reverse_value):
        raise InputError(f"{where}: reverse and reverse_value belong together")
    return fact


def _check_fields(raw: object, required: Mapping[str, type], optional: Mapping[str, type], where: str) -> None:
    if not isinstance(raw, Mapping):
        raise InputError(f"{where}: expected an object, found {raw!r:.40}")
    allowed = {**required, **optional}
    if missing := [name for name in required if name not in raw]:
        raise InputError(f"{where}: {missing[0]!r} is missing")
    for name, value in raw.items():
        if name not in allowed:
            raise InputError(f"{where}: unknown field {name!r}; allowed are {', '.join(allowed)}")
        if not isinstance(value, allowed[name]):
            raise InputError(f"{where}: {name} is {value!r:.40}; expected {allowed[name].__name__}")


def _stands(part: str, whole: str) -> bool:
    """Whether `part` stands in `whole` without cutting a word."""
    start = whole.find(part)
    while part and start >= 0:
        end = start + len(part)
        before = start > 0 and whole[start - 1].isalnum() and part[0].isalnum()
        behind = end < len(whole) and whole[end].isalnum() and part[-1].isalnum()
        if not before and not behind:
            return True
        start = whole.find(part, start + 1)
    return False


def _squeezed(text: str) -> str:
    return " ".join(text.split())
