"""Several domains: one specialist each on one base, a summary, a router with a way out, an audit with corrections."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stillhouse import cli, distillation
from stillhouse.capture.prompts import Example
from stillhouse.distillation import router
from stillhouse.distillation.data import Data, Domain, add, parts
from stillhouse.distillation.pages import domains_page
from stillhouse.errors import InputError, ModelError, StoreError
from stillhouse.models import Model
from tests.distillation.test_run import Page

Make = Callable[..., Model]
TASKS = ("Sort the list {i}", "Add {i} and {j}", "Count to {i}{j}")
BUGS = ("TypeError: int {i} is not callable", "KeyError {i}{j} in line {j}", "segmentation fault at 0x{i}{j}")
RECIPE = """
samples = 1
answers = 2
[teacher]
model = "{teacher}"
device = "cpu"
[capture]
max_new_tokens = 4
[domains.task]
train = ["task.jsonl"]
held_out = 0.4
corrections = "task-corrections.jsonl"
[domains.debug]
train = ["debug.jsonl"]
held_out = 0.4
system = "You debug."
template = "Error: {{prompt}}"
teacher_system = "Be brief."
[students.small.train]
lora = {{ rank = 2 }}
epochs = 2.0
learning_rate = 3e-3
batch_tokens = 512
mixed = "off"
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, random_model: Make) -> Path:
    folder = tmp_path_factory.mktemp("domains")
    for name, texts in (("task", TASKS), ("debug", BUGS)):
        rows = [{"prompt": [{"role": "user", "content": t.format(i=i, j=i % 7)}]} for i in range(6) for t in texts]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    found = folder / "recipe.toml"
    found.write_text(RECIPE.format(teacher=random_model("llama").path), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def home(file: Path) -> Path:
    distillation.distill(distillation.load_recipe(file), home=file.parent / "home")
    return file.parent / "home"


def test_every_domain_gets_a_specialist_and_the_summary_has_them_all(file: Path, home: Path) -> None:
    done = distillation.distill(distillation.load_recipe(file), home=home)
    assert [(d.name, d.domain, d.steps) for d in done] == [("small", "task", 2), ("small", "debug", 2)]
    whole = done[0].folder.parent
    found = json.loads((whole / "report.json").read_text(encoding="utf-8"))
    assert [d["domain"] for d in found["domains"]] == ["task", "debug"]
    assert found["router"]["n"] == sum(map(sum, found["router"]["confusion"])) > 2
    for d in done:
        assert (d.folder / "adapter" / "adapter_config.json").exists()
        assert d.lengths.n == 2 and 0 <= d.lengths.cut <= 1
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert Page(page).outside == ["task/report.html", "debug/report.html"] and "<script" not in page
    assert "The router" in page and "small: debug" in (done[1].folder / "report.html").read_text(encoding="utf-8")
    for d in found["domains"]:
        d["best"] = {"step": 1, "loss": 0.5, "stopped_early": False}
    assert "best step" not in page and ">1 of 2</span>" not in page
    validated = domains_page(found)
    assert (
        "each is of its best step on held-out data, which flatters" in validated
        and validated.count(">1 of 2</span>") == 2
    )
    settings = json.loads((done[1].folder / "report.json").read_text(encoding="utf-8"))["settings"]
    assert settings["capture"]["teacher_system"] == "Be brief." and settings["domain"]["system"] == "You debug."


def test_a_damaged_specialist_names_what_to_remove(file: Path, home: Path) -> None:
    recipe = distillation.load_recipe(file)
    done = distillation.distill(recipe, home=home)
    for report in (done[1].folder / "report.json", done[1].folder.parent / "report.json"):
        whole = report.read_bytes()
        report.write_bytes(whole[:-200])
        for again in (distillation.distill, distillation.audit):
            with pytest.raises(StoreError, match=r"damaged .*; remove '.*/small-\w+/report\.json' and run"):
                again(recipe, home=home)
        with pytest.raises(StoreError, match="damaged"):
            distillation.specialists(recipe, "small", home=home)
        report.write_bytes(whole)
    (done[1].folder / "report.json").rename(done[1].folder / "away")
    with pytest.raises(StoreError, match=r"debug/report\.json' is missing, so work is not finished; remove"):
        distillation.distill(recipe, home=home)
    (done[1].folder / "away").rename(done[1].folder / "report.json")


def test_a_domain_without_what_it_needs_is_one_clear_line(file: Path, tmp_path: Path) -> None:
    for change, message in (
        ("students.small.layers=[1]\nstudents.small.train={steps=2}", None),
        ("domains.task.held_out=0.0", r"domains.task.held_out: 0 leaves nothing"),
        ("domains.task.templat='x'", r"domains.task: unknown key 'templat'.*did you mean 'template'"),
        ("domains.task.template='x'", r"domain.template: 'x' has to hold {prompt} once"),
        ("domains.task.corrections='a.csv'", r"data.corrections: 'a.csv' .* a .jsonl file"),
        ("data.train=['task.jsonl']", "data and domains are both given"),
        ("domains.'a/b'.train=['task.jsonl']", r"'a/b' is no name"),
        ("capture.max_tokens=2\ncapture.too_long='skip'", r"none of its examples is left, \d+ were too long"),
        ("router.right=2.0", r"router.right: 2.0 is not allowed"),
        ("router.wrong=2.0", r"recipe.router: unknown key 'wrong'"),
    ):
        if message:
            with pytest.raises(InputError, match=message):
                distillation.distill(distillation.load_recipe(file, [change]), home=tmp_path)
    with pytest.raises(InputError, match=r"students.full.train.lora: missing; the specialists of several domains"):
        distillation.load_recipe(file, ["students.full.layers=[1]"])


def test_a_style_is_put_around_requests_and_corrections_of_held_out_ones_are_left_out(tmp_path: Path) -> None:
    user = {"role": "user", "content": "Why?"}
    domain = Domain(("a.jsonl",), 0.5, system="S", template="Q: {prompt}", corrections="c.jsonl")
    assert domain.style(Example((user,))).messages[0] == {"role": "system", "content": "S"}
    assert domain.style(Example((user,))).messages[1]["content"] == "Q: Why?"
    merged = domain.style(Example(({"role": "system", "content": "T"}, user))).messages
    assert [m["content"] for m in merged] == ["S\n\nT", "Q: Why?"]
    assert domain.style(Example(text="Go")).text == "S\n\nQ: Go" and domain.style(Example(answer="x")).text == ""
    rows = [{"prompt": f"p{i}", "completion": "a"} for i in range(12)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    train, held = parts(domain, tmp_path, 0)
    assert parts(Data(("a.jsonl",), 0.5), tmp_path, 0) == (train, held)
    fixed = [{"prompt": e.text, "completion": "better"} for e in (held[0], train[0])]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in fixed), encoding="utf-8")
    more, same = parts(domain, tmp_path, 0)
    assert same == held and more == [*train, Example(text=train[0].text, answer="better")]


def states(n: int, seed: int, away: float = 3.0, domains: int = 3, size: int = 24) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=torch.Generator().manual_seed(9)).double()
    return [
        (torch.randn(n, size, generator=generator).double() + away * torch.eye(size)[d].double()) @ mix
        for d in range(domains)
    ]


def test_the_router_is_calibrated_and_sends_strange_requests_to_the_teacher() -> None:
    names, config = ("a", "b", "c"), router.Config()
    probe = router.fit("base", names, states(60, 0), config)
    made = router.calibrate(probe, states(200, 1), config)
    measured = router.measure(made, states(400, 2))
    assert measured.accuracy > 0.9 and measured.right > 0.93 and measured.routed > 0.7 and measured.ece < 0.04
    strange = made.route(40 * torch.randn(50, 24).double())
    assert all(r.domain is None for r in strange)
    kept = [r.domain is not None for part in states(200, 3) for r in made.route(part)]
    assert sum(kept) / len(kept) > 0.7
    mixed = router.calibrate(probe, states(200, 1, away=0.0), config)
    assert router.measure(mixed, states(200, 4, away=0.0)).routed < 0.1, "it cannot tell: all to the teacher"
    exact = torch.linalg.inv(torch.linalg.inv(probe.whiten_RR.T) @ torch.linalg.inv(probe.whiten_RR))
    away = states(3, 5)[0] - probe.mean_H
    inside = away @ probe.basis_HR - probe.centres_DR[1] @ torch.linalg.inv(probe.whiten_RR)
    mahalanobis = torch.einsum("nr,rs,ns->n", inside, exact, inside)
    torch.testing.assert_close(probe.distances(states(3, 5)[0])[:, 1], mahalanobis, rtol=1e-6, atol=1e-6)


def test_a_router_is_read_back_and_refused_for_another_base(random_model: Make, tmp_path: Path) -> None:
    model = random_model("llama")
    probe = router.fit(model.fingerprint, ("a", "b", "c"), states(20, 0), router.Config())
    router.save(probe, tmp_path / "r")
    found = router.load(tmp_path / "r", model)
    assert found.route(states(4, 1)[0]) == probe.route(states(4, 1)[0])
    with pytest.raises(ModelError, match="a router for another base"):
        router.load(tmp_path / "r", random_model("qwen3"))
    (tmp_path / "r").write_bytes(b"x")
    with pytest.raises(ModelError, match="no router can be read there"):
        router.load(tmp_path / "r", model)
    few = [("a", [Example(text="x")], [Example(text="y")])]
    with pytest.raises(InputError, match=r"domains.a: 1 training and 1 held-out requests are too few"):
        router.learn(model, few, router.Config())


def test_a_request_goes_to_a_specialist_or_to_the_teacher(file: Path, home: Path, tmp_path: Path) -> None:
    recipe = distillation.load_recipe(file)
    found = distillation.specialists(recipe, "small", home=home)
    asked = [Example(({"role": "user", "content": text},)) for text in ("Add 3 and 4", "KeyError 12 in line 5")]
    certain = dataclasses.replace(found.router, least=0.0, farthest=1e30)
    found = dataclasses.replace(found, router=certain)
    answers = found.answer(asked)
    assert [a.by for a in answers] == [a.nearest for a in answers] and {a.by for a in answers} <= {"task", "debug"}
    assert found.answer(asked[::-1]) == answers[::-1] and found.answer([]) == []
    found = dataclasses.replace(found, router=dataclasses.replace(certain, least=2.0))
    theirs = found.answer(asked)
    assert [a.by for a in theirs] == ["teacher"] * 2 and all(0 <= a.confidence <= 1 for a in theirs)
    at_task = dataclasses.replace(theirs[0], nearest="task", text="7")
    assert found.keep(asked[:1], [at_task], tmp_path) == 1 and found.keep(asked[:1], [at_task], tmp_path) == 0
    assert found.keep(asked, answers, tmp_path) == 0, "specialists answered"
    assert parts(Data(("task-corrections.jsonl",), 0.0), tmp_path, 0)[0] == [dataclasses.replace(asked[0], answer="7")]
    found.close()
    with pytest.raises(InputError, match="'big': no specialists of that name; students of this recipe: small"):
        distillation.specialists(recipe, "big", home=home)


def test_the_teacher_audits_and_its_corrections_are_trained_on(
    file: Path, home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["audit", str(file), "--home", str(home), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [a["domain"] for a in found] == ["task", "debug"] and all(a["n"] > 2 and a["corrected"] == 0 for a in found)
    assert all(0 <= a["first"] <= 1 and a["likelihood"] <= 0 for a in found)
    assert found[0]["own"] >= found[0]["likelihood"] - 3, "greedy answers are likely ones"
    folder = next((home / "students").glob("small-*"))
    page = (folder / "audit.html").read_text(encoding="utf-8")
    assert "Worst answers: debug" in page and not Page(page).outside and "<script" not in page
    (tmp_path / "live.jsonl").write_text('{"prompt": "Add 9 and 9"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"domains.debug.corrections: missing; say where they go"):
        distillation.audit(distillation.load_recipe(file), home=home, correct=3)
    (file.parent / "task-corrections.jsonl").unlink(missing_ok=True)
    only = ["domains.debug.corrections='debug-corrections.jsonl'"]
    recipe = distillation.load_recipe(file, only)
    with pytest.raises(InputError, match=r"students.small is not trained with these data and settings"):
        distillation.audit(recipe, home=home)
    student = distillation.load_recipe(file)
    task = dataclasses.replace(student, domains=student.domains[:1])
    distillation.distill(task, home=home)
    (audited,) = distillation.audit(task, home=home, correct=4, margin=-100.0)
    rows = [json.loads(line) for line in (file.parent / "task-corrections.jsonl").read_text().splitlines()]
    assert len(rows) == audited.corrected <= 4
    train, held = parts(task.domains[0][1], file.parent, 0)
    assert sum(e.answer is not None for e in train) == len(rows) and not any(e.answer for e in held)
    (file.parent / "task-corrections.jsonl").unlink()


def test_corrections_are_added_once(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "1"}, {"prompt": "b", "completion": "2"}, {"prompt": "a", "completion": "3"}]
    assert add(tmp_path / "c.jsonl", rows) == 2 and add(tmp_path / "c.jsonl", rows) == 0
    assert add(tmp_path / "c.jsonl", [{"prompt": ["x"], "completion": "4"}]) == 1
    assert [json.loads(x)["completion"] for x in (tmp_path / "c.jsonl").read_text().splitlines()] == ["3", "2", "4"]
    (tmp_path / "people.jsonl").write_text('{"text": "a row that somebody wrote"}\n', encoding="utf-8")
    assert add(tmp_path / "people.jsonl", rows) == 2, "rows of other kinds are data too"
    (tmp_path / "cut.jsonl").write_text('{"prompt": "a", "compl', encoding="utf-8")
    with pytest.raises(InputError, match=r"cut\.jsonl: line 1 is not JSON"):
        add(tmp_path / "cut.jsonl", rows)
