"""What does capturing cost beside the teacher's own forward? Tokens per second, the same tokens, taken in turns.

    python benchmarks/distill_capture.py [--model REF] [--rounds N] [--layers N] [--quick]

Bare: the model reads the batch and gives its logits, nothing more. Capture: the same batch through `capture.prompts`'
own path, default settings: weights packed for the CPU, hidden states, the head at target positions, exact entries,
tail, draws, columns, and the Parquet bytes. Two data sets: running text, where every token is a target, and prompts
with answers of the same length, where half of them are. In CPU seconds of one thread. The captured distribution is
compared with the bare logits first. Besides the model: one of random weights, the width and vocabulary of
Qwen2.5-0.5B and 4 of its 24 layers, which is harder: the fewer the layers, the more of the forward is the head, and
the more weighs what follows it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._distill import cpu_seconds, examples, loaded, qwen, signals, with_network
from benchmarks._machine import Figure, say, table
from stillhouse import models
from stillhouse.capture.prompts import Config
from stillhouse.compute.packed import packing
from stillhouse.generate import batches, pad_right
from stillhouse.models import Model
from stillhouse.teachers.examples import TokenizedExample


@torch.inference_mode()
def bare(model: Model, spoken: Sequence[TokenizedExample], config: Config) -> torch.Tensor:
    """The teacher's forward over all batches; the logits of the last one."""
    logits_BTV = torch.empty(0)
    for rows in batches([len(s.x_ids) for s in spoken], config.batch_tokens):
        ids_BT, mask_BT = pad_right([list(spoken[i].x_ids) for i in rows], model)
        logits_BTV = model.network(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    return logits_BTV


def stored(model: Model, spoken: Sequence[TokenizedExample], config: Config) -> bytes:
    """The shard of these; packing the weights is part of it, as it is of every shard's."""
    with packing(model.network, once=model.once):
        return signals(model, spoken, config).to_bytes()


def apart(model: Model, spoken: TokenizedExample, config: Config) -> float:
    """Largest difference between a stored log-probability of a first choice and the bare logits'."""
    logprobs_TV = bare(model, [spoken], config)[0].float().log_softmax(-1)
    found = signals(model, [spoken], config).targets.sparse()
    at_P = torch.arange(len(spoken.teacher_prompt) - 1, len(spoken.x_ids) - 1)
    return float((logprobs_TV[at_P].gather(-1, found.ids_PK) - found.logprobs_PK)[:, 0].abs().max())


def figures(model: Model, name: str, n: int, rounds: int) -> list[Figure]:
    found = []
    for what, prompt, answer in (("text", 1, 127), ("prompts and answers", 64, 64)):
        config, spoken = Config(batch_tokens=512 if n < 16 else 4096), examples(model, n, prompt, answer)
        say(f"{name}: {what}")
        found.append(
            Figure(f"{name}, {what}: captured against bare logits", apart(model, spoken[0], config), "", 1e-3, False)
        )
        capture = partial(stored, model, spoken, config)
        forward = partial(bare, model, spoken, config)
        took = [(cpu_seconds(forward), cpu_seconds(capture)) for _ in range(rounds + 1)][1:]  # the first one warms up
        tokens = sum(len(s.x_ids) for s in spoken)
        note = (
            f"{tokens} tokens, {sum(len(s.answer) for s in spoken)} targets, bare {tokens / took[-1][0]:.0f} tokens/s"
        )
        ratio = statistics.median(a / b for a, b in took)
        found.append(Figure(f"{name}, {what}: speed, of the bare forward's", ratio, "x", 0.9, note=note))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=4, help="of the model with 152k tokens; 24 is Qwen2.5-0.5B")
    parser.add_argument("--quick", action="store_true", help="few texts, one round")
    args = parser.parse_args()
    model = loaded(args.model)
    rounds = 1 if args.quick else args.rounds
    made = figures(model, args.model, 8 if args.quick else 64, rounds)
    wide = with_network(model, qwen(layers=args.layers), "qwen2.5-0.5b")
    return table([*made, *figures(wide, f"152k tokens, {args.layers} layers", 2 if args.quick else 12, rounds)])


if __name__ == "__main__":
    sys.exit(main())
