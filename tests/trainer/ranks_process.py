"""One process of several, as `torchrun` starts them: trains a student on signals, killed once where asked.

In: a folder with signals, a student and a recipe, and torchrun's environment. Out: the losses and the weights in a
safetensors file, and what the recipe makes, by the first process.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from stillhouse import distillation, models
from stillhouse.capture import prompts
from stillhouse.feeds.same_tokens import SameTokens
from stillhouse.lora import LoraConfig
from stillhouse.train.full import Config, train

SMALL = Config(batch_tokens=160, checkpoint_every=2, learning_rate=3e-3, mixed="off", epochs=2.0, validate_every=2)
CONFIGS = {"all": replace(SMALL, recompute=True), "lora": replace(SMALL, lora=LoraConfig(4, 8.0))}


class Killed(Exception):
    """Stands for the end of the processes."""


def run(folder: Path, name: str, work: Path | None, stop: int = 0) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses, and the adapter or the weights; with `stop`, killed after as many steps."""
    student = models.load(str(folder / "student"), device="cpu")
    captured = prompts.load(folder / "signals")
    feed = SameTokens(captured.read(), student.vocabulary, student.context)
    left = [stop or 10**9]

    def on_step(n: int, note: str) -> None:
        left[0] -= n if note != "resumed" else 0
        if left[0] <= 0:
            raise Killed

    found = train(student, feed, CONFIGS[name], work, on_step, held_out=feed)
    weights = found.bank.export(0) if found.bank else dict(student.network.named_parameters())
    return list(found.losses), {k: v.detach().clone().contiguous() for k, v in weights.items()}


def main(folder: Path) -> None:
    """Everything once whole, and once killed after three steps and gone on with; and a recipe."""
    found: dict[str, torch.Tensor] = {}
    losses: dict[str, list[float]] = {}
    for name in CONFIGS:
        work = folder / f"work-{name}"
        work.mkdir(exist_ok=True)
        losses[name], weights = run(folder, name, None)
        try:
            run(folder, name, work, stop=3)
        except Killed:
            losses[f"resumed {name}"], again = run(folder, name, work)
        found |= {f"{name}/{k}": v for k, v in weights.items()} | {f"resumed {name}/{k}": v for k, v in again.items()}
    distillation.distill(distillation.load_recipe(folder / "recipe.toml"), home=folder / "home")
    if os.environ["RANK"] == "0":
        save_file(found, folder / "found.safetensors", {"losses": json.dumps(losses)})
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
