"""Sixteen users with sixteen adapters in one batch, against what one would use instead. Exit code 1 on a miss.

    python benchmarks/serve.py [--model dense|REF] [--rows 16] [--tokens 32] [--rounds 5] [--rank 16] [--mixes 40]

The default model is dense: 12 layers of width 512, random weights, the shipped tokenizer, for PEFT cannot mix adapters
on stacked experts (`--model tiny` leaves (a) out and says so). Adapters are random, in PEFT's format. What is compared,
each in turns with ours in one process:
(a) PEFT's mixed batches: `model.generate(..., adapter_names=[...])`, all adapters loaded beforehand;
(b) the base alone: our engine with the same batch and no adapters, and transformers' `generate` with the same batch;
(c) one request at a time: PEFT's `set_adapter` before each `generate`.
Outputs are compared first: ours with PEFT's, token by token. Then determinism: random mixes of requests against each
request alone, with `--deterministic` and without.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, in_turns, machine, say, seconds, table
from stillhouse import chat, models
from stillhouse.export import peft
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model
from stillhouse.serve.adapters import Adapter, Key
from stillhouse.serve.engine import Config, Engine, Event, Failed, Piece, Request, Sampling


def adapters(model: Model, count: int, rank: int, folder: Path) -> list[Adapter]:
    """Random adapters small enough to leave the base's language alone; also as folders for PEFT."""
    bank = AdapterBank(model.network, 1, LoraConfig(rank=rank, alpha=2.0 * rank))
    about = bank.adapter_config(str(model.path))
    made = []
    for number in range(count):
        bank.reset(0, seed=number)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for b in bank.parameters()[1::2]:
                b.copy_(torch.randn(b.shape, generator=generator) * 0.02)
        tensors = bank.export(0)
        peft.write(folder / str(number), tensors, about)
        made.append(Adapter(Key(f"user{number}", 1), tensors, about))
    bank.detach()
    return made


def prompts(model: Model, count: int) -> list[list[int]]:
    questions = [f"What is the name of the dog that lives at number {i} of our street?" for i in range(count)]
    return [model.chat_ids(chat.without_memory(question)) for question in questions]


def answers(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    """All requests at once, through the engine."""
    told: list[list[int]] = [[] for _ in requests]
    left = threading.Semaphore(0)

    def sink(place: int) -> Callable[[Event], None]:
        def take(event: Event) -> None:
            if isinstance(event, Piece):
                told[place].append(event.choice.token)
                return
            assert not isinstance(event, Failed), event
            left.release()

        return take

    for place, request in enumerate(requests):
        engine.submit(request, sink(place))
    for _ in requests:
        left.acquire()
    return told


def generated(network: Any, model: Model, batch: Sequence[list[int]], tokens: int, **more: Any) -> list[list[int]]:
    """transformers' own `generate`, greedy, never ending early."""
    width, pad = max(map(len, batch)), model.tokenizer.pad_token_id or 0
    ids_BT = torch.tensor([[pad] * (width - len(p)) + p for p in batch], device=model.device)
    mask_BT = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch], device=model.device)
    with torch.inference_mode():
        out_BT = network.generate(
            input_ids=ids_BT, attention_mask=mask_BT, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
            pad_token_id=pad, **more,
        )  # fmt: skip
    rows: list[list[int]] = out_BT[:, width:].tolist()
    return rows


def dense(folder: Path) -> str:
    """A folder with a decoder of the shape that most small models have."""
    shipped = models.locate(models.DEFAULT)
    config = LlamaConfig(
        vocab_size=2048, hidden_size=512, intermediate_size=1408, num_hidden_layers=12, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=2048, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(shipped / name, folder / name)
    return str(folder)


def peft_model(model: Model, folder: Path, count: int) -> Any:
    """A copy of the base with all adapters loaded, as PEFT has them."""
    fresh = models.load(model.ref)
    wrapped = PeftModel.from_pretrained(fresh.network, str(folder / "0"), adapter_name="0")
    for number in range(1, count):
        wrapped.load_adapter(str(folder / str(number)), adapter_name=str(number))
    return wrapped.eval()


def mixes(engine: Engine, requests: Sequence[Request], count: int) -> tuple[float, float]:
    """(share of tokens that differ from the request alone, seconds of all mixes)."""
    alone = [answers(engine, [request])[0] for request in requests]
    chance, differing, total = random.Random(0), 0, 0
    chosen = [chance.sample(range(len(requests)), chance.randint(2, len(requests))) for _ in range(count)]

    def run() -> None:
        nonlocal differing, total
        for mix in chosen:
            for place, found in zip(mix, answers(engine, [requests[i] for i in mix]), strict=True):
                differing += sum(a != b for a, b in zip(found, alone[place], strict=False))
                differing += abs(len(found) - len(alone[place]))
                total += len(alone[place])

    took = seconds(run)
    return differing / max(total, 1), took


def ratio(a: Callable[[], object], b: Callable[[], object], rounds: int) -> tuple[float, float]:
    """How much longer `b` takes than `a`, and the seconds of `a` (medians, in turns)."""
    a(), b()
    took_a, took_b = in_turns(a, b, rounds)
    return statistics.median(took_b) / statistics.median(took_a), statistics.median(took_a)


def speeds(model: Model, engine: Engine, made: list[Adapter], folder: Path, args: argparse.Namespace) -> list[Figure]:
    batch, tokens = prompts(model, args.rows), args.tokens
    draw = Sampling(tokens)
    adapted = [Request(tuple(p), draw, f"user{i}", made[i]) for i, p in enumerate(batch)]
    plain = [Request(tuple(p), draw, f"user{i}") for i, p in enumerate(batch)]
    names = [str(i) for i in range(args.rows)]
    theirs = peft_model(model, folder, args.rows)

    def one_at_a_time() -> list[list[int]]:
        found = []
        for name, prompt in zip(names, batch, strict=True):
            theirs.set_adapter(name)
            found += generated(theirs, model, [prompt], tokens)
        return found

    def ours() -> list[list[int]]:
        return answers(engine, adapted)

    say("comparing outputs")
    reference = one_at_a_time()
    same = sum(a == b for a, b in zip(ours(), reference, strict=True))
    figures = [Figure("rows with PEFT's tokens (set_adapter)", same / args.rows, "%", 1.0)]
    say("one request at a time")
    apart, took = ratio(ours, one_at_a_time, args.rounds)
    rate = args.rows * tokens / took
    figures.append(Figure(f"{args.rows} users in one batch, tokens/s", rate))
    figures.append(Figure("against one request at a time", apart, "x", 5.0))
    say("the base alone")
    base, _ = ratio(ours, lambda: answers(engine, plain), args.rounds)
    theirs_base, _ = ratio(ours, lambda: generated(model.network, model, batch, tokens), args.rounds)
    figures.append(Figure("against the base alone, our engine", base, "x", 0.85))
    figures.append(Figure("against the base alone, transformers' generate", theirs_base, "x", 0.85))
    try:
        mixed = generated(theirs, model, batch, tokens, adapter_names=names)
    except (ValueError, RuntimeError, NotImplementedError, TypeError) as error:
        say(f"PEFT's mixed batches do not work on this model: {str(error).splitlines()[0]}")
        return figures
    say("PEFT's mixed batches")
    equal = sum(a == b for a, b in zip(mixed, reference, strict=True))
    figures.append(Figure("rows with PEFT's tokens, its own mixed batch", equal / args.rows, "%"))
    against, _ = ratio(ours, lambda: generated(theirs, model, batch, tokens, adapter_names=names), args.rounds)
    return [*figures, Figure("against PEFT's mixed batches", against, "x", 3.0)]


def determinism(model: Model, bank: AdapterBank, made: list[Adapter], args: argparse.Namespace) -> list[Figure]:
    say("random mixes")
    asked = [
        Request(tuple(p), Sampling(args.tokens, float(i % 2), seed=i), f"user{i}", made[i])
        for i, p in enumerate(prompts(model, args.rows))
    ]
    figures, took = [], []
    for exact in (True, False):
        engine = Engine(model, bank, Config(deterministic=exact)).start()
        share, spent = mixes(engine, asked, args.mixes)
        engine.close()
        took.append(spent)
        how = "--deterministic" if exact else "without"
        figures.append(Figure(f"tokens that differ in a mix, {how}", share, "%%", 0.0 if exact else None, False))
    figures.append(Figure("what --deterministic costs", took[0] / took[1], "x", note=f"{args.mixes} mixes"))
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dense", help="dense, or any model reference")
    for name, value in (("rows", 16), ("tokens", 32), ("rounds", 5), ("rank", 16), ("mixes", 40)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        model = models.load(dense(Path(folder, "dense")) if args.model == "dense" else args.model)
        model = dataclasses.replace(model, stop_ids=frozenset())  # every answer is as long as asked
        say(f"{model.ref}: {sum(p.numel() for p in model.network.parameters()) / 1e6:.0f}M parameters")
        made = adapters(model, args.rows, args.rank, Path(folder))
        bank = AdapterBank(model.network, args.rows, LoraConfig(rank=args.rank, alpha=2.0 * args.rank))
        engine = Engine(model, bank, Config(rows=args.rows)).start()
        figures = speeds(model, engine, made, Path(folder), args)
        engine.close()
        figures += determinism(model, bank, made, args)
    return table(figures)


if __name__ == "__main__":
    sys.exit(main())
