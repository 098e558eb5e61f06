"""Sixteen users with sixteen adapters in one batch, against what one would use instead. Exit code 1 on a miss.

    python benchmarks/serve_mixed.py [--model dense|dense:16x768|REF] [--rows 16] [--tokens 32] [--rounds 5] [--quick]

The default model is dense: 12 layers of width 512, random weights, the shipped tokenizer, for PEFT cannot mix adapters
on stacked experts (`--model tiny` leaves (a) out and says so). Adapters are random, in PEFT's format. Compared in turns
with ours, in one process, after the outputs:
(a) PEFT's mixed batches: `model.generate(..., adapter_names=[...])`, all adapters loaded beforehand;
(b) the base alone: our engine with the same batch and no adapters, and transformers' `generate` with the same batch;
(c) one request at a time: PEFT's `set_adapter` before each `generate`.
Whoever runs has all threads: the others' OpenMP workers are given back before. Adapters are of values that bfloat16
holds, as training here leaves them; the base's ratio is also printed for others, which take twice the bytes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import PeftModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, machine, say, seconds, table
from benchmarks._serving import adapters, against, answers, generated, load, prompts
from stillhouse import models
from stillhouse.compute.threads import fastest_threads, give_back_workers
from stillhouse.generate import Sampling
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model
from stillhouse.runners import TorchRunner
from stillhouse.serve.engine.adapters import Adapter
from stillhouse.serve.engine.engine import Config, Engine, Request


def peft_model(model: Model, folder: Path, count: int) -> Any:
    """A copy of the base with all adapters loaded, as PEFT has them."""
    fresh = models.load(model.ref)
    wrapped = PeftModel.from_pretrained(fresh.network, str(folder / "0"), adapter_name="0")
    for number in range(1, count):
        wrapped.load_adapter(str(folder / str(number)), adapter_name=str(number))
    return wrapped.eval()


class Trial:
    """One batch, and every way to answer it."""

    def __init__(
        self, model: Model, engine: Engine, made: Sequence[Adapter], whole: Sequence[Adapter], theirs: Any, tokens: int
    ) -> None:
        """`whole`: adapters of float32's values."""
        self.model, self.engine, self.theirs, self.tokens = model, engine, theirs, tokens
        self.plain = models.load(model.ref).network  # the engine packs the weights of its own
        self.batch = prompts(model, len(made))
        self.names = [str(i) for i in range(len(made))]
        self._adapted, self._whole = self._requests(made), self._requests(whole)
        self._plain = [replace(request, adapter=None) for request in self._adapted]

    def _requests(self, made: Sequence[Adapter]) -> list[Request]:
        draw = Sampling(self.tokens)
        return [Request(tuple(p), draw, a.key.user, a) for p, a in zip(self.batch, made, strict=True)]

    def _answered(self, requests: Sequence[Request]) -> list[list[int]]:
        give_back_workers()
        return answers(self.engine, requests)

    def ours(self) -> list[list[int]]:
        return self._answered(self._adapted)

    def ours_whole(self) -> list[list[int]]:
        return self._answered(self._whole)

    def our_base(self) -> list[list[int]]:
        return self._answered(self._plain)

    def their_base(self) -> list[list[int]]:
        self.engine.between(give_back_workers).result()
        return generated(self.plain, self.model, self.batch, self.tokens)

    def mixed(self) -> list[list[int]]:
        self.engine.between(give_back_workers).result()
        return generated(self.theirs, self.model, self.batch, self.tokens, adapter_names=self.names)

    def apart(self) -> list[list[int]]:
        self.engine.between(give_back_workers).result()
        found = []
        for name, prompt in zip(self.names, self.batch, strict=True):
            self.theirs.set_adapter(name)
            found += generated(self.theirs, self.model, [prompt], self.tokens)
        return found


def figures(trial: Trial, rounds: int) -> list[Figure]:
    """Outputs first, then speed."""
    say("comparing outputs")
    reference, ours, rows = trial.apart(), trial.ours(), len(trial.batch)
    same = sum(a == b for a, b in zip(ours, reference, strict=True)) / rows
    found = [Figure("rows with PEFT's tokens (set_adapter)", same, "%", 1.0)]
    same = sum(a == b for a, b in zip(trial.our_base(), trial.their_base(), strict=True)) / rows
    found.append(Figure("rows of the base with generate's tokens", same, "%", 1.0))
    found.append(Figure(f"{rows} users in one batch, tokens/s", rows * trial.tokens / seconds(trial.ours)))
    try:
        mixed = trial.mixed()
    except (ValueError, RuntimeError, NotImplementedError, TypeError) as error:
        say(f"PEFT's mixed batches do not work on this model: {str(error).splitlines()[0]}")
    else:
        same = sum(a == b for a, b in zip(mixed, reference, strict=True)) / rows
        found.append(Figure("rows with PEFT's tokens, its own mixed batch", same, "%"))
        found.append(against("against PEFT's mixed batches", trial.ours, trial.mixed, rounds, 3.0))
    found.append(against("against the base alone, our engine", trial.ours, trial.our_base, 3 * rounds, 0.85))
    found.append(against("the same, adapters of float32's values", trial.ours_whole, trial.our_base, 3 * rounds, None))
    found.append(against("against the base alone, generate", trial.ours, trial.their_base, rounds, 0.85))
    return [*found, against("against one request at a time", trial.ours, trial.apart, max(rounds // 2, 1), 5.0)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dense", help="dense, or any model reference")
    for name, value in (("rows", 16), ("tokens", 32), ("rounds", 5), ("rank", 16)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--quick", action="store_true", help="8 tokens, one round: does it run?")
    args = parser.parse_args()
    if args.quick:
        args.tokens, args.rounds = 8, 1
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        model = load(args.model, Path(folder))
        say(f"{args.model}: {sum(p.numel() for p in model.network.parameters()) / 1e6:.0f}M parameters")
        made = adapters(model, args.rows, args.rank, Path(folder))
        theirs = peft_model(model, Path(folder), args.rows)
        whole = adapters(model, args.rows, args.rank, version=2, half=False)
        bank = AdapterBank(model.network, 2 * args.rows, LoraConfig(rank=args.rank, alpha=2.0 * args.rank))
        engine = Engine(TorchRunner(model, bank, packed_bytes=Config().packed_bytes), Config(rows=args.rows)).start()
        with fastest_threads(model):  # those of `generate` and PEFT; the engine chooses its own
            found = figures(Trial(model, engine, made, whole, theirs, args.tokens), args.rounds)
        engine.close()
    return table(found)


if __name__ == "__main__":
    sys.exit(main())
