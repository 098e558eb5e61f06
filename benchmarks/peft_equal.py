"""Our adapter in `peft`, and peft's in ours: largest logit difference per architecture. Exit code 1 on a miss.

    python benchmarks/peft_equal.py [--limit 1e-4]

Small random-weight models of the real transformers classes; adapters are trained for a few steps so that every
target's B is far from zero. `ours -> peft` writes a slot of an AdapterBank as a folder and loads it with
`PeftModel.from_pretrained`; `peft -> ours` trains with peft, saves with `save_pretrained` and loads into a bank of a
larger rank. `moved` is how far the adapter moves the logits of the base: the differences are to be read against it.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from stillhouse.export import peft as files
from stillhouse.lora import AdapterBank, LoraConfig
from tests.architectures import ALL, MORE_EXPERTS

MODELS = ALL | MORE_EXPERTS
RANK, STEPS, RATE = 4, 3, 0.02


def tokens(network: PreTrainedModel) -> Tensor:
    return torch.randint(0, network.config.vocab_size, (4, 33), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(network: nn.Module, ids_BT: Tensor) -> Tensor:
    out: Tensor = network(input_ids=ids_BT).logits
    return out


def train(network: nn.Module, parameters: list[nn.Parameter], ids_BT: Tensor) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=RATE)
    for _ in range(STEPS):
        network(input_ids=ids_BT, labels=ids_BT).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def ours_in_peft(name: str, folder: Path, targets: Any = "all") -> tuple[float, float]:
    """(largest difference, how far the adapter moves the base)."""
    network = MODELS[name]()
    ids_BT = tokens(network)
    base = logits(network, ids_BT)
    bank = AdapterBank(network, 3, LoraConfig(rank=RANK, alpha=2.0 * RANK, targets=targets))
    bank.reset(1, seed=7)
    with bank.rows([1] * len(ids_BT)):
        train(network, bank.parameters(), ids_BT)
        mine = logits(network, ids_BT)
    files.write(folder, bank.export(1), bank.adapter_config(name))
    theirs = logits(PeftModel.from_pretrained(MODELS[name](), str(folder)), ids_BT)
    return float((mine - theirs).abs().max()), float((mine - base).abs().max())


def peft_in_ours(name: str, folder: Path) -> tuple[float, float]:
    """The same for an adapter trained by peft on the modules and parameters our bank would choose."""
    network = MODELS[name]()
    ids_BT = tokens(network)
    base = logits(network, ids_BT)
    bank = AdapterBank(network, 1, LoraConfig(rank=RANK))
    chosen = bank.adapter_config(name)
    bank.detach()
    kinds = {k: chosen[k] for k in ("target_modules", "target_parameters")}
    settings = PeftConfig(r=RANK, lora_alpha=3 * RANK, use_rslora=True, task_type="CAUSAL_LM", **kinds)
    adapted = get_peft_model(network, settings)
    train(adapted, [p for p in adapted.parameters() if p.requires_grad], ids_BT)
    theirs = logits(adapted, ids_BT)
    adapted.save_pretrained(str(folder))
    fresh = MODELS[name]()
    bank = AdapterBank(fresh, 2, LoraConfig(rank=2 * RANK))
    bank.load(1, *files.read(folder))
    with bank.rows([1] * len(ids_BT)):
        mine = logits(fresh, ids_BT)
    return float((mine - theirs).abs().max()), float((theirs - base).abs().max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=1e-4)
    limit = parser.parse_args().limit
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, limit {limit:g}")
    print(f"{'architecture':<28}{'ours -> peft':>14}{'moved':>9}{'peft -> ours':>14}{'moved':>9}")
    worst = 0.0
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            there, moved = ours_in_peft(name, Path(folder, "ours"))
            back, pushed = peft_in_ours(name, Path(folder, "theirs"))
        worst = max(worst, there, back)
        print(f"{name:<28}{there:>14.1e}{moved:>9.2f}{back:>14.1e}{pushed:>9.2f}")
    print("equal" if worst <= limit else f"NOT equal: {worst:.1e} > {limit:g}")
    return int(not worst <= limit)


if __name__ == "__main__":
    sys.exit(main())
