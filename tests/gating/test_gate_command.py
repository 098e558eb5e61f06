"""`stillhouse gate` with a corpus, a trace and a replay, with the shipped model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from stillhouse.gating import read_trace
from stillhouse.records import Candidate
from stillhouse.store import Store
from tests.commands import Commands, fast

BEHAVIOUR = ("--set", 'gate.gates=["refusal", "routing", "citation_precision", "citation_recall", "abstention"]')


@pytest.fixture(scope="module")
def home(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one version of alice, hardly trained; beside it her notes as a corpus, and three questions."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "notes.md").write_text("My dog is called Zorvik.\n\nThe safe code is 4471.")
    (folder / "mine.toml").write_text(
        "\n".join(f'[[question]]\nquestion = "{q}"\nanswer = "?"' for q in ("My dog?", "The safe code?", "Which cat?"))
    )
    argv = ("consolidate", "--user", "alice", "--memory", folder / "notes.md", "--home", folder / "home")
    done = commands.run(*argv, "--json", *fast(2))
    assert done.code == 1, done.err
    return folder / "home"


def test_a_trace_is_written_and_judged_the_same(commands: Commands, home: Path, tmp_path: Path) -> None:
    folder, trace = home.parent, tmp_path / "trace.jsonl"
    asked = ("--corpus", folder / "notes.md", "--suite", folder / "mine.toml", "--label", "redundancy=0.5")
    argv = ("gate", "alice", "--home", home, "--json", *BEHAVIOUR, *asked, "--label", "fragility=1.0")
    live = commands.run(*argv, "--trace", trace)
    assert live.code == 1, live.err
    told = {r["gate"]: r for r in live.json["results"]}
    assert told["abstention"]["details"]["labels"] == {"resolved": 2, "contested": 0, "indeterminate": 1}
    recorded = read_trace(trace)
    assert sum(r.evidence is not None for r in recorded.responses) == 3
    assert recorded.layers, "the shipped model has routers"
    again = commands.run("gate", "alice", "--home", home, "--json", *BEHAVIOUR, "--suite", folder / "mine.toml",
                         "--replay", trace)  # fmt: skip
    replayed = {r["gate"]: r for r in again.json["results"]}
    for name in ("refusal", "citation_precision", "citation_recall", "abstention"):
        assert (replayed[name]["value"], replayed[name]["n"]) == (told[name]["value"], told[name]["n"])
    trace.write_bytes(trace.read_bytes()[:-20])
    cut = commands.run("gate", "alice", "--home", home, *BEHAVIOUR, "--replay", trace)
    assert cut.code == 2
    assert "is cut off after" in cut.line


def test_lines_for_people_say_what_hangs_on_the_labels(commands: Commands, home: Path) -> None:
    folder = home.parent
    only = ("--set", 'gate.gates=["abstention", "tasks"]')
    asked = ("--corpus", folder / "notes.md", "--suite", folder / "mine.toml", "--label", "disagreement=0.3")
    done = commands.run("gate", "alice", "--home", home, *only, *asked)
    assert done.code == 1, done.err
    assert "labels that would flip at redundancy 2.9: 0, redundancy 3.1: 0, disagreement 0.2: 0" in done.out
    assert "tasks" in done.out and "does not apply: no suite with tasks" in done.out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--corpus", "/nowhere"], "No such file"),
        (["--label", "redundancy=high"], "redundancy"),
        (["--label", "weight=1"], "weight"),
        (["--replay", "/nowhere.jsonl"], "No such file"),
        (["--replay", "a", "--trace", "b"], "give one of them"),
        (["--trace", "/"], "no file that can be written"),
        (["--suite", "/nowhere.yaml"], "No such file"),
    ],
)
def test_what_cannot_be_used_is_said_first(commands: Commands, home: Path, argv: list[str], said: str) -> None:
    done = commands.run("gate", "alice", "--home", home, *argv)
    assert (done.code, done.out) == (2, "")
    assert said in done.line


def test_an_adapter_of_no_numbers_is_rejected_with_a_page(commands: Commands, home: Path, tmp_path: Path) -> None:
    """One line, exit code 1, a verdict and a page; no trace, and the reason for that."""
    store = Store(home)
    candidate = store.get(Candidate, store.versions("alice")[0].candidate)
    tensors = safetensors.torch.load(store.blobs.get(candidate.adapter))
    broken = safetensors.torch.save({name: torch.full_like(t, torch.nan) for name, t in tensors.items()})
    made = store.put(replace(candidate, adapter=store.blobs.put(broken)))
    trace = tmp_path / "t.jsonl"
    done = commands.run("gate", made[:12], "--home", home, "--json", *BEHAVIOUR, "--trace", trace)
    assert done.code == 1, done.err
    assert "no trace: the model's logits are not numbers" in done.err
    assert not trace.exists()
    assert {r["value"] for r in done.json["results"]} == {None}
    assert "not numbers" in Path(done.json["report"]).read_text()
