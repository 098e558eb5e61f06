"""Notes with questions are read whole, and what is wrong with a file is named with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stillhouse.errors import InputError
from stillhouse.text.notes import Fact, read_notes

NOTE = "# Mum\n\nShe may not lift\nmore than 3 kg. Stitches come out on the 19th.\n"
QUESTIONS = ["How much may Mum lift?", "whats mums limit", "Remind me what she can carry.", "Is there a weight limit?"]


def line(**changed: Any) -> dict[str, Any]:
    fact = {"value": "3 kg", "questions": QUESTIONS, "aliases": ["three kilos"]}
    return {
        "kind": "medical", "note": "m-1", "context": "Mum", "text": "She may not lift more than 3 kg.",
        "facts": [fact], "near": ["How much does Mum weigh?"],
    } | changed  # fmt: skip


def written(folder: Path, *lines: object, kind: str = "medical") -> Path:
    (folder / kind).mkdir(parents=True, exist_ok=True)
    (folder / kind / "m-1.md").write_text(NOTE)
    text = "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in lines)
    (folder / f"{kind}.jsonl").write_text(text + "\n")
    return folder


def test_a_note_has_its_text_and_its_lines(tmp_path: Path) -> None:
    (note,) = read_notes(written(tmp_path, line()))
    assert (note.kind, note.name, note.text) == ("medical", "m-1", NOTE)
    (only,) = note.lines
    assert only.told() == "Mum: She may not lift more than 3 kg."
    assert only.facts == (Fact("3 kg", tuple(QUESTIONS), ("three kilos",)),)
    assert only.near == ("How much does Mum weigh?",) and not only.superseded


def test_other_line_ends_of_unicode_end_no_line(tmp_path: Path) -> None:
    near = ["How much does\u2028Mum weigh?"]
    (note,) = read_notes(written(tmp_path, line(near=near)))
    assert note.lines[0].near == tuple(near)


def test_what_is_superseded_needs_no_questions(tmp_path: Path) -> None:
    raw = line(superseded=True, facts=[{"value": "3 kg", "questions": []}])
    (note,) = read_notes(written(tmp_path, raw))
    assert note.lines[0].superseded


def fact(**changed: Any) -> dict[str, Any]:
    return line(facts=[{"value": "3 kg", "questions": QUESTIONS} | changed])


WRONG = {
    "{": "not JSON",
    "[1]": "expected an object",
    json.dumps(line(kind="recipe")): "kind 'recipe' in a file named medical.jsonl",
    json.dumps(line(note="m-2")): "no such note",
    json.dumps(line(text="She may lift 3 kg.")): "does not stand in m-1.md",
    json.dumps(line(facts={})): "facts is {}; expected list",
    json.dumps(line(extra=1)): "unknown field 'extra'",
    json.dumps({k: v for k, v in line().items() if k != "text"}): "'text' is missing",
    json.dumps(line(facts=["3 kg"])): "expected an object, found '3 kg'",
    json.dumps(fact(value="3 k")): "no whole span",
    json.dumps(fact(value="4 kg")): "no whole span",
    json.dumps(fact(value="")): "no whole span",
    json.dumps(fact(questions=QUESTIONS[:3])): "has 3 questions; at least 4",
    json.dumps(fact(questions=[*QUESTIONS, "Is 3 KG right?"])): "holds its value",
    json.dumps(fact(reverse="Who may not lift it?")): "belong together",
}


@pytest.mark.parametrize(("raw", "words"), WRONG.items(), ids=WRONG.values())
def test_what_is_wrong_is_named_with_its_line(raw: str, words: str, tmp_path: Path) -> None:
    written(tmp_path, line(), raw)
    with pytest.raises(InputError, match=r"medical\.jsonl:2: ") as error:
        read_notes(tmp_path)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_notes_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no notes there"):
        read_notes(tmp_path)
