"""From a recipe to students with their reports, on real models; data sets in every format; and what is refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import peft
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from stillhouse import cli, distillation, models
from stillhouse.capture.prompts import Example
from stillhouse.distillation.data import read, split
from stillhouse.distillation.evaluate import measure
from stillhouse.distillation.student import NewTokenizer, Student, build
from stillhouse.errors import InputError, ModelError, StoreError
from stillhouse.feeds.same_tokens import SameTokens
from stillhouse.models import Model

Make = Callable[..., Model]
ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."},
                  {"role": "user", "content": "And 1999?"}, {"role": "assistant", "content": "A year."}]},
    {"prompt": "The gate", "completion": " is open."},
    {"prompt": [{"role": "user", "content": "Where?"}], "completion": [{"role": "assistant", "content": "Here."}]},
    {"prompt": [{"role": "user", "content": "Why <b>?"}]},
    {"text": "Return a copy of the string with trailing characters removed.", "id": 7},
    {"prompt": "Once upon"},
]  # fmt: skip
RECIPE = """
samples = 3
[teacher]
model = "{teacher}"
device = "cpu"
[data]
train = ["data.jsonl", "stdlib:6"]
held_out = 0.3
[capture]
max_new_tokens = 5
[students.{name}]
{student}
[students.{name}.train]
epochs = 4.0
learning_rate = 3e-3
batch_tokens = 1024
mixed = "off"
{train}
"""
SCRATCH = """scratch = {model_type = "qwen3", hidden_size = 16, intermediate_size = 32, num_hidden_layers = 1,
num_attention_heads = 2, num_key_value_heads = 1, head_dim = 8}""".replace("\n", " ")
STUDENTS = {
    "half": ("layers = [1]", ""),
    "scratch": (SCRATCH, ""),
    "adapter": ("", "lora = {rank = 4, dropout = 0.1}\nvalidate_every = 1\npatience = 2"),
    "digits": ("new_tokenizer = {vocabulary = 400, single_digits = true}", ""),
}  # fmt: skip


def recipe(folder: Path, teacher: Model, name: str) -> Path:
    student, train = STUDENTS[name]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    file = folder / f"{name}.toml"
    file.write_text(RECIPE.format(teacher=teacher.path, name=name, student=student, train=train), encoding="utf-8")
    return file


def written(home: Path) -> list[Path]:
    """What was captured or made there."""
    return [path for kind in ("signals", "students") for path in sorted(home.glob(f"{kind}/*"))]


class Page(HTMLParser):
    """A page's tags and links."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "rect", "line", "circle"):
            self.open.append(tag)
        self.outside += [v for k, v in attrs if k in ("src", "href") and v]

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "line", "circle", "polyline", "polygon"):
            while self.open and self.open[-1] in ("polyline", "polygon"):
                self.open.pop()
            assert self.open.pop() == tag


@pytest.mark.parametrize("name", STUDENTS)
def test_a_recipe_makes_a_student_that_loads(
    name: str, random_model: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = random_model("llama")
    (done,) = distillation.distill(
        distillation.load_recipe(recipe(tmp_path, teacher, name)), home=tmp_path / "home", show=True
    )
    assert ("has another tokenizer than the teacher: it learns" in capsys.readouterr().err) == (name == "digits")
    assert done.same_tokens == (name != "digits")
    assert done.skipped <= (name == "digits"), "a random teacher's bytes need not be text"
    assert done.after.loss < done.before.loss + 0.02, (
        "a random teacher is nearly flat, and so is a student of random weights"
    )
    assert 0 <= done.after.agreement <= 1 and 0 <= done.after.ece <= 1 and done.after.positions > 20
    page = (done.folder / "report.html").read_text(encoding="utf-8")
    parsed = Page(page)
    assert not parsed.outside and "Why <b>" not in page and "<script" not in page
    if name == "adapter":
        base = AutoModelForCausalLM.from_pretrained(teacher.path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
            found = peft.PeftModel.from_pretrained(base, done.folder / "adapter")
        assert getattr(found.peft_config["default"], "r", 0) == 4
    else:
        student = models.load(str(done.folder / "model"), device="cpu")
        assert sum(p.numel() for p in student.network.parameters()) == done.parameters
        ids = torch.tensor([student.chat_ids(({"role": "user", "content": "Hi 1999"},))])
        assert student.network(input_ids=ids).logits.isfinite().all()


def test_run_again_it_reads_what_is_there_and_a_killed_run_goes_on(random_model: Make, tmp_path: Path) -> None:
    made = distillation.load_recipe(
        recipe(tmp_path, random_model("llama"), "half"), ["students.half.train.checkpoint_every=1"]
    )
    (first,) = distillation.distill(made, home=tmp_path / "a")
    again = distillation.distill(made, home=tmp_path / "a")
    assert again == [first]
    weights = (first.folder / "model" / "model.safetensors").read_bytes()
    (other,) = distillation.distill(made, home=tmp_path / "b")
    assert (other.folder / "model" / "model.safetensors").read_bytes() == weights
    for name in ("report.json", "report.html"):  # as if it had been killed after the last checkpoint
        (other.folder / name).unlink()
    (resumed,) = distillation.distill(made, home=tmp_path / "b")
    assert resumed == other
    assert (resumed.folder / "model" / "model.safetensors").read_bytes() == weights


def test_a_finished_student_that_is_damaged_is_one_clear_line(random_model: Make, tmp_path: Path) -> None:
    made = distillation.load_recipe(recipe(tmp_path, random_model("llama"), "adapter"))
    (done,) = distillation.distill(made, home=tmp_path / "home")
    report = done.folder / "report.json"
    whole = json.loads(report.read_bytes())
    half = report.read_bytes()[: report.stat().st_size // 2]
    without = json.dumps({name: value for name, value in whole.items() if name != "lengths"}).encode()
    bins = json.dumps(whole | {"before": whole["before"] | {"bins": [3]}}).encode()
    metrics = json.dumps(whole | {"after": {"kl": 1.0}}).encode()
    for content in (b"", half, b"\xff", b"[]", b"3", b"{}", without, bins, metrics, b'{"domains": [{}]}'):
        report.write_bytes(content)
        for again in (distillation.distill, distillation.audit):
            with pytest.raises(StoreError, match=r"damaged .*; remove '.*report\.json' and run the command again"):
                again(made, home=tmp_path / "home")
    report.unlink()
    assert distillation.distill(made, home=tmp_path / "home") == [done]
    file = Path(whole["signals"]["folder"]) / "capture.json"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"capture\.json: damaged .*; delete it and capture again"):
        distillation.distill(made, home=tmp_path / "home")


def test_the_command_line_captures_once_and_distils(
    random_model: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, home = recipe(tmp_path, random_model("llama"), "half"), str(tmp_path / "home")
    assert cli.main(["capture", str(file), "--home", home, "--json"]) == 0
    captured = json.loads(capsys.readouterr().out)
    assert captured["train"]["examples"] + captured["held_out"]["examples"] == 13
    shards = {p: p.stat().st_mtime_ns for p in (tmp_path / "home").rglob("signals-*.parquet")}
    assert cli.main(["distill", str(file), "--home", home]) == 0
    out = capsys.readouterr()
    assert "KL to the teacher" in out.out and "report.html" in out.out and "train half: done" in out.err
    assert shards == {p: p.stat().st_mtime_ns for p in (tmp_path / "home").rglob("signals-*.parquet")}
    assert cli.main(["audit", str(file), "--home", home, "--prompts", str(tmp_path / "data.jsonl")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("half: 6 requests, the same answer to ") and "nats per token to the teacher" in said


def test_inner_states_are_matched_where_asked(random_model: Make, tmp_path: Path) -> None:
    teacher, asked = random_model("llama"), ["traces.layers=[1.0]"]
    matched = [*asked, "students.half.train.hidden=0.5"]
    (done,) = distillation.distill(
        distillation.load_recipe(recipe(tmp_path, teacher, "half"), matched), home=tmp_path / "home"
    )
    assert done.steps and list((tmp_path / "home").rglob("traces-*.parquet"))
    made = distillation.load_recipe(recipe(tmp_path, teacher, "digits"), [*asked, "students.digits.train.hidden=0.5"])
    with pytest.raises(InputError, match=r"digits\.train\.hidden: inner states are of one model"):
        distillation.distill(made, home=tmp_path / "other")
    assert written(tmp_path / "other") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("students.half.layers=[9]", "student.layers: 9 is not there; the model has layers 0 to 1"),
        ("students.half.layer=[0]", "students.half: unknown key 'layer'.*did you mean 'layers'"),
        ("capture.topk=3", "recipe.capture: unknown key 'topk'.*did you mean 'top_k'"),
        ("students.half.train.objective.tail='keep'", "students.half.train.objective.tail: 'keep' is not one of"),
        ("students.half.train.objective.alpha=2.0", "alpha: 2.0 is not allowed"),
        ("data.held_out=1.5", "data.held_out: 1.5 is not a share"),
        ("data.held_out=0.0", "data.held_out: 0 leaves nothing to measure"),
        ("data.train=['gone.jsonl']", "gone.jsonl: no such file"),
        ("data.train=[]", "data: no examples"),
        (
            "students.half.tokenizer='tiny'\nstudents.half.new_tokenizer={}",
            "tokenizer and new_tokenizer are both given",
        ),
        ("students.half.scratch={a=1}", "scratch makes random weights"),
        ("folder='x'", "unknown key 'folder'"),
        ("students.half.train.lora={rank=0}", r"^students\.half\.train\.lora\.rank: 0 is not a positive number"),
        ("students.half.train.lora={dropout=1.0}", r"^students\.half\.train\.lora\.dropout: 1\.0 is not allowed"),
        ("students.half.train.lora={dropout=-0.1}", r"^students\.half\.train\.lora\.dropout: -0\.1 is not allowed"),
        (
            "students.half.train.patience=2",
            r"^students\.half\.train\.patience: 2 waits for validations, .* set validate_",
        ),
        ("students.half.train.hidden=0.5", r"^students\.half\.train\.hidden: no traces of the teacher"),
    ],
)
def test_a_wrong_recipe_is_one_clear_line(change: str, message: str, random_model: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        made = distillation.load_recipe(recipe(tmp_path, random_model("llama"), "half"), [change])
        distillation.distill(made, home=tmp_path / "home")
    assert written(tmp_path / "home") == [], "it is told before anything is captured or made"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("students.half.tokenizer='./gone'", "gone: no tokenizer there"),
        ("students.half={model='./gone'}", "gone: no such model"),
    ],
)
def test_a_model_that_is_not_there_is_told_first(change: str, message: str, random_model: Make, tmp_path: Path) -> None:
    made = distillation.load_recipe(recipe(tmp_path, random_model("llama"), "half"), [change])
    with pytest.raises(ModelError, match=message):
        distillation.distill(made, home=tmp_path / "home")
    assert written(tmp_path / "home") == []


def test_dropout_on_stacked_experts_is_told_before_anything_is_captured(random_model: Make, tmp_path: Path) -> None:
    asked = ["students.half.train.lora={rank=2, dropout=0.1}"]
    made = distillation.load_recipe(recipe(tmp_path, random_model("qwen3_moe"), "half"), asked)
    line = r"^students\.half\.train\.lora\.dropout: 0\.1 is not for stacked experts; .*\.lora\.experts = false$"
    with pytest.raises(InputError, match=line):
        distillation.distill(made, home=tmp_path / "home")
    assert written(tmp_path / "home") == []


@pytest.mark.parametrize(("rate", "patience"), [("3.0", 1), ("3e-3", 0)], ids=["stopped", "to the end"])
def test_the_best_step_is_reported(
    rate: str, patience: int, random_model: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, home = recipe(tmp_path, random_model("llama"), "adapter"), str(tmp_path / "home")
    settings = [f"learning_rate={rate}", f"patience={patience}", "batch_tokens=128", "epochs=6.0"]
    assert (
        cli.main(["distill", str(file), "--home", home, *(f"--set=students.adapter.train.{s}" for s in settings)]) == 0
    )
    out = capsys.readouterr().out
    (report,) = (tmp_path / "home").glob("students/*/report.json")
    content, page = json.loads(report.read_bytes()), report.with_suffix(".html").read_text(encoding="utf-8")
    best, curve = content["best"], content["validation"]
    assert [step for step, _ in curve] == list(range(1, content["steps"] + 1))
    assert dict(curve)[best["step"]] == round(best["loss"], 5) == min(loss for _, loss in curve)
    assert best["stopped_early"] == bool(patience)
    line = f"best after step {best['step']} of {content['steps']}, held-out loss {best['loss']:.4f}"
    line += ", stopped early" * bool(patience)
    assert f"  {line}; chosen on held-out data, which flatters the figures below\n" in out
    assert f"The student is the {line}. It was chosen on held-out data, which flatters the figures" in page
    assert "dashed: on held-out examples" in page and page.count("<polyline") == 2 and not Page(page).outside
    (again,) = distillation.distill(distillation.load_recipe(file, [f"students.adapter.train.{s}" for s in settings]),
                                    home=home)  # fmt: skip
    assert again.best and vars(again.best) == best


def test_reports_of_students_without_validation_stay_as_they_are(
    random_model: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = recipe(tmp_path, random_model("llama"), "half")
    assert cli.main(["distill", str(file), "--home", str(tmp_path / "home")]) == 0
    (report,) = (tmp_path / "home").glob("students/*/report.json")
    assert not {"best", "validation"} & set(json.loads(report.read_bytes()))
    assert "dashed: on" not in report.with_suffix(".html").read_text(encoding="utf-8")
    assert "best after" not in capsys.readouterr().out


def test_every_format_of_data_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n\n" for row in ROWS), encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(ROWS), encoding="utf-8")
    (tmp_path / "lines.jsonl").write_text('{"text": "one\u2028row"}\r\n{"text": "two"}', encoding="utf-8")
    assert [e.answer for e in read(["lines.jsonl"], tmp_path)] == ["one\u2028row", "two"]
    (tmp_path / "a.txt").write_text("One passage\nof two lines.\n\nAnother.\n", encoding="utf-8")
    pq.write_table(pa.Table.from_pylist([ROWS[0], ROWS[0]]), tmp_path / "a.parquet")
    user = {"role": "user", "content": "Hi"}
    expected = [
        Example((user,), answer="Hello."),
        Example((user, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "And 1999?"}),
                answer="A year."),
        Example(text="The gate", answer=" is open."),
        Example(({"role": "user", "content": "Where?"},), answer="Here."),
        Example(({"role": "user", "content": "Why <b>?"},)),
        Example(answer="Return a copy of the string with trailing characters removed."),
        Example(text="Once upon"),
    ]  # fmt: skip
    assert read(["a.jsonl"], tmp_path) == read(["a.json"], tmp_path) == expected
    assert read(["a.parquet"], tmp_path) == expected[:2] * 2
    assert [e.answer for e in read(["a.txt"], tmp_path)] == ["One passage\nof two lines.", "Another."]
    assert len(read(["stdlib:9", "a.txt"], tmp_path)) == 11


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text"', "line 2 is not JSON"),
        ("x.jsonl", b"[1]", "row 1: .* is not an object"),
        ("x.jsonl", b'{"txt": "a"}', "row 1: has txt; a row has messages, prompt"),
        ("x.jsonl", b'{"text": 3}', "row 1: 3 is not text"),
        ("x.jsonl", b'{"messages": []}', r"row 1: \[\] is not a list of messages"),
        ("x.jsonl", b'{"messages": [{"role": "user"}]}', "is not a message"),
        ("x.jsonl", b'{"messages": [{"role": "assistant", "content": "a"}]}', "begins with the assistant"),
        ("x.jsonl", b"\xff\xfe", "not UTF-8 at byte 0"),
        ("x.parquet", b"PAR1nothing", "not a Parquet file"),
        ("x.csv", b"a,b", "unknown kind of file"),
        ("x.txt", b"\n\n", "no examples"),
    ],
)
def test_data_that_cannot_be_read_names_file_and_row(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read([name], tmp_path)
    with pytest.raises(InputError, match="say how many passages"):
        read(["stdlib:many"], tmp_path)


def test_what_is_held_out_stays_held_out_when_data_grows() -> None:
    data = [Example(answer=f"text {i}") for i in range(300)]
    train, held = split(data, 0.2, 0)
    assert len(train) + len(held) == 300 and 35 < len(held) < 85
    more, more_held = split([*data, *(Example(answer=f"new {i}") for i in range(100))], 0.2, 0)
    assert {e.answer for e in held} <= {e.answer for e in more_held} and len(more) > len(train)
    assert not {e.answer for e in more} & {e.answer for e in more_held}
    assert len(split(data[:3], 1e-6, 0)[1]) == 1
    with pytest.raises(InputError, match="too few to hold some out"):
        split(data[:1], 0.5, 0)


def test_a_teacher_measured_against_itself_is_perfect(random_model: Make, tmp_path: Path) -> None:
    teacher = random_model("llama")
    made = distillation.load_recipe(recipe(tmp_path, teacher, "half"))
    signals, _ = distillation.capture(made, home=tmp_path / "home")
    found = measure(teacher, SameTokens(signals.read(), teacher.vocabulary, teacher.context))
    assert abs(found.kl) < 0.02 and found.agreement > 0.9 and found.compared == found.positions
    assert sum(b.n for b in found.bins) == found.positions == signals.positions


def test_a_new_tokenizer_keeps_what_the_embeddings_know(random_model: Make, tmp_path: Path) -> None:
    teacher = random_model("qwen3")
    student = Student(new_tokenizer=NewTokenizer(400))
    found = build(student, teacher, ["the list of the strings 1999"] * 9, tmp_path / "s", "cpu", 0)
    assert found.vocabulary == len(found.tokenizer) <= 400
    assert found.stop_ids == {found.tokenizer.eos_token_id}
    old, new = (next(m.network.get_input_embeddings().parameters()) for m in (teacher, found))
    (ours,), (theirs,) = found.text_ids("t"), teacher.text_ids("t")
    torch.testing.assert_close(new[ours], old[theirs])
    assert found.chat_text(({"role": "user", "content": "Hi"},)) == teacher.chat_text(
        ({"role": "user", "content": "Hi"},)
    )
    with pytest.raises(InputError, match="vocabulary: 100 is too small"):
        NewTokenizer(100)
    with pytest.raises(InputError, match=r"student.scratch: no model can be made of it"):
        build(Student(scratch={"model_type": "gwen"}), teacher, [], tmp_path / "t", "cpu", 0)
