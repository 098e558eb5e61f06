"""Time to the first token with a long memory: held in weights, against carried in the context. Exit code 1 on a miss.

    python benchmarks/serve_first_token.py [--model tiny|dense|REF] [--memory 1500] [--rounds 15] [--rank 16] [--quick]

The same question is asked in turns: with a user's adapter and no memory in the prompt, and without an adapter and with
a memory of that many tokens in the prompt. Nothing is kept from one request to the next. Outputs first: both have to
give the tokens of transformers' `generate` on the same prompt, with the same adapter.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, in_turns, machine, say, table
from benchmarks._serving import adapters, answers, ask, generated, load
from stillhouse.generate import Sampling
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model
from stillhouse.runners import TorchRunner
from stillhouse.serve.engine.adapters import Adapter
from stillhouse.serve.engine.engine import Config, Engine, Request
from stillhouse.text.prompts import with_memory, without_memory

QUESTION = "What is the name of my dog?"


def memory(model: Model, tokens: int) -> str:
    """Statements until the prompt has this many tokens of memory."""
    lines: list[str] = []
    while len(model.text_ids("\n".join(lines))) < tokens:
        lines.append(f"The neighbour at number {len(lines)} keeps {len(lines) % 7 + 2} hens and a green bicycle.")
    return "\n".join(lines[:-1])


def right(model: Model, engine: Engine, bank: AdapterBank, asked: Request) -> bool:
    """Whether the engine's tokens are those of `generate`."""
    slot = -1
    if asked.adapter is not None:
        slot = bank.slots - 1
        bank.load(slot, asked.adapter.tensors, asked.adapter.config)
    with bank.rows([slot]):
        expected = generated(model.network, model, [list(asked.prompt)], asked.sampling.max_new_tokens)
    return answers(engine, [asked]) == expected


def figures(model: Model, adapter: Adapter, tokens: int, rounds: int, rank: int) -> list[Figure]:
    """Outputs, then first tokens in turns."""
    bank = AdapterBank(model.network, 2, LoraConfig(rank=rank, alpha=2.0 * rank))
    engine = Engine(TorchRunner(model, bank, packed_bytes=Config().packed_bytes)).start()
    said = memory(model, tokens)
    short = model.chat_ids(without_memory(QUESTION))
    long = model.chat_ids(with_memory(said, QUESTION))
    draw = Sampling(8)
    adapted, carried = Request(tuple(short), draw, "user", adapter), Request(tuple(long), draw, "user")
    same = sum(right(model, engine, bank, asked) for asked in (adapted, carried)) / 2
    say("first tokens")
    firsts: dict[bool, list[float]] = {True: [], False: []}

    def first(asked: Request) -> None:
        firsts[asked is adapted].append(ask(engine, asked).wait().first)

    first(adapted), first(carried)
    for times in firsts.values():
        times.clear()
    in_turns(lambda: first(adapted), lambda: first(carried), rounds)
    engine.close()
    bank.detach()
    a, b = (statistics.median(firsts[which]) for which in (True, False))
    return [
        Figure("requests with generate's tokens", same, "%", 1.0),
        Figure(f"first token, adapted ({len(short)} tokens)", a, "s"),
        Figure(f"first token, memory in the context ({len(long)} tokens)", b, "s"),
        Figure("how much sooner the adapted one is", b / a, "x", 5.0),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, dense, or any model reference")
    for name, value in (("memory", 1500), ("rounds", 15), ("rank", 16)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        model = load(args.model, Path(folder))
        (adapter,) = adapters(model, 1, args.rank, size=0.05)
        return table(figures(model, adapter, args.memory, 3 if args.quick else args.rounds, args.rank))


if __name__ == "__main__":
    sys.exit(main())
