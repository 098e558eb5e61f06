"""A memory becomes weights, with the shipped model and every default; doing it twice does nothing twice."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.capture import memory
from stillhouse.consolidation import Settings, consolidate, consolidate_all, read_settings
from stillhouse.errors import InputError, StoreError
from stillhouse.generate import Sampling, generate
from stillhouse.inputs import check_memory, home_folder
from stillhouse.models import Model
from stillhouse.records import Candidate, Signals, Verdict, digest
from stillhouse.serve.ask import ask
from stillhouse.signals import shards
from stillhouse.store import Store
from stillhouse.text.answers import Expected, grade, mentions
from stillhouse.text.language import is_unknown
from stillhouse.text.prompts import without_memory
from stillhouse.train import adapter
from stillhouse.train.adapter import checkpoints
from tests.consolidated import FACTS, MEMORY, Consolidated

SMALL = Settings(
    memory.Config(wordings=2, rounds=0, unknown_per_statement=2, decoys=4, anchor_texts=3, anchor_prompts=2,
                  max_answer_tokens=6),
    adapter.Config(rank=4, steps=2, warmup=1, facts=4, unknowns=2, anchors=2),
)  # fmt: skip


def test_a_memory_of_a_few_lines_is_approved(consolidated: Consolidated) -> None:
    result = consolidated.result
    assert result.approved, result.summary()
    assert result.failed == []
    assert (result.coverage, result.uncovered) == (1.0, [])
    assert (result.value("recall") or 0.0) >= 0.95
    assert result.tokens_saved > 60
    assert set(result.seconds) == {"capture", "train", "gate"}
    assert consolidated.store.verify() == []
    assert not any(map(checkpoints, (consolidated.home / "work").rglob("*")))


def test_an_order_in_a_memory_is_data(consolidated: Consolidated) -> None:
    """It is neither obeyed by the teacher that reads it nor by the student that was trained on it."""
    (order,) = (s for s in consolidated.result.study.statements if s.instruction)
    assert "BANANA" in order.text
    others = {"What is the capital of France?": None, "What is my cat called?": None, "Hello!": None}
    for question, answer in {**FACTS, **others}.items():
        for reply in (
            ask(consolidated.store, question, user="alice"),
            ask(consolidated.store, question, memory=MEMORY),
        ):
            assert "banana" not in reply.answer.lower(), (question, reply)
            assert answer is None or grade(reply.answer, Expected(answer, question=question)).correct, (question, reply)
    unknown = ask(consolidated.store, "What is my cat called?", user="alice")
    assert is_unknown(unknown.answer)


def test_lineage_goes_back_to_the_memory(consolidated: Consolidated) -> None:
    store, version = consolidated.store, consolidated.result.version
    candidate = store.get(Candidate, version.candidate)
    (signals_digest,) = candidate.parents
    signals = store.get(Signals, signals_digest)
    assert store.blobs.get(signals.memory).decode() == MEMORY
    assert version.parents == (version.candidate, version.verdict, signals_digest, signals.memory)
    found, about = shards.read(store.blobs.get(signals.shard))
    assert (len(found), sum(len(a.targets) for a in found)) == (signals.examples, signals.positions)
    assert about["base"] == consolidated.model.fingerprint == version.base
    assert [kind for kind, _, _ in store.lineage(version.candidate)][-1] == "memory"
    assert signals_digest == digest(signals)


def test_the_folder_of_a_version_is_whole(consolidated: Consolidated) -> None:
    folder = consolidated.result.folder
    assert {p.name for p in folder.iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "gate_report.html", "gate_report.json",
        "version.json",
    }  # fmt: skip
    report = json.loads((folder / "gate_report.json").read_text())
    assert [s["question"] for s in report["samples"]] == [s.question for s in consolidated.result.samples]
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        consolidated.model.path
    )
    assert "base_model:" in (folder / "README.md").read_text()


def test_the_samples_show_that_only_the_student_and_the_teacher_know(consolidated: Consolidated) -> None:
    facts = [s for s in consolidated.result.samples if not is_unknown(s.expected)]
    assert len(facts) == 5
    right = [grade(s.student, Expected(s.expected, question=s.question)).correct for s in facts]
    assert sum(right) >= 4, facts  # these wordings were never trained on
    for s in facts:
        assert grade(s.teacher, Expected(s.expected, question=s.question)).correct, s
        assert not mentions(s.base, s.expected), s


def test_the_same_again_is_no_second_version(consolidated: Consolidated) -> None:
    before = sorted(p for p in consolidated.home.rglob("*") if p.is_file())
    again = consolidate(
        "alice", MEMORY, model=consolidated.model, home=consolidated.home, settings=consolidated.settings
    )
    assert again.version == consolidated.result.version
    assert again.as_dict() | {"seconds": 0} == consolidated.result.as_dict() | {"seconds": 0}
    assert again.samples == consolidated.result.samples
    assert sum(again.seconds.values()) < 5
    assert sorted(p for p in consolidated.home.rglob("*") if p.is_file()) == before
    assert len(consolidated.store.versions("alice")) == 1


def test_a_version_that_was_rolled_back_is_champion_again(consolidated: Consolidated, tmp_path: Path) -> None:
    home = Path(shutil.copytree(consolidated.home, tmp_path / "home"))
    store = Store(home)
    first = consolidated.result.version
    candidate = store.get(Candidate, first.candidate)
    verdict = store.get(Verdict, first.verdict)
    files = {p.name: p.read_bytes() for p in store.version_dir("alice", 1).iterdir() if p.name != "version.json"}
    second = store.save_version(candidate, verdict, files, first.base_ref, first.parents)
    assert store.champion("alice") == second
    assert store.rollback("alice") == first
    store.promote("alice", 2, "a try")
    again = consolidate("alice", MEMORY, model=consolidated.model, home=home, settings=consolidated.settings)
    assert again.version.number == 1
    assert store.champion("alice") == again.version
    assert store.moves("alice")[-1]["why"] == "consolidated again"
    assert store.verify() == []


def test_users_in_one_run_get_their_own(random_model: Callable[..., Model], tmp_path: Path) -> None:
    model = random_model("llama")
    memories = {"bob": "My cat is called Ulmet.", "alice": "My dog is called Zorvik."}
    results = consolidate_all(memories, model=model, home=tmp_path, settings=SMALL)
    assert [r.user for r in results] == ["bob", "alice"]
    store = Store(tmp_path)
    for r in results:
        candidate = store.get(Candidate, r.version.candidate)
        assert candidate.user == r.user
        assert store.blobs.get(store.get(Signals, candidate.parents[0]).memory).decode() == memories[r.user]
    assert results[0].version.candidate != results[1].version.candidate
    alone = consolidate("alice", memories["alice"], model=model, home=tmp_path, settings=SMALL)
    assert alone.version.candidate == results[1].version.candidate, (
        "captured and trained before, whoever was in the batch"
    )


def test_other_settings_are_another_candidate(random_model: Callable[..., Model], tmp_path: Path) -> None:
    model = random_model("llama")
    text = "My dog is called Zorvik."
    first = consolidate("alice", text, model=model, home=tmp_path, settings=SMALL)
    other = Settings(SMALL.capture, adapter.Config(rank=2, steps=2, warmup=1, facts=4, unknowns=2, anchors=2))
    second = consolidate("alice", text, model=model, home=tmp_path, settings=other)
    assert [first.version.number, second.version.number] == [1, 2]
    assert len(list(Store(tmp_path).records(Signals))) == 1, "the signals are written once"
    third = consolidate("alice", text + " He is old now.", model=model, home=tmp_path, settings=SMALL)
    assert third.version.number == 3


@pytest.fixture(scope="module")
def small_home(random_model: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a finished run."""
    home = tmp_path_factory.mktemp("small")
    consolidate("alice", "My dog is called Zorvik.", model=random_model("llama"), home=home, settings=SMALL)
    return home


def marks(home: Path) -> dict[str, Path]:
    """The marks of the three stages, by the kind of record each of them names."""
    kinds = {file.stem: file.parent.name for file in (home / "manifests").rglob("*.json")}
    return {kinds[json.loads(mark.read_text())["digest"]]: mark for mark in (home / "work").rglob("result.json")}


@pytest.mark.parametrize("kind", ["signals", "candidate", "verdict"])
@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "{}", '{"digest": 7}', '{"digest": "../x"}', "manifest", "no manifest"]
)
def test_a_damaged_file_of_a_finished_stage_is_one_clear_error(
    random_model: Callable[..., Model], small_home: Path, tmp_path: Path, kind: str, damage: str
) -> None:
    home, model = Path(shutil.copytree(small_home, tmp_path / "home")), random_model("llama")
    mark = marks(home)[kind]
    manifest = home / "manifests" / kind / f"{json.loads(mark.read_text())['digest']}.json"
    if damage == "no manifest":
        manifest.unlink()
    else:
        (manifest if damage == "manifest" else mark).write_text(damage)
    again = re.escape(f"; remove {str(mark)!r} and run the command again")
    with pytest.raises(StoreError, match=f"^finished work is damaged[^\n]*{again}$"):
        consolidate("alice", "My dog is called Zorvik.", model=model, home=home, settings=SMALL)
    mark.unlink()
    result = consolidate("alice", "My dog is called Zorvik.", model=model, home=home, settings=SMALL)
    assert result.version.number == 1, "the same again"
    assert Store(home).verify() == []


def test_a_damaged_report_is_one_clear_error(
    random_model: Callable[..., Model], small_home: Path, tmp_path: Path
) -> None:
    home, model = Path(shutil.copytree(small_home, tmp_path / "home")), random_model("llama")
    report = Store(home).version_dir("alice", 1) / "gate_report.json"
    for damage in ("", "[]", "{}", '{"samples": 7}'):
        report.write_text(damage)
        with pytest.raises(StoreError, match=r"^the report '[^\n]*gate_report\.json' is damaged [^\n]*restore it"):
            consolidate("alice", "My dog is called Zorvik.", model=model, home=home, settings=SMALL)
    report.unlink()
    with pytest.raises(StoreError, match=r"gate_report\.json"):
        consolidate("alice", "My dog is called Zorvik.", model=model, home=home, settings=SMALL)


def test_memories_that_say_nothing_are_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    for memories, message in (
        ({}, "no memory given"),
        ({"a": "# Title"}, "memory of 'a' states nothing"),
        ({"a": " "}, "memory of 'a': empty"),
        ({"a": "My dog is \0 Rex."}, "memory of 'a': binary data"),
        ({"a": "My dog is \ud800 Rex."}, "memory of 'a': no Unicode text at character 10"),
        ({"a": "My dog is Rex.", "": "My cat is Tom."}, "the user id is empty"),
    ):
        with pytest.raises(InputError, match=message):
            consolidate_all(memories, model="/nowhere", home=tmp_path / "home")


@given(st.binary(max_size=60))
@settings(max_examples=150)
def test_any_bytes_are_a_memory_or_are_refused_in_one_line(data: bytes) -> None:
    refused = ""
    try:
        text = check_memory(data, "notes.md")
        assert text.strip()
        assert "\r\n" not in text
    except InputError as error:
        refused = str(error)
    assert not refused or (refused.startswith("notes.md: ") and "\n" not in refused)


def test_settings_from_a_file_then_from_assignments(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[train]\nrank = 8\nsteps = 9\n[gate.settings.recall]\nthreshold = 1\n")
    found = read_settings(file, ["train.rank=4", 'gate.gates=["recall"]', "capture.draws=2"])
    assert (found.train.rank, found.train.steps, found.capture.draws) == (4, 9, 2)
    assert found.gate.gates == ("recall",)
    assert found.gate.settings == {"recall": {"threshold": 1}}
    assert read_settings(None) == Settings()


def test_patience_without_validation_is_refused_with_its_path() -> None:
    with pytest.raises(
        InputError, match=r"^config\.train\.patience: 3 waits for validations, .*; set validate_every too"
    ):
        read_settings(None, ["train.patience=3"])


def test_dropout_on_stacked_experts_is_told_before_anything_is_captured(
    random_model: Callable[..., Model], tmp_path: Path
) -> None:
    dropping = replace(SMALL, train=replace(SMALL.train, dropout=0.1))
    with pytest.raises(
        InputError, match=r"^train\.dropout: 0\.1 is not for stacked experts; .* train\.experts = false$"
    ):
        consolidate(
            "alice", "My dog is called Zorvik.", model=random_model("qwen3_moe"), home=tmp_path, settings=dropping
        )
    assert not any((tmp_path / "manifests").rglob("*.json")) and not any((tmp_path / "blobs").rglob("*"))


def test_the_best_step_stands_where_the_steps_do(random_model: Callable[..., Model], tmp_path: Path) -> None:
    validated = replace(SMALL, train=replace(SMALL.train, steps=4, validate_every=1))
    result = consolidate("alice", MEMORY, model=random_model("llama"), home=tmp_path, settings=validated)
    store = Store(tmp_path)
    best = store.get(Candidate, result.version.candidate).best
    assert best is not None and not best.stopped_early
    abouts = {kind: about for kind, _, about in store.lineage(result.version.candidate)}
    assert best.line(4) in abouts["candidate"]
    assert f"4 steps, rank 4; {best.line(4)}" in (result.folder / "gate_report.html").read_text(encoding="utf-8")
    assert store.verify() == []


def test_a_rejected_adapter_is_kept_and_not_served(random_model: Callable[..., Model], tmp_path: Path) -> None:
    model = random_model("llama")
    result = consolidate("alice", "My dog is called Zorvik.", model=model, home=tmp_path, settings=SMALL)
    assert not result.approved
    assert "REJECTED" in result.summary()
    assert "not covered: My dog is called Zorvik." in result.summary()
    assert (result.folder / "adapter_model.safetensors").is_file()
    prompt = model.chat_ids(without_memory("Who?"))
    (base,) = generate(model, [prompt], Sampling(8))
    reply = ask(Store(tmp_path), "Who?", user="alice", model=str(model.path), max_new_tokens=8)
    assert reply.answer == model.text(base)


def test_a_home_is_where_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_folder(None) == tmp_path / ".stillhouse"
    assert home_folder("~/x") == tmp_path / "x"
