"""`stillhouse prime`: a base learns the lessons of notes; the same after a kill; and what it refuses."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stillhouse.consolidation.prime import TAUGHT, Plan, beside, prime
from stillhouse.errors import InputError
from stillhouse.lora import LoraConfig
from stillhouse.models import Model
from stillhouse.text.notes import Fact, Line, Note, read_notes
from stillhouse.train.adapter.start import ABOUT, find
from tests.commands import Commands, Signal

LINE = Line(
    "Amara has the key.", "House", (Fact("Amara", ("Who has the key?", "key?", "Whom do I ring?", "Remind me.")),),
    ("Where is Amara?", "Who has the car?"), False,
)  # fmt: skip
NOTES = [Note("household", f"note-{n}", LINE.text, (LINE,) * 3) for n in range(3)]


def plan(**train: object) -> Plan:
    small = replace(Plan().train, rank=4, alpha=8.0, facts=4, unknowns=2, **train)  # type: ignore[arg-type]
    return Plan(train=small, rates=(1e-3, 1e-2), trial_steps=2)


def written(folder: Path, notes: list[Note]) -> Path:
    (folder / "household").mkdir(parents=True)
    rows = []
    for note in notes:
        (folder / "household" / f"{note.name}.md").write_text("\n".join(line.text for line in note.lines))
        for line in note.lines:
            facts = [{"value": f.value, "questions": list(f.questions)} for f in line.facts]
            rows.append(
                {"kind": note.kind, "note": note.name, "text": line.text, "facts": facts, "near": list(line.near)}
            )
    (folder / "household.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_a_base_learns_the_lessons_and_students_begin_there(random_model: Callable[..., Model], tmp_path: Path) -> None:
    model = random_model("llama")
    primed = prime(model, NOTES, tmp_path / "start", home=tmp_path, plan=plan(steps=6, validate_every=3))
    assert primed.lessons == {"values": 9, "questions": 9, "near": 9, "read": 18, "closed": 9, "refuse": 18}
    assert str(primed.learning_rate) == min(primed.trials, key=lambda rate: primed.trials[rate])
    assert [step for step, _ in primed.validation] == [3, 6]
    assert primed.validation[-1][1] < primed.validation[0][1]
    assert list((tmp_path / "priming").iterdir()) == []
    start = find(model, str(tmp_path / "start"), LoraConfig(4, 8.0, "all", True, 0.0))
    assert start is not None and (start.rank, start.steps) == (4, 60)
    assert json.loads((tmp_path / "start" / ABOUT).read_text())["made"]["steps"] == 6


def test_epochs_say_how_many_steps(random_model: Callable[..., Model], tmp_path: Path) -> None:
    given = replace(plan(learning_rate=1e-3, validate_every=0, patience=0), epochs=0.5)
    primed = prime(random_model("llama"), NOTES, tmp_path / "start", home=tmp_path, plan=given)
    assert primed.steps == round(0.5 * 72 / 6) and primed.trials == {}


def test_notes_without_lessons_are_refused(random_model: Callable[..., Model], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the notes give no lesson"):
        prime(random_model("llama"), [], tmp_path / "start", home=tmp_path)
    assert not (tmp_path / "start").exists()


@pytest.mark.parametrize(("changed", "line"), [({"epochs": 0.0}, "epochs: 0.0"), ({"rates": ()}, r"rates: \[\]")])
def test_a_plan_that_cannot_be_is_one_line(changed: dict[str, object], line: str) -> None:
    with pytest.raises(InputError, match=line):
        Plan(**changed)  # type: ignore[arg-type]


@pytest.mark.slow
def test_killed_it_goes_on_and_ends_the_same(commands: Commands, tmp_path: Path) -> None:
    notes = written(tmp_path / "notes", NOTES)

    def command(folder: Path) -> list[str]:
        return [
            "prime", str(commands.model), "--out", str(folder / "start"), "--notes", str(notes), "--home", str(folder),
            "--epochs", "2",
        ]  # fmt: skip

    whole = commands.run(*command(tmp_path / "whole"))
    assert whole.code == 0, whole.err
    assert "held-out loss by learning rate" in whole.out
    assert f"""--set 'train.start="{tmp_path / "whole" / "start"}"'""" in whole.out
    again = command(tmp_path / "killed")
    for line in ("prime try 0.003: started", "prime train: started"):
        done = commands.run(*again, at=Signal(signal.SIGKILL, line))
        assert done.code == -signal.SIGKILL, done.err
        assert not list((tmp_path / "killed" / "start").iterdir())
    finished = commands.run(*again, "--json")
    assert finished.code == 0, finished.err
    assert finished.json["lessons"]["read"] == 18
    weights = "adapter_model.safetensors"
    assert (tmp_path / "killed" / "start" / weights).read_bytes() == (
        tmp_path / "whole" / "start" / weights
    ).read_bytes()


def test_what_cannot_be_primed_is_one_line(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = written(tmp_path / "broken", NOTES)
    (broken / "household.jsonl").write_text("{}")
    for given, line in (
        (["tiny"], "say with --out where the start goes"),
        ([str(commands.model), "--notes", str(tmp_path / "empty")], "no notes there"),
        ([str(commands.model), "--notes", str(broken)], "household.jsonl:1: 'kind' is missing"),
        ([str(commands.model), "--epochs", "0"], "epochs: 0.0 is not allowed"),
    ):
        done = commands.run("prime", *given, "--home", tmp_path / "home")
        assert done.code == 2
        assert line in done.line


def test_a_hub_id_has_no_folder_to_put_it_in() -> None:
    with pytest.raises(InputError, match="only a local folder gets it beside its weights"):
        beside("Qwen/Qwen3-0.6B")


def test_the_notes_that_ship_are_there() -> None:
    assert len(read_notes(TAUGHT)) >= 48
