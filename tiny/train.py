"""Train the model that ships: `python -m tiny.train OUT`. Deterministic given the seed, resumable, one thread.

In: nothing but this folder and Python's standard library (its docstrings). Out: OUT in Hugging Face format
(config, bfloat16 safetensors, tokenizer, chat template, generation config) and OUT/training.json with seeds, steps
and time.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.multiprocessing.spawn import spawn
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from . import tokenizer as T
from .documents import Document, Documents

SEED = 20261121
CYCLES = ((0, 3000, 2e-3, 100), (3000, 4000, 1.4e-3, 60))  # first step, last step, peak learning rate, warm-up steps


def config(tokenizer: PreTrainedTokenizerFast) -> Qwen3MoeConfig:
    return Qwen3MoeConfig(  # type: ignore[call-arg]  # the class takes more than it declares
        vocab_size=T.VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        moe_intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=T.CONTEXT,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        router_aux_loss_coef=0.01,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def collate(documents: list[tuple[list[int], list[float]]], pad: int) -> tuple[torch.Tensor, ...]:
    longest = -(-max(len(ids) for ids, _ in documents) // 64) * 64  # few distinct shapes: oneDNN compiles per shape
    ids_BT = torch.full((len(documents), longest), pad)
    weights_BT = torch.zeros(len(documents), longest)
    for row, (ids, weights) in enumerate(documents):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        weights_BT[row, : len(ids)] = torch.tensor(weights)
    return ids_BT, weights_BT


def padded_experts(self: Any, hidden_NH: torch.Tensor, index_NK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
    """The experts of transformers' MoE classes, with every expert's rows padded to a multiple of 128.

    Same values as the stock loop. The stock loop gives every matrix product a new row count, and on a CPU oneDNN then
    compiles a kernel for each: a third of the time of a step.
    """
    out_NH = torch.zeros_like(hidden_NH)
    for e in range(self.num_experts):
        row, k = torch.where(index_NK == e)
        pad = -len(row) % 128
        x = F.pad(hidden_NH[row], (0, 0, 0, pad))
        gate, up = F.linear(x, self.gate_up_proj[e]).chunk(2, dim=-1)
        y = F.linear(self.act_fn(gate) * up, self.down_proj[e])[: len(row)]
        out_NH = out_NH.index_add(0, row, (y * weight_NK[row, k, None]).to(out_NH.dtype))
    return out_NH


def loss_of(model: Qwen3MoeForCausalLM, ids_BT: torch.Tensor, weights_BT: torch.Tensor, pad: int) -> torch.Tensor:
    """Weighted cross-entropy of the next token plus the router's load-balancing loss."""
    mask_BT = (ids_BT != pad).long()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(input_ids=ids_BT, attention_mask=mask_BT, output_router_logits=True, use_cache=False)
    loss_N = F.cross_entropy(out.logits[:, :-1].float().flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none")
    weights_N = weights_BT[:, 1:].flatten()
    loss: torch.Tensor = (loss_N * weights_N).sum() / weights_N.sum()
    balance: torch.Tensor = out.aux_loss
    return loss + model.config.router_aux_loss_coef * balance


def learning_rate(step: int) -> float:
    """Two cycles of `CYCLES`: linear warm-up, flat, then linear decay to zero over the last 45 % of the cycle."""
    first, last, peak, warmup = next(cycle for cycle in CYCLES if step < cycle[1])
    flat_until = first + int((last - first) * 0.55)
    if step - first < warmup:
        return peak * (step - first + 1) / warmup
    return peak * min(1.0, 1 - (step - flat_until) / (last - flat_until)) + (1e-6 if step >= flat_until else 0.0)


def average_gradients(model: torch.nn.Module, workers: int) -> None:
    """One all-reduce of all gradients; a parameter no worker used gets zeros."""
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    flat = torch.cat([g.flatten() for g in grads])
    if workers > 1:
        torch.distributed.all_reduce(flat)
        flat /= workers
    for p, part in zip(model.parameters(), flat.split([g.numel() for g in grads]), strict=True):
        p.grad = part.view_as(p)


def make_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    decay = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=CYCLES[0][2], betas=(0.9, 0.98))


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3MoeForCausalLM:
    ALL_EXPERTS_FUNCTIONS.register("padded", padded_experts)
    settings = config(tokenizer)
    settings._attn_implementation, settings._experts_implementation = "eager", "padded"
    model = Qwen3MoeForCausalLM(settings)
    model.train()
    return model


@dataclass
class State:
    """Where a run is, kept beside the model."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0


def train(rank: int, args: argparse.Namespace) -> None:
    """One worker: its own documents, the gradients of all. Worker 0 reports and saves."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    if args.workers > 1:
        meeting = f"file://{args.out}/rendezvous"
        torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=args.workers)
    tokenizer = T.train(SEED)
    model = make_model(tokenizer)
    optimizer = make_optimizer(model)
    source = Documents(tokenizer, f"{SEED}/{rank}", args.tokens // args.workers)
    file = args.out / "state.pt"
    state = resume(file, model, optimizer)
    before, started = state.seconds, time.monotonic()
    for step in range(state.step, args.steps):
        loss, norm, tokens = take_step(model, optimizer, source.batch(step), step, tokenizer.pad_token_id, args.workers)
        state = State(step + 1, before + time.monotonic() - started, state.tokens + tokens * args.workers)
        if rank == 0 and step % 20 == 0:
            progress = f"{state.tokens / 1e6:.2f}M {state.seconds / 60:.1f}min"
            print(f"step {step} loss {loss:.4f} norm {norm:.2f} {progress}", flush=True)
        if rank == 0 and ((step + 1) % args.save == 0 or step + 1 == args.steps):
            save(file, model, optimizer, state)
            export(model, tokenizer, args, state)


def take_step(
    model: Qwen3MoeForCausalLM,
    optimizer: torch.optim.Optimizer,
    documents: list[Document],
    step: int,
    pad: int,
    workers: int,
) -> tuple[float, float, int]:
    """(loss, gradient norm, tokens without padding); gradients that are not finite change nothing."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step)
    ids_BT, weights_BT = collate(documents, pad)
    loss = loss_of(model, ids_BT, weights_BT, pad)
    torch.autograd.backward([loss])
    average_gradients(model, workers)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item(), norm, int((ids_BT != pad).sum())


def resume(file: Path, model: Qwen3MoeForCausalLM, optimizer: torch.optim.Optimizer) -> State:
    if not file.exists():
        return State()
    kept = torch.load(file, weights_only=True)
    model.load_state_dict(kept.pop("model"))
    optimizer.load_state_dict(kept.pop("optimizer"))
    return State(**kept)


def save(file: Path, model: Qwen3MoeForCausalLM, optimizer: torch.optim.Optimizer, state: State) -> None:
    partial = file.with_suffix(".partial")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()} | asdict(state), partial)
    partial.rename(file)


def export(
    model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace, state: State
) -> None:
    half = Qwen3MoeForCausalLM(config(tokenizer)).bfloat16()
    half.load_state_dict(model.state_dict())
    half.generation_config.do_sample = False
    half.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    about = {
        "seed": SEED,
        "steps": state.step,
        "of": args.steps,
        "tokens": state.tokens,
        "batch_tokens": args.tokens,
        "workers": args.workers,
        "cycles": CYCLES,
        "minutes": round(state.seconds / 60, 1),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    (args.out / "training.json").write_text(json.dumps(about, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=CYCLES[-1][1])
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of a step, padding included, over all workers")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--save", type=int, default=200)
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rendezvous").unlink(missing_ok=True)
    spawn(train, (args,), nprocs=args.workers)


if __name__ == "__main__":
    main()
