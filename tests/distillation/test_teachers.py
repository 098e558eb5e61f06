"""Teachers of a recipe: several mixed, an endpoint, several processes, chosen positions; and students that write."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse import distillation, models
from stillhouse.capture import prompts
from stillhouse.capture.prompts import Captured, Config, Example, Positions, capture
from stillhouse.capture.prompts.workers import TeacherSource, spread
from stillhouse.config import resolve
from stillhouse.distillation.feed import feed_of
from stillhouse.distillation.signals import RecipeSignals, collect_signals
from stillhouse.distillation.teacher import TeacherTable, open_teacher
from stillhouse.errors import InputError, ModelError
from stillhouse.feeds.on_policy import OnPolicy, OnPolicyFeed, jensen_shannon
from stillhouse.feeds.same_tokens import SameTokens
from stillhouse.models import Model
from stillhouse.teachers.local import Local
from stillhouse.teachers.positions import marked, refuses
from stillhouse.teachers.quantised import load as load_quantised
from stillhouse.train import full
from tests import architectures, tokenizers
from tests.teachers import speaking
from tests.teachers.speaking import Speaking

Make = Callable[..., Model]
ASK = ({"role": "user", "content": "What is a list?"},)
DATA = [
    Example(ASK, answer="A mutable sequence."),
    Example(text="The gate is", answer=" open at nine."),
    Example(ASK),
    Example(answer="Return a copy of the string with leading characters removed."),
    Example(text="Once upon a"),
]
CONFIG = Config(max_new_tokens=5, shard_examples=2)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of another class and with more padding rows, of the same tokenizer as `random_model`'s."""
    network = architectures.qwen3(tokenizers.VOCABULARY + 24, seed=7)
    return models.load(str(tokenizers.save(tmp_path_factory.mktemp("other"), network)), device="cpu")


def logprobs(model: Model, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(
            model.network(input_ids=torch.tensor([ids])).logits[0, :, : tokenizers.VOCABULARY].double(), -1
        )


def test_a_mixture_is_of_probabilities(random_model: Make, other: Model, tmp_path: Path) -> None:
    teacher = Local.of(random_model("llama"), other, weights=(3, 1))
    everything = replace(CONFIG, top_k=255, draws=0, keep=0.0)
    captured = capture(teacher, DATA, everything, tmp_path)
    assert captured.base not in (random_model("llama").fingerprint, other.fingerprint)
    assert captured.vocabulary == tokenizers.VOCABULARY == len(captured.tokens())
    for shard in captured.read():
        for a in shard.artifacts():
            parts = [logprobs(m, a.x_ids) for m in teacher.mixture.models]
            mixed_TV = (0.75 * parts[0].exp() + 0.25 * parts[1].exp()).log()
            for t in a.targets:
                own_V = mixed_TV[t.position - 1]
                torch.testing.assert_close(torch.tensor(t.logprobs).double(), own_V[list(t.ids)], atol=0.04, rtol=0)
    again = Local.of(random_model("llama"), other, weights=(0.75, 0.25))
    assert again.fingerprint == teacher.fingerprint, "weights are shares"
    swapped = Local.of(other, random_model("llama"), weights=(1, 3))
    assert swapped.fingerprint != teacher.fingerprint


def test_a_mixture_of_one_says_what_it_says_alone(random_model: Make, tmp_path: Path) -> None:
    model = random_model("llama")
    one = capture(Local.of(model, weights=(2,)), DATA, CONFIG, tmp_path / "a")
    alone = capture(model, DATA, CONFIG, tmp_path / "b")
    assert [(tmp_path / "a" / n).read_bytes() for n in one.shards] == [
        (tmp_path / "b" / n).read_bytes() for n in alone.shards
    ]


def test_teachers_that_cannot_be_mixed_are_named(random_model: Make, shipped: Model) -> None:
    with pytest.raises(InputError, match=r"the tokenizers of .* and tiny differ; only distributions"):
        Local.of(random_model("llama"), shipped)
    with pytest.raises(InputError, match="weighs -1; a weight is more than 0"):
        Local.of(random_model("llama"), weights=(-1,))
    with pytest.raises(InputError, match="1 teachers and 2 weights"):
        Local.of(random_model("llama"), weights=(1, 2))


@pytest.mark.slow
def test_workers_write_the_bytes_that_one_writes(random_model: Make, tmp_path: Path) -> None:
    """Four shards for two processes; the last, the other process's second, has a bad row, which is named here."""
    model = random_model("llama")
    source = TeacherSource((str(model.path),), (), "cpu")
    config, seen = replace(CONFIG, temperature=0.9, samples=2), list[int]()
    good = [*DATA, Example(text="And then")]
    with pytest.raises(InputError, match="example 7: its answer is empty"):
        bad = [*good, Example(ASK, answer=" ")]
        spread(source, source.open(), bad, config, tmp_path / "a", 2, lambda n, note: seen.append(n))
    one = capture(model, good, config, tmp_path / "b")
    assert {p.name for p in (tmp_path / "a").glob("signals-*")} == set(one.shards) and seen == [2, 2, 2]
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in one.shards)


def test_spans_refusals_and_doubts_choose_positions(random_model: Make, tmp_path: Path) -> None:
    tokens = ["It costs ", "4", "2", " euros", ". ", "Sorry", ", I can't ", "help with", " that", ". ", "Bye", "."]
    raw = [t.encode() for t in tokens]

    def text(positions: Positions) -> list[str]:
        return [t for t, mark in zip(tokens, marked(positions, raw), strict=True) if mark]

    assert text(Positions()) == tokens
    assert text(Positions(spans=(r"costs (\d+)",))) == ["4", "2"]
    assert text(Positions(spans=("nothing",))) == []
    assert text(Positions(refusal=1)) == ["It costs ", ". ", "Sorry", ". ", "Bye"]
    assert refuses("I don\u2019t know.") and refuses("I'm sorry, but I can't assist with that.")
    assert not refuses("I can help with that.") and not refuses("They can't swim.")
    model = random_model("llama")
    every = capture(model, DATA, CONFIG, tmp_path / "all")
    entropies = entropy(model, every)
    ordered = np.sort(entropies)
    gap = int(np.argmax(np.diff(ordered)))  # between two values, so that rounding decides nothing
    least = float(ordered[gap : gap + 2].mean())
    some = capture(model, DATA, replace(CONFIG, positions=Positions(entropy=least)), tmp_path / "some")
    assert some.positions == (entropies >= least).sum() < every.positions
    assert prompts.load(tmp_path / "some") == some
    with pytest.raises(InputError, match="chooses no position"):
        capture(model, DATA, replace(CONFIG, positions=Positions(spans=("qqq",))), tmp_path / "none")
    for wrong in ({"spans": ["("]}, {"entropy": -1.0}, {"refusal": -1}):
        with pytest.raises(InputError, match=rf"^capture\.positions\.{next(iter(wrong))}: "):
            resolve(Positions, wrong)


def test_chosen_positions_are_not_for_another_tokenizer(random_model: Make, shipped: Model, tmp_path: Path) -> None:
    some = capture(random_model("llama"), DATA, replace(CONFIG, positions=Positions(refusal=2)), tmp_path)
    with pytest.raises(InputError, match=r"capture.positions: a student with another tokenizer is trained on whole"):
        feed_of(shipped, [some])


def entropy(model: Model, captured: Captured) -> np.typing.NDArray[np.float64]:
    found = []
    for shard in captured.read():
        for a in shard.artifacts():
            logprobs_TV = logprobs(model, a.x_ids)
            found += [-float((lp := logprobs_TV[t.position - 1]).exp() @ lp) for t in a.targets]
    return np.array(found)


def test_bits_need_a_library_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(
        InputError, match=r"teacher.bits: 8 takes torchao: pip install 'stillhouse\[quantise\]'; or bits"
    ):
        load_quantised("tiny", 8, "cpu")


def test_an_endpoint_needs_a_library_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "stillhouse.teachers.client", None)
    with pytest.raises(InputError, match=r"takes httpx: pip install 'stillhouse\[endpoint\]'"):
        open_teacher(TeacherTable(url="http://localhost:1/v1"), tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"workers": 0}, "teacher.workers: 0 is not allowed"),
        ({"timeout": 0}, "teacher.timeout: 0.0 is not allowed"),
        ({"bits": 3}, "teacher.bits: 3 is not one of 0, 4, 8"),
        ({"mix": {"a": 1.0}, "model": "b"}, "'b' is not among a; leave teacher.model out"),
        ({"mix": {"a": 1.0}, "url": "http://x/v1"}, "teacher.mix: is of models on this machine"),
        ({"workers": 2, "url": "http://x/v1"}, "teacher.workers: is of models on this machine"),
        ({"tokenizer": "tiny"}, "are of an endpoint; give its teacher.url"),
        ({"url": "http://x/v1", "key": "NO_SUCH_VARIABLE"}, "no environment variable NO_SUCH_VARIABLE"),
    ],
)
def test_wrong_teachers_are_one_clear_line(table: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises((InputError, ModelError), match=message):
        open_teacher(resolve(TeacherTable, table, "teacher"), tmp_path)


RECIPE = """
samples = 2
answers = 2
[teacher]
{teacher}
[data]
train = ["data.jsonl"]
held_out = 0.3
[capture]
max_new_tokens = 4
[students.half]
model = "{student}"
layers = [1]
{on_policy}
[students.half.train]
steps = 6
epochs = 6.0
learning_rate = 3e-3
batch_tokens = 96
mixed = "off"
checkpoint_every = 1
{train}
"""


def recipe(folder: Path, teacher: str, student: Model, on_policy: str = "", train: str = "") -> distillation.Recipe:
    rows = [{"prompt": f"Number {i} is", "completion": f" {i * 7} or so."} for i in range(12)]
    (folder / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    file = folder / "recipe.toml"
    text = RECIPE.format(teacher=teacher, student=student.path, on_policy=on_policy, train=train)
    file.write_text(text, encoding="utf-8")
    return distillation.load_recipe(file)


def test_an_endpoint_distils_into_a_student_whose_tail_is_one_token(random_model: Make, tmp_path: Path) -> None:
    model = random_model("llama")
    with speaking.serving(Speaking(model, "vllm")) as url:
        teacher = f'url = "{url}"\ntokenizer = "{model.path}"\ndevice = "cpu"'
        (done,) = distillation.distill(recipe(tmp_path, teacher, model), home=tmp_path / "home")
    report = json.loads((done.folder / "report.json").read_text(encoding="utf-8"))
    assert report["settings"]["student"]["train"]["objective"]["tail"] == "ghost"
    assert done.same_tokens and done.teacher_parameters == 0 and done.after.kl < done.before.kl
    assert "parameters" in (done.folder / "report.html").read_text(encoding="utf-8")


def test_without_weights_here_a_student_needs_a_model(random_model: Make, tmp_path: Path) -> None:
    model = random_model("llama")
    with speaking.serving(Speaking(model, "vllm")) as url:
        made = recipe(tmp_path, f'url = "{url}"\ntokenizer = "{model.path}"', model)
        (name, student), *_ = made.students
        with pytest.raises(InputError, match="give each student a model"):
            distillation.distill(replace(made, students=((name, replace(student, model="")),)), home=tmp_path / "home")


@pytest.mark.parametrize(
    ("setting", "train"), [("share = 0.6, after = 1", ""), ("share = 1.0, takeover = 0.05", "lora = { rank = 4 }")]
)
def test_a_student_that_writes_is_compared_and_resumes_exactly(
    setting: str, train: str, random_model: Make, tmp_path: Path
) -> None:
    model = random_model("llama")
    made = recipe(tmp_path, f'model = "{model.path}"\ndevice = "cpu"', model, f"on_policy = {{ {setting} }}", train)
    (whole,) = distillation.distill(made, home=tmp_path / "a")
    report = json.loads((whole.folder / "report.json").read_text(encoding="utf-8"))
    assert report["off_policy"]["kl"] != report["after"]["kl"] and report["steps"] == 6
    assert "Off-policy" in (whole.folder / "report.html").read_text(encoding="utf-8")
    signals = collect_signals(made, tmp_path / "b", False)
    with pytest.raises(KeyboardInterrupt):
        _train(signals, model, tmp_path / "b", killed=3)
    resumed, straight = (_train(signals, model, tmp_path / n) for n in ("b", "c"))
    for name, weights in straight.items():
        torch.testing.assert_close(resumed[name], weights, rtol=0, atol=0)


def _train(signals: RecipeSignals, model: Model, folder: Path, killed: int = 0) -> dict[str, torch.Tensor]:
    """The weights of a student after its training, which dies after `killed` steps."""
    ((_, student),) = signals.recipe.students
    assert student.on_policy is not None
    (lesson,) = signals.lessons
    fresh = models.load(str(model.path), "cpu")
    stored = SameTokens(lesson.signals.read(), fresh.vocabulary, fresh.context)
    feed = OnPolicyFeed(stored, [lesson.signals], fresh, signals.teacher.teacher, student.on_policy)
    folder.mkdir(exist_ok=True)

    def step(n: int, note: str) -> None:
        if killed and feed.step == killed:
            raise KeyboardInterrupt

    trained = full.train(fresh, feed, student.train, folder, feed.told(step))
    assert killed or feed.written > 0
    made = trained.adapter(fresh.ref)
    return made[0] if made else fresh.network.state_dict()


def test_a_batch_that_the_student_wrote_weighs_what_the_stored_one_does(random_model: Make, tmp_path: Path) -> None:
    model = random_model("llama")
    taught = capture(model, DATA, CONFIG, tmp_path)
    stored = SameTokens(taught.read(), model.vocabulary, model.context)
    feed = OnPolicyFeed(stored, [taught], model, Local.of(model), OnPolicy(share=1.0))
    numbers = list(range(len(stored.lengths)))
    batch = feed.batch(numbers, 0, model.device)
    with torch.no_grad():
        hidden_BTH = model.network.base_model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).last_hidden_state
        loss_P = batch.losses(hidden_BTH, model.network.get_output_embeddings(), full.Config().objective)
    assert len(loss_P) == sum(stored.positions)
    assert abs(float(loss_P.mean())) < 0.1, "the student is its own teacher"
    assert not model.network.training


def test_where_they_are_too_far_apart_the_teacher_writes(random_model: Make, other: Model, tmp_path: Path) -> None:
    student = random_model("llama")
    taught = capture(student, DATA[:2], CONFIG, tmp_path)
    stored = SameTokens(taught.read(), student.vocabulary, student.context)
    asked = OnPolicy(share=1.0, temperature=0.0, takeover=1e-6)
    feeds = {
        name: OnPolicyFeed(stored, [taught], student, Local.of(other), wanted)
        for name, wanted in (("teacher", asked), ("student", replace(asked, takeover=0.69)))
    }
    for name, writer in (("teacher", other), ("student", student)):
        torch.manual_seed(0)
        ids_BT = feeds[name].batch([0, 1], 0, student.device).ids_BT
        for row, wanted in zip(ids_BT.tolist(), feeds[name].prompted, strict=True):
            prompt = list(wanted.example.student_prompt)
            assert row[len(prompt)] == int(logprobs(writer, tuple(prompt))[-1].argmax())
    left_BV = torch.log_softmax(torch.tensor([[0.0, 0.0], [100.0, 0.0]]), -1)
    right_BV = torch.log_softmax(torch.tensor([[0.0, 0.0], [0.0, 100.0]]), -1)
    torch.testing.assert_close(jensen_shannon(left_BV, right_BV), torch.tensor([0.0, math.log(2)]))


def test_what_cannot_be_on_policy_is_one_clear_line(
    random_model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in ({"share": 0.0}, {"takeover": 0.7}, {"after": -1}):
        with pytest.raises(InputError, match=rf"^on_policy\.{next(iter(wrong))}: "):
            resolve(OnPolicy, wrong)
    model = random_model("llama")
    taught = capture(model, DATA[:2], CONFIG, tmp_path)
    stored = SameTokens(taught.read(), model.vocabulary, model.context)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="train it on one"):
        OnPolicyFeed(stored, [taught], model, Local.of(model), OnPolicy())
