"""Training tokens per second: our offline signals against TRL's GKD with a live teacher, and DistillKit's offline path.

    python benchmarks/distill_speed.py [--quick] [--rounds N]

The same student, LoRA, optimiser, batches and targets (answers are half of the tokens) on both sides, in float32, one
thread, CPU seconds per step, in turns; the first step of every run is not counted. Students: the model that ships, and
one of random weights and the shape of Qwen2.5-0.5B. The teacher is as large as the student, which is the best case for
a live one. Checked first: GKD's loss is our dense twin's on the same batch, and DistillKit's is ours without draws.

Other tools are looked for in this environment and in build/peers; what is missing is said and left out:
    .venv/bin/python -m venv build/peers
    ls -d "$PWD"/.venv/lib/python3*/site-packages > "$(ls -d build/peers/lib/python3*/site-packages)/ours.pth"
    build/peers/bin/pip install -c constraints.txt trl
    git clone https://github.com/arcee-ai/DistillKit build/peers/DistillKit
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._distill import examples, loaded, peer, qwen, signals, with_network
from benchmarks._machine import Figure, say, table
from stillhouse.capture.prompts import Config
from stillhouse.feeds.same_tokens import SameTokens
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.losses import dense_forward_kl, sparse_forward_kl
from stillhouse.models import Model
from stillhouse.train import full

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
LORA = LoraConfig(rank=16, alpha=32.0)
HOW = (__doc__ or "").split("left out:\n")[-1].rstrip()


@dataclass(frozen=True)
class Task:
    """A student, its signals, and the batches of every step: `rows` examples of the feed each."""

    name: str
    model: Model
    feed: SameTokens
    rows: int
    steps: int

    def batches(self) -> list[list[int]]:
        return [[(s * self.rows + i) % len(self.feed.lengths) for i in range(self.rows)] for s in range(self.steps)]

    def tensors(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """A batch as TRL's collator makes it: prompts are not learned."""
        data = self.feed.batch(numbers, 0, self.model.device)
        labels_BT = torch.full_like(data.ids_BT, -100)
        row_P, at_P = data.where()
        labels_BT[row_P, at_P] = data.ids_BT[row_P, at_P]
        return {"input_ids": data.ids_BT, "attention_mask": data.mask_BT, "labels": labels_BT}

    @property
    def tokens(self) -> int:
        return sum(self.feed.lengths[i] for i in self.batches()[0])


class Clock:
    """CPU seconds between ticks."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def tick(self, *_: object, **__: object) -> None:
        self.at.append(time.process_time())

    def steps(self) -> list[float]:
        """All but the first."""
        return [b - a for a, b in zip(self.at, self.at[1:], strict=False)]


def ours(task: Task) -> list[float]:
    """CPU seconds of every step but the first."""
    clock = Clock()
    longest = max(task.feed.lengths)
    config = full.Config(lora=LORA, steps=task.steps, epochs=task.steps, batch_tokens=task.rows * longest, mixed="off")
    trained = full.train(task.model, task.feed, config, on_step=clock.tick)
    assert trained.bank is not None, "LoRA was asked for"
    trained.bank.detach()
    return clock.steps()


def peft_model(task: Task) -> Any:
    """A copy of the student with the same LoRA on the same modules, by peft."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    bank = AdapterBank(task.model.network, 1, LORA)
    about = bank.adapter_config(task.name)
    bank.detach()
    kinds = {k: about[k] for k in ("target_modules", "target_parameters") if about.get(k)}
    chosen = PeftConfig(r=LORA.rank, lora_alpha=LORA.alpha, task_type="CAUSAL_LM", **kinds)
    return get_peft_model(copy.deepcopy(task.model.network), chosen)


def settings(kind: Any, task: Task, folder: str, **more: Any) -> Any:
    """A transformers trainer's arguments with nothing on that ours has not."""
    return kind(
        output_dir=folder, max_steps=task.steps, per_device_train_batch_size=task.rows, report_to=[],
        save_strategy="no", logging_strategy="no", gradient_checkpointing=False, bf16=False, fp16=False, use_cpu=True,
        disable_tqdm=True, learning_rate=2e-3, lr_scheduler_type="cosine", max_grad_norm=1.0, max_length=None, **more,
    )  # fmt: skip


def timed(trainer: Any) -> list[float]:
    """CPU seconds of every step but the first."""
    from transformers import TrainerCallback

    clock = Clock()
    trainer.add_callback(type("Ticks", (TrainerCallback,), {"on_step_end": clock.tick})())
    trainer.train()
    return clock.steps()


def rows_of(task: Task) -> Any:
    """A data set whose rows are numbers of examples."""
    import datasets

    return datasets.Dataset.from_dict({"number": list(range(len(task.feed.lengths)))})


def gkd(task: Task, adapted: Any) -> list[float]:
    """The same by TRL's GKD: off-policy, forward KL, with the model itself as the live teacher."""
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    with tempfile.TemporaryDirectory() as folder:
        args = settings(GKDConfig, task, folder, lmbda=0.0, beta=0.0, temperature=1.0)
        trainer = GKDTrainer(
            model=adapted, teacher_model=task.model.network, args=args, train_dataset=rows_of(task),
            data_collator=lambda rows: task.tensors([r["number"] for r in rows]),
            processing_class=task.model.tokenizer,
        )  # fmt: skip
        return timed(trainer)


def kit(task: Task, adapted: Any) -> list[float]:
    """The same by DistillKit's trainer on the exact entries of our signals, unpacked already."""
    from distillkit.configuration import LossFunctionConfig
    from distillkit.signals import OfflineSignalSource
    from distillkit.trainer import DistillationTrainer
    from trl import SFTConfig

    wanted = LossFunctionConfig(function="kl", weight=1.0, temperature=1.0, missing_probability_handling="zero")
    about = SimpleNamespace(loss_functions=[wanted], dataset=SimpleNamespace(eos_label_token_ids=None))
    unpacked = SimpleNamespace(decompress_to_sparse=lambda row: (row["token_ids"], row["top_values"]))
    with tempfile.TemporaryDirectory() as folder:
        args = settings(SFTConfig, task, folder, remove_unused_columns=False,
                        dataset_kwargs={"skip_prepare_dataset": True})  # fmt: skip
        trainer = DistillationTrainer(
            adapted, about, OfflineSignalSource(unpacked, task.model.vocabulary), task.model.vocabulary,
            args=args, train_dataset=rows_of(task), processing_class=task.model.tokenizer,
            data_collator=lambda rows: kit_tensors(task, [r["number"] for r in rows]),
        )  # fmt: skip
        return timed(trainer)


def kit_tensors(task: Task, numbers: Sequence[int]) -> dict[str, Tensor]:
    """A batch as DistillKit's collator makes it: signals at every position, labels where they are learned."""
    data, tensors = task.feed.batch(numbers, 0, task.model.device), task.tensors(numbers)
    row_P, at_P = data.where()
    shape = (*data.ids_BT.shape, data.targets.ids_PK.shape[-1])
    ids_BTK, logprobs_BTK = torch.zeros(shape, dtype=torch.long), torch.full(shape, -100.0)
    ids_BTK[row_P, at_P - 1] = data.targets.ids_PK
    logprobs_BTK[row_P, at_P - 1] = data.targets.logprobs_PK.clamp(min=-100.0)
    labels_BT = torch.full_like(data.ids_BT, -100)
    labels_BT[row_P, at_P - 1] = data.ids_BT[row_P, at_P]
    return tensors | {"labels": labels_BT, "token_ids": ids_BTK, "top_values": logprobs_BTK}


@torch.inference_mode()
def gkd_apart(task: Task) -> float:
    """Relative difference of GKD's loss from our dense twin's, another example's logits as the student's."""
    from trl.experimental.gkd import GKDTrainer

    batch = task.tensors([0, 1])
    teacher_BTV = task.model.network(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits
    student_BTV, learned_BT = teacher_BTV.flip(0), batch["labels"][:, 1:] != -100
    theirs = GKDTrainer.generalized_jsd_loss(student_BTV[:, :-1], teacher_BTV[:, :-1], batch["labels"][:, 1:], beta=0)
    student_PV, teacher_PV = student_BTV[:, :-1][learned_BT], teacher_BTV[:, :-1][learned_BT]
    return abs(float(dense_forward_kl(student_PV, teacher_PV.log_softmax(-1)).mean() / theirs) - 1)


@torch.inference_mode()
def kit_apart(task: Task) -> float:
    """Relative difference of DistillKit's sparse loss from ours with a renormalised teacher, same signals."""
    from distillkit.lossfuncs.kl import sparse_kl_div

    batch = kit_tensors(task, [0, 1])
    logits_BTV = task.model.network(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits.flip(0)
    mask_BT = batch["labels"] >= 0
    theirs = sparse_kl_div(logits_BTV, batch["token_ids"], batch["top_values"], mask_BT)
    targets = task.feed.batch([0, 1], 0, task.model.device).targets
    return abs(float(sparse_forward_kl(logits_BTV[mask_BT], targets, "renormalise").sum() / theirs) - 1)


def figures(task: Task, rounds: int, found: Mapping[str, bool]) -> list[Figure]:
    """Ours alone, then against every tool that is there, in turns."""
    others = {"TRL GKD, live teacher": (gkd, gkd_apart, 2.0, found["trl"]),
              "DistillKit, same signals": (kit, kit_apart, 1.2, found["distillkit"])}  # fmt: skip
    adapted = peft_model(task) if any(found.values()) else None
    alone = statistics.median(second for _ in range(rounds) for second in ours(task))
    made = [Figure(f"{task.name}: our tokens a CPU second", task.tokens / alone)]
    for name, (run, apart, target, there) in others.items():
        if not there:
            continue
        made.append(Figure(f"{task.name}: loss against {name}", apart(task), "", 1e-3, False))
        mine, theirs = [], []
        for turn in range(rounds):
            say(f"{task.name}: {name}, round {turn + 1} of {rounds}")
            mine += ours(task)
            theirs += run(task, adapted)
        took = statistics.median(mine), statistics.median(theirs)
        note = f"{task.tokens / took[0]:.0f} tokens/s, theirs {task.tokens / took[1]:.0f}"
        made.append(Figure(f"{task.name}: speed, against {name}", took[1] / took[0], "x", target, note=note))
    return made


def task(model: Model, name: str, rows: int, width: int, steps: int) -> Task:
    spoken = examples(model, 4 * rows, width // 2, width // 2)
    return Task(
        name, model, SameTokens([signals(model, spoken, Config())], model.vocabulary, model.context), rows, steps
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="of the Qwen; the small model takes five times as many")
    parser.add_argument("--only", choices=("tiny", "qwen"))
    parser.add_argument("--quick", action="store_true", help="a Qwen of four layers")
    args = parser.parse_args()
    model = loaded("tiny")
    found = {name: peer(name, HOW) is not None for name in ("trl", "distillkit")}
    made = []
    if args.only != "qwen":
        made += figures(task(model, "the model that ships", 8, 96, 5 * args.steps), args.rounds, found)
    if args.only != "tiny":
        wide = with_network(model, qwen(layers=4 if args.quick else 24), "qwen")
        shape = "Qwen2.5-0.5B's shape" + (", 4 of 24 layers" if args.quick else "")
        made += figures(task(wide, shape, 2, 64, args.steps), args.rounds, found)
    return table(made)


if __name__ == "__main__":
    sys.exit(main())
