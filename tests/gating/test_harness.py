"""Task files of lm-evaluation-harness, run by the harness on our student and on its own `HFLM`: the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from stillhouse import gating
from stillhouse.errors import InputError
from stillhouse.gate import suite, tasks
from stillhouse.gating import Context, DoesNotApply, Suite, read_suite
from stillhouse.gating.context import prompt_digest
from stillhouse.gating.harness import TaskRun, prepared, run_tasks
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model
from stillhouse.records import Candidate, Study
from stillhouse.runners import BASE, TorchRunner
from stillhouse.text.prompts import without_memory

NOISE, BROKEN = 0, 1
ROWS = [
    {"question": "Name of the dog?", "choices": ["Rex", "the cat", "7714"], "gold": 0, "text": "A first text. " * 9},
    {
        "question": "Colour?",
        "choices": ["red", "blue", "it is green"],
        "gold": 2,
        "text": "def f(x):\n  return x\n" * 40,
    },
    {"question": "Which day?", "choices": ["Monday", "Sunday", "none"], "gold": 1, "text": "Short."},
    {"question": "A lake?", "choices": ["Como", "Lugano", "Garda"], "gold": 1, "text": "été " * 400},
]
CHOOSE = """
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
SAY = """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: [" ", "e"], max_gen_toks: 40, do_sample: false}
metric_list: [{metric: exact_match}]
"""
READ = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""
FORMS = {"choose": CHOOSE, "say": SAY, "read": READ}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The path of every task file."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    for name, form in FORMS.items():
        source = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {json.dumps(source)}\ntest_split: test"
        (folder / f"{name}.yaml").write_text(head + form, encoding="utf-8")
    return {name: str(folder / f"{name}.yaml") for name in FORMS}


@pytest.fixture(scope="module")
def bank(random_model: Callable[..., Model]) -> Iterator[AdapterBank]:
    bank = AdapterBank(random_model("llama").network, 2, LoraConfig(rank=4))
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter[NOISE].normal_(std=0.3, generator=torch.Generator().manual_seed(0))
            parameter[BROKEN].fill_(torch.nan)
    yield bank
    bank.detach()


@pytest.fixture(scope="module")
def model(random_model: Callable[..., Model]) -> Model:
    return random_model("llama")


def context(model: Model, bank: AdapterBank, slot: int, *paths: str) -> Context:
    return Context(TorchRunner(model, bank), slot, Study((), ()), texts=(), suite=Suite("mine", (), paths))


def candidate(model: Model) -> Candidate:
    return Candidate("adapter", "alice", model.fingerprint, "a" * 64, {}, {}, 1, ())


def theirs(model: Model, bank: AdapterBank, slot: int, path: str) -> tuple[dict[str, Any], list[Any]]:
    """Results and samples of the harness with its own model class, one document at a time."""
    reference = HFLM(pretrained=model.network, tokenizer=model.tokenizer, batch_size=1)
    loaded = TaskManager(include_defaults=False).load([path])
    with bank.rows([slot]):
        found = evaluate(reference, prepared(loaded), bootstrap_iters=0)
    (name,) = loaded["tasks"]
    return found["results"][name], found["samples"][name]


@pytest.mark.parametrize("slot", [BASE, NOISE])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_harness_says_the_same_of_our_student(
    model: Model, bank: AdapterBank, files: dict[str, str], form: str, slot: int
) -> None:
    """Shares and answers exactly, perplexities to 1e-5: sums of float32 in other batches."""
    (ours,) = run_tasks(TorchRunner(model, bank), slot, [files[form]])
    results, samples = theirs(model, bank, slot, files[form])
    expected = {key.partition(",")[0]: value for key, value in results.items() if key.endswith(",none")}
    expected = {key: value for key, value in expected.items() if not key.endswith("_stderr")}
    assert set(ours.metrics) == set(expected)
    for metric, value in ours.metrics.items():
        assert value == (pytest.approx(expected[metric], rel=1e-5) if form == "read" else expected[metric])
    for metric, values in ours.values.items():
        assert values == pytest.approx([float(s[metric]) for s in samples])
    assert [d["question"] for d in ours.documents] == [row["question"] for row in ROWS]


def test_the_gate_is_the_worst_change(model: Model, bank: AdapterBank, files: dict[str, str]) -> None:
    same = tasks.check(candidate(model), tasks.Config(), context(model, bank, BASE, *files.values()))
    assert not isinstance(same, DoesNotApply)
    assert (same.value, same.n, same.passed) == (0.0, 4, True)
    noise = tasks.check(candidate(model), tasks.Config(), context(model, bank, NOISE, files["read"]))
    assert not isinstance(noise, DoesNotApply)
    assert {row["metric"] for row in noise.details["tasks"]} == {"word_perplexity", "byte_perplexity", "bits_per_byte"}
    assert noise.value == min(row["better"] for row in noise.details["tasks"])


def test_changes_by_hand() -> None:
    """Accuracy 1/2 -> 1/4: a quarter less. Perplexity 10 -> 12: a fifth worse."""
    base = TaskRun("t", {"acc": 0.5, "ppl": 10.0}, {"acc": True, "ppl": False}, {"acc": [1, 1, 0, 0]}, [{}] * 4)
    student = TaskRun("t", {"acc": 0.25, "ppl": 12.0}, base.higher_is_better, {"acc": [0, 0, 0, 1]}, [{}] * 4)
    accuracy, perplexity = tasks.changes([base], [student])
    assert (accuracy.better, accuracy.by_document) == (-0.25, (-1.0, -1.0, 0.0, 1.0))
    assert perplexity.better == pytest.approx(-0.2)
    assert perplexity.by_document == ()


def test_suites_name_tasks(tmp_path: Path, files: dict[str, str]) -> None:
    assert read_suite(files["say"]).tasks == (files["say"],)
    mine = tmp_path / "mine.toml"
    mine.write_text(f'tasks = ["{files["say"]}", "arc_easy"]\n[[question]]\nquestion = "A?"\nanswer = "b"\n')
    both = read_suite(mine)
    assert both.tasks == (files["say"], "arc_easy")
    assert len(both.items) == 1
    assert len({both.digest, Suite("mine", both.items).digest, read_suite(files["say"]).digest}) == 3
    for text, said in (('tasks = ["none.yaml"]', "there is no task file"), ("tasks = [3]", "the task is 3")):
        mine.write_text(text)
        with pytest.raises(InputError, match=said):
            read_suite(mine)


def test_what_does_not_apply_or_cannot_be_loaded(model: Model, bank: AdapterBank, tmp_path: Path) -> None:
    none = context(model, bank, BASE)
    assert isinstance(tasks.check(candidate(model), tasks.Config(), none), DoesNotApply)
    assert isinstance(suite.check(candidate(model), suite.Config(), none), DoesNotApply)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("task: wrong\ndataset_path: json\ndataset_kwargs: {data_files: {test: /none.jsonl}}\n" + CHOOSE)
    with pytest.raises(InputError, match="cannot load it"):
        tasks.check(candidate(model), tasks.Config(), context(model, bank, BASE, str(wrong)))


def test_a_task_that_samples_is_refused(model: Model, bank: AdapterBank, files: dict[str, str], tmp_path: Path) -> None:
    text = (
        Path(files["say"]).read_text(encoding="utf-8").replace("do_sample: false", "do_sample: true, temperature: 1.0")
    )
    path = tmp_path / "drawn.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="a task samples"):
        run_tasks(TorchRunner(model, bank), BASE, [str(path)])


def test_a_task_that_was_trained_on_is_refused(model: Model, bank: AdapterBank, files: dict[str, str]) -> None:
    ctx = context(model, bank, BASE, files["choose"])
    ctx.trained = frozenset([prompt_digest(model.chat_ids(without_memory("Colour?")))])
    with pytest.raises(InputError, match="'Colour\\?' was trained on"):
        tasks.check(candidate(model), tasks.Config(), ctx)


def test_broken_logits_fail_the_gate(model: Model, bank: AdapterBank, files: dict[str, str]) -> None:
    for name in files:
        ctx = context(model, bank, BROKEN, files[name])
        (result,) = gating.run(candidate(model), "c" * 64, ctx, gating.Config(("tasks",))).results
        assert (result.value, result.passed) == (None, False)
        assert "NaN" in result.note
