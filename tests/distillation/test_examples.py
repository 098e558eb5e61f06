"""The recipes that are shown run as they are, on small random-weight models of the classes they name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stillhouse import distillation
from stillhouse.distillation.evaluate import prompt_ids
from stillhouse.models import Model
from stillhouse.teachers.examples import Example, tokenized
from tests import architectures, tokenizers

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZES = {"Qwen/Qwen3-8B": 48, "Qwen/Qwen3-0.6B": 32}
SMALL = ("capture.max_new_tokens=4", "capture.max_tokens=200", "answers=2", "samples=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, with the names of models replaced by folders with small ones of the same class."""
    found = tmp_path_factory.mktemp("examples")
    shutil.copytree(EXAMPLES, found, dirs_exist_ok=True)
    models = {}
    for seed, (name, size) in enumerate(SIZES.items()):
        network = architectures.qwen3(tokenizers.VOCABULARY, seed, hidden_size=size)
        models[name] = tokenizers.save(found / name.rpartition("/")[2], network)
    for file in found.glob("*.toml"):
        text = file.read_text(encoding="utf-8").replace("stdlib:400", "stdlib:6")
        for name, place in models.items():
            text = text.replace(f'"{name}"', f'"{place}"')
        file.write_text(text, encoding="utf-8")
    lines = (found / "distill_tiny.jsonl").read_text(encoding="utf-8").splitlines()[:12]
    (found / "distill_tiny.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return found


def test_a_large_qwen3_into_a_small_one_with_lora(folder: Path, tmp_path: Path) -> None:
    recipe = distillation.load_recipe(folder / "qwen3_lora.toml", [*SMALL, "teacher.device='cpu'"])
    (done,) = distillation.distill(recipe, home=tmp_path)
    assert done.same_tokens and done.parameters < done.teacher_parameters and done.steps > 0
    about = json.loads((done.folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert about["r"] == 32 and about["lora_alpha"] == 64.0


def test_six_domains_become_six_specialists_and_a_router(folder: Path, tmp_path: Path) -> None:
    small = [*SMALL, "students.base.train.epochs=1.0", "teacher.device='cpu'"]
    recipe = distillation.load_recipe(folder / "six_domains.toml", small)
    done = distillation.distill(recipe, home=tmp_path)
    names = ["thinking", "task", "action", "reflection", "debug", "memory"]
    assert [d.domain for d in done] == names
    found = json.loads((done[0].folder.parent / "report.json").read_text(encoding="utf-8"))
    assert len(found["router"]["confusion"]) == 6 and len(found["router"]["confusion"][0]) == 7
    (asked,) = {p.name for p in folder.glob("domains/debug*.jsonl")}
    assert asked == "debug.jsonl"


@pytest.mark.parametrize("asked", [Example(text="The dog"), Example(messages=({"role": "user", "content": "Who?"},))])
def test_a_student_is_measured_on_prompts_as_it_is_trained_on_them(
    random_model: Callable[..., Model], asked: Example
) -> None:
    """With the BOS that its tokenizer puts, once."""
    model = random_model("llama", tokenizers.LLAMA, bos=True)
    trained = tokenized(model, replace(asked, answer="Rex"), 0, "").student_prompt
    assert tuple(prompt_ids(model, asked)) == trained
    assert trained.count(model.tokenizer.bos_token_id) == 1
