"""How much memory does a step take at a vocabulary of 152k and 2,048 target tokens? Ours against dense KL.

    python benchmarks/distill_memory.py [--tokens N] [--vocabulary N]

Peak resident memory above what was there before the step, each in a process of its own: a student of Qwen2.5's
vocabulary (few and narrow layers, so that what is compared is the loss and not the network), forward, backward and all.
Dense is what TRL's GKD computes: both sides' logits for all tokens, `log_softmax` and `kl_div` over them; the teacher's
forward is not counted, only its logits. Ours are chunks through the head. With every token of a small vocabulary kept
both give the same loss and gradient, which is checked first.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._distill import WIDE, qwen
from benchmarks._machine import Figure, machine, say, table
from stillhouse.losses import SparseTargets, chunked
from stillhouse.signals.sparsify import sparsify

K, DRAWS = 8, 4


def sparse_targets(tokens: int, vocabulary: int) -> SparseTargets:
    """Some distribution at every token, a row at a time: nobody needs it whole."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        sparsify(torch.randn(1, vocabulary, generator=generator).log_softmax(-1), K, DRAWS, generator)
        for _ in range(min(tokens, 8))
    ]
    some = SparseTargets(*map(torch.cat, zip(*rows, strict=True)))
    return SparseTargets(*(t.repeat(-(-tokens // len(t)), *[1] * (t.ndim - 1))[:tokens] for t in some))


def dense_kl(student_BTV: Tensor, teacher_BTV: Tensor) -> Tensor:
    """Nats, summed: as GKD computes it with beta = 0."""
    student, teacher = student_BTV.log_softmax(-1), teacher_BTV.log_softmax(-1)
    return torch.nn.functional.kl_div(student, teacher, reduction="none", log_target=True).sum()


def equal() -> float:
    """Largest relative difference of loss and gradient, small vocabulary, every token kept."""
    torch.manual_seed(0)
    hidden_PH, head = torch.randn(40, 16, dtype=torch.double), torch.nn.Linear(16, 50, bias=False).double()
    head.requires_grad_(False)
    teacher_PV = torch.randn(40, 50, dtype=torch.double)
    hidden_PH.requires_grad_()
    dense = dense_kl(head(hidden_PH)[None], teacher_PV[None])
    top_PK, ids_PK = teacher_PV.log_softmax(-1).topk(50)
    none = torch.zeros(40, 0)
    kept = SparseTargets(ids_PK, top_PK, torch.zeros(40), none.long(), none, none)
    ours = chunked(hidden_PH, head, kept, torch.zeros(40).long(), chunk=7).sum()
    gradients = [torch.autograd.grad(loss, hidden_PH)[0] for loss in (dense, ours)]
    apart = float((gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max())
    return max(apart, abs(float(dense.detach()) / float(ours.detach()) - 1))


def step(which: str, tokens: int, vocabulary: int) -> None:
    """One step in this process; prints the peak above what was there before, in bytes."""
    torch.set_num_threads(1)
    network = qwen(layers=2, hidden=128, vocabulary=vocabulary)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("proj" in name)  # as with an adapter: embeddings and head stay
    ids_BT = torch.randint(vocabulary, (1, tokens), generator=torch.Generator().manual_seed(0))
    targets = sparse_targets(tokens, vocabulary)
    network(input_ids=ids_BT[:, :8]).logits.sum().backward()
    with Peak() as peak:
        if which == "dense":
            teacher_BTV = torch.zeros(1, tokens, vocabulary).add_(0.5)
            dense_kl(network(input_ids=ids_BT).logits, teacher_BTV).backward()
        else:
            hidden_BTH = network.base_model(input_ids=ids_BT).last_hidden_state
            chunked(hidden_BTH[0], network.lm_head, targets, ids_BT[0]).sum().backward()
    print(json.dumps(peak.bytes))


class Peak:
    """The highest resident size while the block runs, above the one at its beginning: the kernel's own mark where it is
    higher than before, else as sampled."""

    def __enter__(self) -> Peak:
        self._before, self._highest, self._over = resident(), 0, threading.Event()
        self._mark = high_water()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        marked = high_water() if high_water() > self._mark else 0
        self.bytes = max(marked, self._highest) - self._before

    def _watch(self) -> None:
        while not self._over.is_set():
            self._highest = max(self._highest, resident())
            time.sleep(0.001)


def resident() -> int:
    """Bytes of this process in memory now."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * resource.getpagesize() if status.exists() else high_water()


def high_water() -> int:
    """The most there ever was."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=WIDE)
    parser.add_argument("--only", choices=("dense", "ours"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        step(args.only, args.tokens, args.vocabulary)
        return 0
    print(machine())
    peaks = {}
    for which in ("ours", "dense"):
        say(f"a step, {which}")
        here = [sys.executable, __file__, "--only", which, "--tokens", str(args.tokens)]
        found = subprocess.run([*here, "--vocabulary", str(args.vocabulary)], check=True, capture_output=True)
        peaks[which] = float(json.loads(found.stdout.splitlines()[-1]))
    ours, dense = (peaks[which] / 1e6 for which in ("ours", "dense"))
    said = f"{args.tokens} tokens, {args.vocabulary} ids: {ours:.0f} MB, dense {dense:.0f} MB"
    return table(
        [
            Figure("loss and gradient with every token kept, against dense", equal(), "", 1e-6, False),
            Figure(
                "peak memory of a step, share of dense KL's",
                peaks["ours"] / peaks["dense"],
                "%",
                0.25,
                False,
                note=said,
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
