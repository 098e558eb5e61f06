"""Which specialist a request is for, and when it is for none: a linear probe on the base's own hidden states.

In: requests of every domain, as people ask them, and the base. Out: a `Router`: per request a domain, a confidence
and how strange the request is. The probe is linear discriminant analysis (Fisher 1936) on mean hidden states, within
classes whitened by a shrunk covariance (Ledoit and Wolf 2004); its temperature (Guo et al. 2017, arXiv 1706.04599), the
confidence under which the teacher answers, and the Mahalanobis distance beyond which a request is like none (Lee et al.
2018, arXiv 1807.03888; the cut is split conformal) are set by one half of the held-out requests. The other half says
how good the router is.

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
from .evaluate import calibration

FILE = "router.safetensors"
BATCH_TOKENS = 4096
Requests = tuple[str, Sequence[Example], Sequence[Example]]  # of a domain: its name, to train on, held out


@dataclass(frozen=True)
class Config:
    """How requests find their specialist."""

    right: float = 0.95
    """The share of the routed requests that have to reach their own specialist, 0 to 1. Where the probe cannot do that,
    the requests it is least sure of go to the teacher."""
    strange: float = 0.01
    """The share of a domain's own requests that may go to the teacher for being like none, 0 to 1."""
    examples: int = 500
    """How many requests of each domain are learned from, and how many held-out ones are used, at most."""
    dimensions: int = 64
    """How many directions of the hidden states are kept, at most."""
    shrink: float = 0.2
    """How far the covariance is moved towards a round one, above 0 to 1, so that few requests are enough."""

    def __post_init__(self) -> None:
        allowed = {
            "right": (0 <= self.right <= 1, "it is a share, 0 to 1"),
            "strange": (0 <= self.strange <= 1, "it is a share, 0 to 1"),
            "examples": (self.examples >= 1, "at least 1"),
            "dimensions": (self.dimensions >= 1, "at least 1"),
            "shrink": (0 < self.shrink <= 1, "more than 0, at most 1"),
        }
        for name, (fits, rule) in allowed.items():
            if not fits:
                raise InputError(f"router.{name}: {getattr(self, name)} is not allowed; {rule}")


@dataclass(frozen=True)
class Route:
    """`domain` answers, or the teacher where it is None; `nearest` is the domain it is most like."""

    domain: str | None
    nearest: str
    confidence: float


@dataclass(frozen=True)
class Router:
    """A probe over the hidden states of one base. Squared distances are in units of the spread within a domain."""

    base: str
    """The fingerprint of the base."""
    domains: tuple[str, ...]
    mean_H: Tensor
    basis_HR: Tensor
    """The directions that are kept, each of length 1."""
    whiten_RR: Tensor
    centres_DR: Tensor
    """The domains' means, whitened."""
    round: float
    """The spread in the directions that are not kept."""
    temperature: float = 1.0
    least: float = 0.0
    """The confidence under which the teacher answers."""
    farthest: float = math.inf
    """The squared distance beyond which a request is like no domain."""

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
class RouterMetrics:
    """How good a router is on `n` held-out requests by which nothing was set."""

    accuracy: float
    """The share of requests that the probe alone finds the domain of."""
    routed: float
    """The share that reaches a specialist."""
    right: float
    """The share of the routed that reaches its own specialist."""
    interval: tuple[float, float]
    """95 % interval of `right`."""
    ece: float
    """Expected calibration error of the confidence."""
    confusion: tuple[tuple[int, ...], ...]
    """`[i][j]`: requests of domain i that went to specialist j, in the last column to the teacher."""
    least: float
    """The router's least confidence."""
    n: int


def learn(model: Model, requests: Sequence[Requests], config: Config) -> tuple[Router, RouterMetrics]:
    """A router over domains, and how good it is. Half of the held-out requests calibrate it, the others measure it.

    `InputError`: a domain with fewer than two held-out requests.
    """
    for name, train, held_out in requests:
        if len(held_out) < 2 or not train:
            raise InputError(
                f"domains.{name}: {len(train)} training and {len(held_out)} held-out requests are too few for a "
                "router; at least 1 and 2: raise held_out or give more data"
            )
    names = tuple(name for name, _, _ in requests)
    training = [hidden(model, train[: config.examples]) for _, train, _ in requests]
    held_out_states = [hidden(model, held_out[: config.examples]) for _, _, held_out in requests]
    router = fit(model.fingerprint, names, training, config)
    router = calibrate(router, [states_NH[0::2] for states_NH in held_out_states], config)
    return router, measure(router, [states_NH[1::2] for states_NH in held_out_states])


@torch.inference_mode()
def hidden(model: Model, requests: Sequence[Example]) -> Tensor:
    """Mean hidden states of the requests' words under the base, `[N, H]` float64 on the CPU."""
    ids = [model.text_ids(_words(r))[-model.context :] or [0] for r in requests]
    means: dict[int, Tensor] = {}
    for rows in batches([len(i) for i in ids], BATCH_TOKENS):
        ids_BT, mask_BT = pad_right([ids[i] for i in rows], model)
        with fastest_threads(model):
            states_BTH = model.network.base_model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state.float()
        mean_BH = (states_BTH * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True)
        means |= dict(zip(rows, mean_BH.double().cpu(), strict=True))
    return torch.stack([means[i] for i in range(len(ids))])


def _words(request: Example) -> str:
    """What is asked, without a chat template; of running text, its beginning."""
    if request.messages:
        return "\n".join(m["content"] for m in request.messages)
    return request.text or " ".join((request.answer or "").split()[:32])


def fit(base: str, domains: tuple[str, ...], states: Sequence[Tensor], config: Config) -> Router:
    """A router that is not calibrated yet, from the `[N, H]` hidden states of every domain's training requests.

    Linear discriminant analysis in the directions in which the requests differ most. `base`: the fingerprint of the
    model whose states they are.
    """
    all_NH, class_N = _stacked(states)
    mean_H = all_NH.mean(0)
    _, size_R, basis_RH = torch.linalg.svd(all_NH - mean_H, full_matrices=False)
    basis_HR = basis_RH[: max(1, min(config.dimensions, int((size_R > 1e-9 * size_R[0]).sum())))].T
    means_DH = torch.stack([part.mean(0) for part in states])
    within_NH = all_NH - means_DH[class_N]
    freedom = max(1, len(all_NH) - len(domains))
    average = max(float(within_NH.square().sum() / (freedom * mean_H.numel())), 1e-12)
    inside_NR = within_NH @ basis_HR
    spread_RR = inside_NR.T @ inside_NR / freedom
    shrunk_RR = (1 - config.shrink) * spread_RR + config.shrink * average * torch.eye(len(spread_RR)).double()
    whiten_RR = torch.linalg.inv(torch.linalg.cholesky(shrunk_RR)).T.contiguous()
    centres_DR = (means_DH - mean_H) @ basis_HR @ whiten_RR
    return Router(base, domains, mean_H, basis_HR.contiguous(), whiten_RR, centres_DR, average)


def calibrate(router: Router, states: Sequence[Tensor], config: Config) -> Router:
    """The router with temperature, least confidence and farthest distance from the `[N, H]` hidden states of every
    domain's held-out requests."""
    hidden_NH, class_N = _stacked(states)
    distances_ND = router.distances(hidden_NH)
    temperatures = torch.logspace(-1, 3, 81).tolist()
    costs = [torch.nn.functional.cross_entropy(-distances_ND / (2 * t), class_N) for t in temperatures]
    router = replace(router, temperature=temperatures[int(torch.stack(costs).argmin())])
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


def measure(router: Router, states: Sequence[Tensor]) -> RouterMetrics:
    """How good a router is on the `[N, H]` hidden states of every domain's requests, which it must not have seen."""
    hidden_NH, class_N = _stacked(states)
    routes, teacher = router.route(hidden_NH), len(router.domains)
    places = {name: i for i, name in enumerate(router.domains)} | {None: teacher}
    taken_N = torch.tensor([places[route.domain] for route in routes])
    confusion = torch.bincount(class_N * (teacher + 1) + taken_N, minlength=teacher * (teacher + 1)).view(teacher, -1)
    right, routed = int(confusion.diagonal().sum()), int(confusion[:, :-1].sum())
    hit_N = (torch.tensor([places[route.nearest] for route in routes]) == class_N).double()
    _, ece = calibration(torch.tensor([route.confidence for route in routes]).double(), hit_N)
    return RouterMetrics(
        float(hit_N.mean()), routed / len(routes), right / max(1, routed), wilson(right, routed), ece,
        tuple(map(tuple, confusion.tolist())), router.least, len(routes),
    )  # fmt: skip


def _stacked(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The states of all domains, and for each the number of its domain."""
    return torch.cat(list(states)), torch.cat([torch.full((len(part),), i) for i, part in enumerate(states)])


def save(router: Router, file: Path) -> None:
    """One safetensors file: tensors, and what is none as JSON in its metadata."""
    tensors = {name: value.contiguous() for name, value in vars(router).items() if isinstance(value, Tensor)}
    about = {name: value for name, value in vars(router).items() if name not in tensors}
    write_atomic(file, to_bytes(tensors, {"router": json.dumps(about)}))


def load(file: Path, model: Model) -> Router:
    """A saved router. `ModelError`: missing, damaged, or of another base than `model`."""
    try:
        with safe_open(file, framework="pt") as handle:
            about = json.loads(handle.metadata()["router"])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
            router = Router(**{**about, "domains": tuple(about["domains"]), **tensors})
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: no router can be read there ({error}); distil again to make it") from error
    if router.base != model.fingerprint:
        raise ModelError(f"{file}: a router for another base than {model.ref}; distil again to make it")
    return router
