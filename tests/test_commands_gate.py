"""`stillhouse gate`, `report` and `calibrate` as people and machines use them, with the shipped model."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from stillhouse import gating
from stillhouse.records import Verdict
from stillhouse.store import Store
from tests.commands import Commands, Signal, fast

ONE_GATE = ("--set", 'gate.gates=["overlap"]')
QUICK = (
    "--set", "capture.wordings=4", "--set", "capture.rounds=0", "--set", "capture.unknown_per_statement=1",
    "--set", "capture.decoys=2", "--set", "capture.anchor_prompts=1", "--set", "train.rank=2", "--set", "train.steps=1",
    "--set", "train.warmup=0", "--set", "train.anchors=0", "--set", "train.anchor_rows=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one version of alice, hardly trained and rejected."""
    folder = tmp_path_factory.mktemp("gates")
    notes = folder / "notes.md"
    notes.write_text("My dog is called Zorvik. The safe code is 4471.")
    done = commands.run(
        "consolidate", "--user", "alice", "--memory", notes, "--home", folder / "home", "--json", *fast(2)
    )
    assert done.code == 1, done.err
    return folder / "home"


def test_a_candidate_is_measured_again_and_nothing_moves(commands: Commands, home: Path) -> None:
    before = Store(home).versions("alice")
    done = commands.run("gate", "alice@v1", "--home", home, "--json")
    assert done.code == 1
    assert done.line.startswith("stillhouse: alice@v1: rejected by ")
    assert done.json["passed"] is False
    assert "suite" in done.json["config"]["left_out"]
    assert {r["gate"] for r in done.json["results"]} >= {"recall", "drift", "overlap"}
    assert Store(home).get(Verdict, done.json["verdict"]).passed is False
    assert "Rejected." in Path(done.json["report"]).read_text()
    assert Store(home).versions("alice") == before
    assert Store(home).verify() == []


def test_lines_for_people_name_the_remedy(commands: Commands, home: Path) -> None:
    passed = commands.run("gate", "alice", "--home", home, *ONE_GATE)
    assert passed.code == 0, passed.err
    assert passed.out.startswith("pass  overlap")
    failed = commands.run("gate", "alice", "--home", home, "--set", 'gate.gates=["recall", "suite"]')
    assert failed.code == 1
    assert "FAIL  recall" in failed.out
    assert "train.steps" in failed.out
    assert "suite        does not apply: no suite was given" in failed.out


def test_remedies_are_followed_and_listed(commands: Commands, tmp_path: Path) -> None:
    """Recall asks for a higher rank and nothing else, so there is one more try."""
    notes = tmp_path / "notes.md"
    notes.write_text("My dog is called Zorvik.")
    home, only = tmp_path / "home", ("--set", 'gate.gates=["recall"]')
    argv: list[str | Path] = ["consolidate", "--user", "alice", "--memory", notes, "--home", home, "--diagnose"]
    argv += [*fast(1), *only]
    done = commands.run(*argv, "--json")
    assert done.code == 1
    assert [(t["remedy"], t["version"]) for t in done.json["tries"]] == [("", 1), ("rank", 2)]
    assert done.json["tries"][1]["changes"]["train.rank"] == [4, 8]
    again = commands.run(*argv)
    assert "   then v2  rank         refused by recall  (train.rank 4 -> 8" in again.out
    assert "How it came about" in Path(commands.run("report", "alice@2", "--home", home).out.strip()).read_text()


def test_a_suite_is_asked(commands: Commands, home: Path, tmp_path: Path) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text('[[question]]\nquestion = "What is the capital of France?"\nanswer = "Paris"\n')
    only = ("--set", 'gate.gates=["suite"]')
    done = commands.run("gate", "alice", "--suite", suite, "--home", home, "--json", *only)
    assert done.code == 0, done.err
    assert done.json["results"][0]["note"].startswith("mine: ")
    suite.write_text('[[question]]\nquestion = "What is the capital of France?"\n')
    wrong = commands.run("gate", "alice", "--suite", suite, "--home", home, *only)
    assert wrong.code == 2
    assert "question 1: the answer is None" in wrong.line


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bob", "known users: alice"),
        ("alice@9", "alice' has no v9; there are: v1"),
        ("000000", "000000"),
        ("nobody@1", "'nobody' has no versions"),
    ],
)
@pytest.mark.parametrize("verb", ["gate", "report"])
def test_names_that_lead_nowhere(commands: Commands, home: Path, verb: str, name: str, said: str) -> None:
    done = commands.run(verb, name, "--home", home)
    assert (done.code, done.out) == (2, "")
    assert said in done.line


def test_a_base_that_is_gone(commands: Commands, home: Path) -> None:
    done = commands.run("gate", "alice", "--home", home, "--model", "/nowhere/at/all")
    assert done.code == 2
    assert "no such model" in done.line


def test_a_report_is_written_again_from_the_store(commands: Commands, home: Path, tmp_path: Path) -> None:
    version = Store(home).versions("alice")[0]
    for name in ("alice", "alice@1", version.candidate[:12], version.verdict[:12]):
        done = commands.run("report", name, "--home", home, "--json")
        assert done.code == 0, done.err
        page = Path(done.json["report"]).read_text()
        assert "Rejected." in page
        assert "Zorvik" in page
    here = tmp_path / "page.html"
    assert commands.run("report", "alice", "--home", home, "--to", here).out == f"{here}\n"
    assert "Side by side" in here.read_text()
    wrong = commands.run("report", "alice", "--home", home, "--to", tmp_path)
    assert wrong.code == 2
    assert "no file that can be written" in wrong.line


def test_forgetting_a_user_takes_their_pages(commands: Commands, home: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    page = Path(commands.run("report", "alice", "--home", copy, "--json").json["report"])
    assert page.exists()
    assert commands.run("forget", "--user", "alice", "--home", copy, "--json").json["remaining"] == 0
    assert not page.exists()


def _of_memories(folder: Path) -> list[Path]:
    """What was made of memories: signals, studies, adapters, checkpoints."""
    return sorted(p for p in folder.rglob("*") if p.suffix in (".parquet", ".safetensors") or p.name == "study.json")


@pytest.mark.parametrize("glob", ["work/*/study.json", "work/*/*.safetensors"])
def test_forgetting_reaches_a_killed_calibration(commands: Commands, tmp_path: Path, glob: str) -> None:
    """By the user whose file it was, or, whatever the file's name, by the memory that the store knows as theirs."""
    mine, home = tmp_path / "memories", tmp_path / "home"
    mine.mkdir()
    texts = {"ann": "My dog is called Brenna.", "notes": "I live in Oskamund."}
    for name, text in texts.items():
        (mine / f"{name}.md").write_text(text)
    argv = ("calibrate", "tiny", "--good", "2", "--bad", "1", "--memories", mine, "--home", home, *QUICK)
    killed = commands.run(*argv, at=Signal(signal.SIGKILL, "calibrate: started", str(home), glob))
    assert killed.code == -signal.SIGKILL
    assert _of_memories(home)
    commands.run("consolidate", "--user", "bob", "--memory", mine / "notes.md", "--home", home, *fast(1))
    for user in ("ann", "bob"):
        assert commands.run("forget", "--user", user, "--home", home, "--json").json["remaining"] == 0
    assert _of_memories(home) == []
    for path in home.rglob("*"):
        assert path.is_dir() or not any(text.encode() in path.read_bytes() for text in texts.values()), path


def test_a_users_file_is_not_calibrated_on_while_they_are_consolidated(commands: Commands, tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        (tmp_path / f"{name}.md").write_text(f"My name is {name}.")
    with Store(tmp_path / "home").lock("ann"):
        done = commands.run(
            "calibrate", "tiny", "--good", "2", "--bad", "1", "--memories", tmp_path, "--home", tmp_path / "home"
        )
    assert done.code == 2
    assert "user 'ann' is being consolidated" in done.err


@pytest.mark.slow
def test_calibrate_then_gate(commands: Commands, home: Path, tmp_path: Path) -> None:
    """Its thresholds are the ones of the next verdict; users' own memories leave numbers alone behind."""
    mine = tmp_path / "memories"
    mine.mkdir()
    (mine / "a.md").write_text("My dog is called Brenna.")
    (mine / "b.md").write_text("I live in Oskamund.")
    argv = ("calibrate", "tiny", "--good", "2", "--bad", "1", "--memories", mine, "--home", home, *QUICK)
    before = _of_memories(home / "work")
    done = commands.run(*argv, "--json")
    assert done.code == 0, done.err
    assert done.json["honest"]["trials"] == 2
    assert len(done.json["sabotaged"]) == 9
    folder = gating.calibration_folder(home, done.json["base"])
    assert {p.suffix for p in folder.iterdir()} == {".json"}
    assert _of_memories(home / "work") == before, "signals and adapters are gone, numbers stay"
    again = commands.run(*argv)
    assert again.code == 0, again.err
    assert "honest: " in again.out
    assert "test wordings: 1 of 1 rejected, by " in again.out
    judged = commands.run("gate", "alice", "--home", home, "--json", *ONE_GATE)
    assert judged.json["config"]["calibrated_by"] == done.json["calibration"]
    assert "How well the gates tell" in Path(judged.json["report"]).read_text()
    wild = json.loads(Path(done.json["file"]).read_text())
    wild["calibration"]["thresholds"]["recall"] = -5.0
    Path(done.json["file"]).write_text(json.dumps(wild))
    damaged = commands.run("gate", "alice", "--home", home, *ONE_GATE)
    assert damaged.code == 2
    assert "does not match its digest" in damaged.line
    Path(done.json["file"]).unlink()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--good", "1"], "at least 2, 1 and 1"),
        (["--memories", "/nowhere"], "is no folder"),
        (["--set", "train.stepz=3"], "did you mean 'steps'"),
    ],
)
def test_calibrations_that_cannot_be(commands: Commands, tmp_path: Path, argv: list[str], said: str) -> None:
    done = commands.run("calibrate", "tiny", "--home", tmp_path / "home", *argv)
    assert (done.code, done.out) == (2, "")
    assert said in done.line


def test_too_few_memories_in_the_folder(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("I live in Oskamund.")
    done = commands.run("calibrate", "tiny", "--home", tmp_path / "home", "--memories", tmp_path)
    assert done.code == 2
    assert "has 1 files; 12 memories are needed" in done.line
