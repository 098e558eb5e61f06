"""Two processes with the weights shared out do what one does, and a checkpoint fits either."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from stillhouse import distillation
from stillhouse.capture import prompts
from stillhouse.models import Model
from stillhouse.text.corpus import anchors
from stillhouse.trainer.ranks import Ranks
from tests import architectures, tokenizers
from tests.trainer import ranks_process as ranks

Make = Callable[..., Model]
ROOT = Path(__file__).parent.parent.parent
RECIPE = """
samples = 1
answers = 1
data = {{ train = ["stdlib:8"], held_out = 0.3 }}
capture = {{ max_new_tokens = 3 }}
[teacher]
model = "{teacher}"
device = "cpu"
[students.half]
layers = [1]
train = {{ steps = 2, batch_tokens = 160, mixed = "off" }}
[students.adapter]
train = {{ lora = {{ rank = 2 }}, steps = 2, batch_tokens = 160, mixed = "off" }}
"""


def two_processes(folder: Path) -> None:
    """As `torchrun --nproc-per-node 2` starts them."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, ranks.__file__, str(folder)],
            env=os.environ | shared | {"RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE, text=True,
        )
        for r in range(2)
    ]  # fmt: skip
    for process in started:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors


@pytest.mark.slow
def test_two_processes_are_one(random_model: Make, tmp_path: Path) -> None:
    data = [prompts.Example(answer=text[:70]) for text in anchors(6)]
    prompts.capture(random_model("llama"), data, prompts.Config(), tmp_path / "signals")
    tokenizers.save(tmp_path / "student", architectures.qwen3(tokenizers.VOCABULARY, seed=7))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(teacher=random_model("llama").path), encoding="utf-8")
    two_processes(tmp_path)
    found = load_file(tmp_path / "found.safetensors")
    with safe_open(tmp_path / "found.safetensors", framework="pt") as handle:
        losses = json.loads(handle.metadata()["losses"])
    for name in ranks.CONFIGS:
        by_itself, weights = ranks.run(tmp_path, name, None)
        torch.testing.assert_close(losses[name], by_itself, rtol=1e-4, atol=1e-5)
        assert losses[f"resumed {name}"] == losses[name], "exactly, as in one process"
        for key, value in weights.items():
            torch.testing.assert_close(found[f"{name}/{key}"], value, rtol=1e-3, atol=2e-4)
            assert torch.equal(found[f"resumed {name}/{key}"], found[f"{name}/{key}"])
        gone_on, _ = ranks.run(tmp_path, name, tmp_path / f"work-{name}")
        assert gone_on == losses[name], "one process reads what two have written"
    again = distillation.distill(distillation.load_recipe(recipe), home=tmp_path / "home")
    alone = distillation.distill(distillation.load_recipe(recipe), home=tmp_path / "alone")
    assert [d.steps for d in again] == [d.steps for d in alone] == [2, 2]
    for two, one in zip(again, alone, strict=True):
        assert two.folder.is_relative_to(tmp_path / "home") and abs(two.after.kl - one.after.kl) < 1e-3


def test_a_micro_batch_is_cut_among_processes_whole() -> None:
    parts = [Ranks(r, 3).part([5, 6, 7, 8]) for r in range(3)]
    assert sorted(i for part in parts for i in part) == [5, 6, 7, 8] and Ranks().part([1, 2]) == [1, 2]
    assert [Ranks(r, 3).part([4]) for r in range(3)] == [[4], [], []] and Ranks(0, 3).first
