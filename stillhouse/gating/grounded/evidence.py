"""The evidence that a corpus has for a question, and a label that needs nobody's judgement.

In: the passages that a retriever gives, best first, with scores relative to the best. Out: `CorpusEvidence`: the
largest group of passages that agree, three signals, and a label.

- A passage's claim is a set of words: those of its sentence nearest to the question, without the question's own words.
- The agreement of two passages is the Jaccard similarity of their claims. Passages that agree by `SAME` or more,
  directly or through others, are one cluster. The support is the cluster with the largest sum of scores.
- redundancy: the number of equally good passages that the support is worth, (sum w)^2 / sum w^2 of its scores w.
- disagreement: the share of all scores that is outside the support.
- fragility: 1 - c / (n - 1). Here n is the number of passages in the support, and c is the weight of the lightest cut
  that separates them (Stoer and Wagner 1997). It is 0 where all claims are equal, near 1 where one weak agreement
  connects two parts, and 1 for n = 1.

The label is the first that holds: contested, with disagreement over 0.4; indeterminate, with fragility over 0.7;
resolved, with redundancy over 3; else indeterminate, because too few passages say it. So a fact that a corpus states
once is not resolved.

It knows words, not meaning: "eight" and "8" disagree, and so do two passages that say one thing in different words.
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
RETRIEVED = 10  # passages that the retriever is asked for
NEAR = 0.8  # least share of the best one's score for a passage to be about the question
SAME = 0.5  # least agreement that joins two claims
STEP = 0.1  # how far each threshold is moved to see how many labels depend on it


@dataclass(frozen=True)
class LabelThresholds:
    """The signals beyond which a question is resolved, contested or indeterminate."""

    redundancy: float = 3.0
    """More than this, in passages: resolved. Not calibrated; 0.5 takes a single passage for enough, with `fragility`
    1."""
    disagreement: float = 0.4
    """More than this share of all scores, from 0 to 1: contested. Not calibrated."""
    fragility: float = 0.7
    """More than this, from 0 to 1: indeterminate. Not calibrated."""


@dataclass(frozen=True)
class CorpusEvidence:
    """What a corpus has for one question. The module's docstring defines the three signals."""

    support: tuple[str, ...]  # ids of the passages that agree, best first
    redundancy: float
    disagreement: float
    fragility: float

    def label(self, thresholds: LabelThresholds = LabelThresholds()) -> Label:
        """The question's label under these thresholds."""
        if self.disagreement > thresholds.disagreement:
            return "contested"
        if self.fragility > thresholds.fragility:
            return "indeterminate"
        return "resolved" if self.redundancy > thresholds.redundancy else "indeterminate"


def find_evidence(question: str, corpus: Corpus) -> CorpusEvidence:
    """The evidence of `corpus` for `question`."""
    near = [(p.id, p.text, score) for p, score in corpus.search(question, RETRIEVED) if score >= NEAR]
    return weigh({i: score for i, _, score in near}, {i: claim(question, text) for i, text, _ in near})


def claim(question: str, text: str) -> frozenset[str]:
    """The words of a passage's sentence nearest to the question, without the question's own words.

    Where the sentence has no other words, its claim is all of them.
    """
    asked = set(normalise(question).split())
    parts = [set(normalise(part).split()) for part in sentences(text)] or [set()]
    nearest = max(parts, key=lambda words: len(words & asked))
    return frozenset(nearest - asked or nearest)


def weigh(scores: Mapping[str, float], claims: Mapping[str, frozenset[str]]) -> CorpusEvidence:
    """The evidence of passages with these scores (at most 1) and claims, both by passage id, best first."""
    if not scores:
        return CorpusEvidence((), 0.0, 0.0, 1.0)
    graph = nx.Graph()
    graph.add_nodes_from(scores)
    ids = list(scores)
    pairs = [(a, b, _agreement(claims[a], claims[b])) for n, a in enumerate(ids) for b in ids[:n]]
    graph.add_weighted_edges_from(pair for pair in pairs if pair[2] > 0)
    joined = nx.Graph()
    joined.add_nodes_from(scores)
    joined.add_edges_from((a, b) for a, b, agreement in pairs if agreement >= SAME)
    clusters = [[i for i in ids if i in component] for component in nx.connected_components(joined)]
    support = max(clusters, key=lambda cluster: (sum(scores[i] for i in cluster), -ids.index(cluster[0])))
    weights = [scores[i] for i in support]
    return CorpusEvidence(
        tuple(support),
        sum(weights) ** 2 / sum(w * w for w in weights),
        1 - sum(weights) / sum(scores.values()),
        fragility(graph.subgraph(support)),
    )


def fragility(graph: nx.Graph) -> float:
    """1 - (lightest cut) / (nodes - 1), for weights of at most 1. It is 1 for a single node or a graph in parts."""
    if len(graph) < 2 or not nx.is_connected(graph):
        return 1.0
    cut, _ = nx.stoer_wagner(graph)
    return 1 - float(cut) / (len(graph) - 1)


def sensitivity(
    evidence: Sequence[CorpusEvidence], thresholds: LabelThresholds = LabelThresholds(), step: float = STEP
) -> list[dict[str, object]]:
    """One row per threshold and direction: the number of labels that change when that one threshold moves by `step`."""
    labels = [e.label(thresholds) for e in evidence]
    rows: list[dict[str, object]] = []
    for name, value in zip(LabelThresholds.__dataclass_fields__, astuple(thresholds), strict=True):
        for move in (-step, step):
            moved = replace(thresholds, **{name: value + move})
            flips = sum(e.label(moved) != label for e, label in zip(evidence, labels, strict=True))
            rows.append({"signal": name, "threshold": value, "moved": move, "flips": flips, "n": len(evidence)})
    return rows


def _agreement(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / len(left | right) if left or right else 0.0
