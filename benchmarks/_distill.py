"""What the benchmarks of distillation share: shapes, texts, signals kept in memory, CPU seconds, other tools.

In: a model. Out: examples with a prompt and an answer in its tokens, a shard of its signals, times that do not count
what else runs on the machine. It does not know what is compared.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from benchmarks._machine import machine
from stillhouse import models
from stillhouse.capture.prompts import Config
from stillhouse.generate import batches
from stillhouse.models import Model
from stillhouse.signals import Kind, Shard
from stillhouse.signals.columns import concatenate
from stillhouse.teachers.examples import TokenizedExample
from stillhouse.teachers.scoring import Mixture, targets
from stillhouse.text import corpus

PEERS = Path(__file__).parents[1] / "build" / "peers"  # other tools, never part of this package
WIDE = 151_936  # Qwen's vocabulary


def loaded(ref: str) -> Model:
    """The machine is printed, the model is loaded; one thread, whatever would be faster."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    print(machine())
    return models.load(ref, "cpu")


def qwen(layers: int = 24, hidden: int = 896, vocabulary: int = WIDE, seed: int = 0) -> PreTrainedModel:
    """A random-weight network of the shape of Qwen2.5-0.5B, or of fewer layers and less width."""
    torch.manual_seed(seed)
    heads = max(1, hidden // 64)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary, hidden_size=hidden, intermediate_size=hidden * 4864 // 896, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=2 if heads % 2 == 0 else 1, tie_word_embeddings=True,
            max_position_embeddings=32768,
        )
    )  # fmt: skip


def with_network(model: Model, network: PreTrainedModel, name: str) -> Model:
    """`network` with the tokenizer of `model`; its head may be wider than that tokenizer."""
    network.eval().requires_grad_(False)
    return replace(model, ref=name, network=network, fingerprint=name)


def examples(model: Model, n: int, prompt: int, answer: int, seed: int = 0) -> list[TokenizedExample]:
    """Running English cut into a prompt and an answer of that many tokens each."""
    found = []
    for text in corpus.anchors(16 * n, seed):
        ids = tuple(model.text_ids(text))[: prompt + answer]
        if len(ids) == prompt + answer:
            found.append(TokenizedExample(ids[:prompt], ids[:prompt], ids[prompt:]))
    return found[:n]


def signals(model: Model, spoken: Sequence[TokenizedExample], config: Config) -> Shard:
    """What `capture` stores for these, sorted by length."""
    generator, alone = torch.Generator().manual_seed(config.seed), Mixture((model,), (1.0,))
    order, found = [], []
    for rows in batches([len(s.x_ids) for s in spoken], config.batch_tokens):
        order += [spoken[i] for i in rows]
        found.append(targets(alone, order[-len(rows) :], config, generator)[0])
    kind: Kind = "prompt"
    return Shard(
        (kind,) * len(order),
        (None,) * len(order),
        tuple(b"".join(model.token_bytes[t] for t in s.x_ids) for s in order),
        tuple(np.array(s.x_ids, np.int64) for s in order),
        np.cumsum([0, *(len(s.answer) for s in order)]),
        concatenate(found),
        {"base": model.fingerprint},
    )


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of one call: with one thread its wall time on a machine where nothing else runs."""
    start = time.process_time()
    work()
    return time.process_time() - start


def peer(name: str, how: str) -> ModuleType | None:
    """Another tool, if it is there; otherwise a line on how to get it. What it stands for is then not measured."""
    sys.path += [
        str(p) for p in (PEERS / "DistillKit", *PEERS.glob("lib/python3*/site-packages")) if str(p) not in sys.path
    ]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: not compared with ({error}); to have it:\n{how}")
        return None
