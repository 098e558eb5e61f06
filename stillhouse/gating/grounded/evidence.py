"""What a corpus has to say to a question: evidence, and a label without anybody's judgement.

In: the passages that a retriever finds, best first, with scores relative to the best. Out: `Evidence`: the passages
that agree with each other most, three signals, and a label.

- A passage's claim is what its nearest sentence says beyond the question's own words. Two passages agree as far as
  their claims share words (Jaccard); those that agree by `SAME` or more, also through others, are one cluster. The
  support is the cluster with the largest sum of scores.
- redundancy: how many equally good passages the support amounts to, (sum w)^2 / sum w^2 of its scores w.
- disagreement: the share of all scores that is not the support's.
- fragility: 1 - c / (n - 1), where c is the weight of the lightest cut that parts the n passages of the support
  (Stoer and Wagner 1997): 0 where all agree in every word, near 1 where one loose tie holds it together, 1 for n = 1.

contested: disagreement over 0.4. Else indeterminate: fragility over 0.7. Else resolved: redundancy over 3. Else
indeterminate: nobody has said it often enough. A fact that a corpus states once is therefore not resolved.

It knows words, not meaning: "eight" and "8" disagree, and passages in other words than each other's are other claims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Literal

import networkx as nx

from ...text.answers import normalise
from .citations import sentences
from .corpus import Corpus

Label = Literal["resolved", "contested", "indeterminate"]
LABELS: tuple[Label, ...] = ("resolved", "contested", "indeterminate")
FOUND = 10  # passages looked at
NEAR = 0.8  # of the best one's score, at least, for a passage to be about the question
SAME = 0.5  # agreement that joins two claims
STEP = 0.1  # how far thresholds are moved to see what hangs on them


@dataclass(frozen=True)
class Limits:
    """Beyond which signal a question is resolved, contested or indeterminate."""

    redundancy: float = 3.0
    disagreement: float = 0.4
    fragility: float = 0.7


@dataclass(frozen=True)
class Evidence:
    """`support`: ids of the passages that agree, best first; see the module for the signals."""

    support: tuple[str, ...]
    redundancy: float
    disagreement: float
    fragility: float

    def label(self, limits: Limits = Limits()) -> Label:
        """What may be expected of an answer."""
        if self.disagreement > limits.disagreement:
            return "contested"
        if self.fragility > limits.fragility:
            return "indeterminate"
        return "resolved" if self.redundancy > limits.redundancy else "indeterminate"


def evidence(question: str, corpus: Corpus) -> Evidence:
    """What `corpus` has to say to `question`."""
    near = [(p.id, p.text, score) for p, score in corpus.found(question, FOUND) if score >= NEAR]
    return weigh({i: score for i, _, score in near}, {i: claim(question, text) for i, text, _ in near})


def claim(question: str, text: str) -> frozenset[str]:
    """The words of the passage's sentence nearest to the question that the question does not have; of a passage that
    has no others, its own."""
    asked = set(normalise(question).split())
    parts = [set(normalise(part).split()) for part in sentences(text)] or [set()]
    nearest = max(parts, key=lambda words: len(words & asked))
    return frozenset(nearest - asked or nearest)


def weigh(scores: Mapping[str, float], claims: Mapping[str, frozenset[str]]) -> Evidence:
    """The signals of passages with these scores (at most 1) and claims, in the order given."""
    if not scores:
        return Evidence((), 0.0, 0.0, 1.0)
    graph = nx.Graph()
    graph.add_nodes_from(scores)
    ids = list(scores)
    pairs = [(a, b, _agreement(claims[a], claims[b])) for n, a in enumerate(ids) for b in ids[:n]]
    graph.add_weighted_edges_from(pair for pair in pairs if pair[2] > 0)
    tight = nx.Graph()
    tight.add_nodes_from(scores)
    tight.add_edges_from((a, b) for a, b, agreed in pairs if agreed >= SAME)
    clusters = [[i for i in ids if i in found] for found in nx.connected_components(tight)]
    support = max(clusters, key=lambda cluster: (sum(scores[i] for i in cluster), -ids.index(cluster[0])))
    weights = [scores[i] for i in support]
    return Evidence(
        tuple(support),
        sum(weights) ** 2 / sum(w * w for w in weights),
        1 - sum(weights) / sum(scores.values()),
        fragility(graph.subgraph(support)),
    )


def fragility(graph: nx.Graph) -> float:
    """1 - (lightest cut) / (nodes - 1), for weights of at most 1; 1 for a single node or a graph in pieces."""
    if len(graph) < 2 or not nx.is_connected(graph):
        return 1.0
    cut, _ = nx.stoer_wagner(graph)
    return 1 - float(cut) / (len(graph) - 1)


def sensitivity(found: Sequence[Evidence], limits: Limits = Limits(), step: float = STEP) -> list[dict[str, object]]:
    """One row per threshold and direction: how many labels flip when that one threshold moves by `step`."""
    before = [e.label(limits) for e in found]
    rows: list[dict[str, object]] = []
    for name, value in zip(Limits.__dataclass_fields__, astuple(limits), strict=True):
        for move in (-step, step):
            moved = replace(limits, **{name: value + move})
            flips = sum(e.label(moved) != was for e, was in zip(found, before, strict=True))
            rows.append({"signal": name, "threshold": value, "moved": move, "flips": flips, "n": len(found)})
    return rows


def _agreement(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / len(left | right) if left or right else 0.0
