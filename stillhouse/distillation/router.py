"""Which specialist a request is for, and when it is for none: a linear probe on the base's own hidden states.

In: requests of every domain, as people ask them, and the base. Out: a `Router`: per request a domain, a confidence
and how strange the request is. The probe is linear discriminant analysis (Fisher 1936) on mean hidden states, within
classes whitened by a shrunk covariance (Ledoit and Wolf 2004); its temperature (Guo et al. 2017, arXiv 1706.04599), the
confidence under which the teacher answers, and the Mahalanobis distance beyond which a request is like none (Lee et al.
2018, arXiv 1807.03888; the cut is split conformal) come from held-out requests, and what it is worth from others.

It does not know adapters: routing costs one forward of the base over the request.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..capture.prompts import Example
from ..compute.threads import fastest_threads
from ..errors import InputError, ModelError
from ..gating.stats import wilson
from ..generate import batches, pad_right
from ..models import Model
from ..storage.files import write_atomic

FILE = "router.safetensors"
BINS = 10
BATCH_TOKENS = 4096
Asked = tuple[str, Sequence[Example], Sequence[Example]]  # a domain, its training and its held-out requests


@dataclass(frozen=True)
class Config:
    """`right`: share of the routed requests that have to reach their own specialist; where the probe cannot, the rest
    goes to the teacher. `strange`: share of a domain's own requests that may go to the teacher for being like none.
    `examples` per domain are learned from, `dimensions` of the hidden states kept, `shrink` of their covariance made
    round."""

    right: float = 0.95
    strange: float = 0.01
    examples: int = 500
    dimensions: int = 64
    shrink: float = 0.2

    def __post_init__(self) -> None:
        for name in ("right", "strange"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"router.{name}: {getattr(self, name)} is not allowed; it is a share, 0 to 1")
        for name in ("examples", "dimensions"):
            if getattr(self, name) < 1:
                raise InputError(f"router.{name}: {getattr(self, name)} is not allowed; at least 1")
        if not 0 < self.shrink <= 1:
            raise InputError(f"router.shrink: {self.shrink} is not allowed; more than 0, at most 1")


@dataclass(frozen=True)
class Route:
    """`domain` answers, or the teacher where it is None; `nearest` is the domain it is most like."""

    domain: str | None
    nearest: str
    confidence: float


@dataclass(frozen=True)
class Router:
    """A probe over the hidden states of one base. Squared distances are in units of the spread within a domain."""

    base: str  # fingerprint
    domains: tuple[str, ...]
    mean_H: Tensor
    basis_HR: Tensor  # directions that are kept, of length 1
    whiten_RR: Tensor
    centres_DR: Tensor
    round: float  # spread in the directions that are not kept
    temperature: float = 1.0
    least: float = 0.0  # confidence
    farthest: float = math.inf  # squared distance

    def distances(self, hidden_NH: Tensor) -> Tensor:
        """Squared Mahalanobis distances `[N, domains]`."""
        away_NH = hidden_NH.double() - self.mean_H
        inside_NR = away_NH @ self.basis_HR
        rest_N = (away_NH - inside_NR @ self.basis_HR.T).square().sum(-1) / self.round
        apart_NDR = (inside_NR @ self.whiten_RR)[:, None] - self.centres_DR
        return apart_NDR.square().sum(-1) + rest_N[:, None]

    def confidences(self, distances_ND: Tensor) -> Tensor:
        """How likely each domain is, `[N, domains]`."""
        return (-distances_ND / (2 * self.temperature)).softmax(-1)

    def route(self, hidden_NH: Tensor) -> list[Route]:
        """Where every request goes."""
        distances_ND = self.distances(hidden_NH)
        sure_N, which_N = self.confidences(distances_ND).max(-1)
        taken_N = (sure_N >= self.least) & (distances_ND.min(-1).values <= self.farthest)
        names = [self.domains[i] for i in which_N.tolist()]
        return [
            Route(name if taken else None, name, sure)
            for name, taken, sure in zip(names, taken_N.tolist(), sure_N.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Measured:
    """On `n` held-out requests that nothing was set by: `accuracy` of the probe alone, `routed` the share that reaches
    a specialist, `right` the share of those that reaches its own (95 % interval), ECE of the confidence, and
    `confusion[i][j]`: requests of domain i that went to specialist j, in the last column to the teacher."""

    accuracy: float
    routed: float
    right: float
    interval: tuple[float, float]
    ece: float
    confusion: tuple[tuple[int, ...], ...]
    least: float
    n: int


def learn(model: Model, asked: Sequence[Asked], config: Config) -> tuple[Router, Measured]:
    """A router over domains, and what it is worth. `InputError`: a domain with fewer than two held-out requests."""
    for name, train, held in asked:
        if len(held) < 2 or not train:
            raise InputError(
                f"domains.{name}: {len(train)} training and {len(held)} held-out requests are too few for a router; at "
                "least 1 and 2: raise held_out or give more data"
            )
    names = tuple(name for name, _, _ in asked)
    taught = [hidden(model, list(train)[: config.examples]) for _, train, _ in asked]
    kept = [hidden(model, list(held)[: config.examples]) for _, _, held in asked]
    probe = _probe(model.fingerprint, names, taught, config)
    setting, measuring = ([part[start::2] for part in kept] for start in (0, 1))
    router = _calibrated(probe, *_stacked(setting), config)
    return router, _measured(router, *_stacked(measuring))


@torch.inference_mode()
def hidden(model: Model, requests: Sequence[Example]) -> Tensor:
    """Mean hidden states of the requests' words under the base, `[N, H]` float64 on the CPU."""
    ids = [model.text_ids(_words(r))[-model.context :] or [0] for r in requests]
    found: dict[int, Tensor] = {}
    for rows in batches([len(i) for i in ids], BATCH_TOKENS):
        ids_BT, mask_BT = pad_right([ids[i] for i in rows], model)
        with fastest_threads(model):
            states_BTH = model.network.base_model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state.float()
        mean_BH = (states_BTH * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True)
        found |= dict(zip(rows, mean_BH.double().cpu(), strict=True))
    return torch.stack([found[i] for i in range(len(ids))])


def _words(request: Example) -> str:
    """What is asked, without a chat template; of running text, its beginning."""
    if request.messages:
        return "\n".join(m["content"] for m in request.messages)
    return request.text or " ".join((request.answer or "").split()[:32])


def _stacked(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat(list(parts)), torch.cat([torch.full((len(part),), i) for i, part in enumerate(parts)])


def _probe(base: str, names: tuple[str, ...], taught: Sequence[Tensor], config: Config) -> Router:
    """Linear discriminant analysis in the directions in which the requests differ most."""
    all_NH, class_N = _stacked(taught)
    mean_H = all_NH.mean(0)
    _, size_R, basis_RH = torch.linalg.svd(all_NH - mean_H, full_matrices=False)
    basis_HR = basis_RH[: max(1, min(config.dimensions, int((size_R > 1e-9 * size_R[0]).sum())))].T
    means_DH = torch.stack([part.mean(0) for part in taught])
    within_NH = all_NH - means_DH[class_N]
    average = max(float(within_NH.square().sum() / (max(1, len(all_NH) - len(names)) * mean_H.numel())), 1e-12)
    inside_NR = within_NH @ basis_HR
    spread_RR = inside_NR.T @ inside_NR / max(1, len(all_NH) - len(names))
    shrunk_RR = (1 - config.shrink) * spread_RR + config.shrink * average * torch.eye(len(spread_RR)).double()
    whiten_RR = torch.linalg.inv(torch.linalg.cholesky(shrunk_RR)).T.contiguous()
    centres_DR = (means_DH - mean_H) @ basis_HR @ whiten_RR
    return Router(base, names, mean_H, basis_HR.contiguous(), whiten_RR, centres_DR, average)


def _calibrated(probe: Router, hidden_NH: Tensor, class_N: Tensor, config: Config) -> Router:
    """Temperature, least confidence and farthest distance from held-out requests."""
    distances_ND = probe.distances(hidden_NH)
    temperatures = torch.logspace(-1, 3, 81).tolist()
    costs = [torch.nn.functional.cross_entropy(-distances_ND / (2 * t), class_N) for t in temperatures]
    router = replace(probe, temperature=temperatures[int(torch.stack(costs).argmin())])
    sure_N, which_N = router.confidences(distances_ND).max(-1)
    nearest_N = distances_ND.min(-1).values.sort().values
    place = min(len(nearest_N), math.ceil((len(nearest_N) + 1) * (1 - config.strange))) - 1
    least = _least(sure_N, which_N == class_N, config.right)
    return replace(router, least=least, farthest=float(nearest_N[max(place, 0)]))


def _least(sure_N: Tensor, right_N: Tensor, wanted: float) -> float:
    """The lowest confidence from which upwards a share of `wanted` is right; above 1 where there is none."""
    order_N = sure_N.argsort(descending=True)
    share_N = right_N[order_N].double().cumsum(0) / torch.arange(1, len(order_N) + 1)
    enough = (share_N >= wanted).nonzero()
    return float(sure_N[order_N[int(enough[-1])]]) if len(enough) else 2.0


def _measured(router: Router, hidden_NH: Tensor, class_N: Tensor) -> Measured:
    routes = router.route(hidden_NH)
    places = {name: i for i, name in enumerate(router.domains)} | {None: len(router.domains)}
    confusion = torch.zeros(len(router.domains), len(places), dtype=torch.long)
    for route, own in zip(routes, class_N.tolist(), strict=True):
        confusion[own, places[route.domain]] += 1
    right, routed = int(confusion.diagonal().sum()), int(confusion[:, :-1].sum())
    hit_N = torch.tensor([places[r.nearest] == own for r, own in zip(routes, class_N.tolist(), strict=True)]).double()
    sure_N = torch.tensor([r.confidence for r in routes]).double()
    rows = tuple(tuple(row) for row in confusion.tolist())
    return Measured(
        float(hit_N.mean()), routed / len(routes), right / max(1, routed), wilson(right, routed), _ece(sure_N, hit_N),
        rows, router.least, len(routes),
    )  # fmt: skip


def _ece(sure_N: Tensor, hit_N: Tensor) -> float:
    bin_N = (sure_N * BINS).long().clamp(max=BINS - 1)
    gaps = [abs(float((sure_N - hit_N)[bin_N == b].sum())) for b in range(BINS)]
    return sum(gaps) / len(sure_N)


def save(router: Router, file: Path) -> None:
    """One safetensors file."""
    about = {k: getattr(router, k) for k in ("base", "domains", "round", "temperature", "least", "farthest")}
    tensors = {k: getattr(router, k).contiguous() for k in ("mean_H", "basis_HR", "whiten_RR", "centres_DR")}
    write_atomic(file, to_bytes(tensors, {"router": json.dumps(about)}))


def load(file: Path, model: Model) -> Router:
    """A saved router. `ModelError`: missing, damaged, or of another base than `model`."""
    try:
        with safe_open(file, framework="pt") as handle:
            about = json.loads(handle.metadata()["router"])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
            found = Router(**{**about, "domains": tuple(about["domains"]), **tensors})
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: no router can be read there ({error}); distil again to make it") from error
    if found.base != model.fingerprint:
        raise ModelError(f"{file}: a router for another base than {model.ref}; distil again to make it")
    return found
