"""Is our result lm-evaluation-harness's own? The same tasks, the same weights, its `HFLM` with PEFT beside our student.

    python benchmarks/gates_harness.py [--model REF] [--rank 8]

Three task files are written: multiple choice by likelihood, perplexity of running text, greedy answers up to a stop
string. The harness runs them on its own class, which loads the model from its folder and the adapter with `peft`, and
on ours, which holds both in an AdapterBank. The adapter is noise, so that it changes what the base says. Shares and
answers have to be the same for every document, perplexities to a millionth. Needs the extras `harness` and `peft`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _machine import Figure, machine, say, table
from lm_eval import simple_evaluate
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from stillhouse import models
from stillhouse.export import peft
from stillhouse.gating.harness import HarnessModel, prepared
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.runners import TorchRunner
from stillhouse.text import corpus

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Norway": "Oslo", "Japan": "Tokyo", "Egypt": "Cairo",
    "Peru": "Lima", "Kenya": "Nairobi", "Cuba": "Havana", "Iran": "Tehran", "Greece": "Athens", "Poland": "Warsaw",
}  # fmt: skip
FORMS = {
    "choose": 'output_type: multiple_choice\ndoc_to_text: "Question: {{question}}\\nAnswer:"\ndoc_to_choice: choices\n'
    "doc_to_target: gold\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n",
    "read": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
    "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n",
    "say": 'output_type: generate_until\ndoc_to_text: "{{text[:160]}}"\ndoc_to_target: "{{choices[gold]}}"\n'
    'generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 48, do_sample: false}\n'
    "metric_list: [{metric: exact_match}]\n",
}


def task_files(folder: Path) -> list[str]:
    """Every form over the same rows."""
    capitals, passages = list(CAPITALS.values()), corpus.held_out(len(CAPITALS))
    rows = [
        {
            "question": f"What is the capital of {country}?",
            "choices": [capitals[(n - n % 4 + k) % len(capitals)] for k in range(4)],
            "gold": n % 4,
            "text": passages[n],
        }
        for n, country in enumerate(CAPITALS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")}
    for name, form in FORMS.items():
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {json.dumps(source)}\ntest_split: test\n"
        (folder / f"{name}.yaml").write_text(head + form, encoding="utf-8")
    return [str(folder / f"{name}.yaml") for name in FORMS]


def known() -> TaskManager:
    """The harness's task loader, without its thousands of built-in tasks."""
    return TaskManager(include_defaults=False)


def compared(ours: Any, theirs: Any, who: str) -> list[Figure]:
    """Documents and metrics that are not the same."""
    said = [s["filtered_resps"] != t["filtered_resps"] for s, t in _pairs(ours, theirs, "say")]
    length = sum(len(s["filtered_resps"][0]) for s, _ in _pairs(ours, theirs, "say")) / len(said)
    chosen = _pairs(ours, theirs, "choose")
    marked = [any(s[metric] != t[metric] for metric in ("acc", "acc_norm")) for s, t in chosen]
    chances = [(a[0], b[0]) for s, t in chosen for a, b in zip(s["filtered_resps"], t["filtered_resps"], strict=True)]
    left, right = (run["results"]["read"]["word_perplexity,none"] for run in (ours, theirs))
    found = [
        ("answers that differ", sum(said), 0, f"of {len(said)}, {length:.0f} characters each"),
        ("choices marked otherwise", sum(marked), 0, f"of {len(marked)}"),
        ("log-likelihood of a choice, largest difference", max(abs(a - b) for a, b in chances), 1e-4, "nats"),
        ("word perplexity, relative difference", abs(left / right - 1), 1e-6, f"{left:.4f}"),
    ]
    return [Figure(f"{who}: {what}", value, "", most, at_least=False, note=note) for what, value, most, note in found]


def _pairs(ours: Any, theirs: Any, task: str) -> list[tuple[Any, Any]]:
    return list(zip(ours["samples"][task], theirs["samples"][task], strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--rank", type=int, default=8)
    args = parser.parse_args()
    model = models.load(args.model, device="cpu")
    bank = AdapterBank(model.network, 1, LoraConfig(rank=args.rank))
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(0))
    print(machine())
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = task_files(folder)
        adapter = folder / "adapter"
        peft.write(adapter, bank.export(0), bank.adapter_config(str(model.path)))
        for who, slot, given in (("base", -1, None), ("adapter", 0, str(adapter))):
            say(f"{who}: lm-evaluation-harness with its own model")
            dtype = str(model.network.dtype).removeprefix("torch.")
            its = HFLM(pretrained=str(model.path), peft=given, dtype=dtype, device="cpu", batch_size=1)
            theirs = simple_evaluate(its, tasks=list(known().load(paths)["tasks"].values()), bootstrap_iters=0)
            say(f"{who}: with ours, as the gate `tasks` runs it")
            ours = evaluate(
                HarnessModel(TorchRunner(model, bank), slot), prepared(known().load(paths)), bootstrap_iters=0
            )
            figures += compared(ours, theirs, who)
    return table(figures)


if __name__ == "__main__":
    sys.exit(main())
