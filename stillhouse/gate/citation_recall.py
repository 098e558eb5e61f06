"""Citation recall: the share of a corpus's evidence that the student cites.

In: answers to questions that retrieval alone labels as resolved (`gating/grounded/evidence.py`), or those of a trace.
Out: passages of the support that are validly cited, over all passages of the support.

It takes the evidence as a flat list. Of a chain, where one passage leads to the passage with the answer, it knows only
the passages that share words with the question. A corpus that says everything once has no resolved question; then
nothing is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..gating.context import Context
from ..gating.grounded.responses import ResponseRecord
from ..gating.measure import DoesNotApply, Measure
from ..gating.stats import ratio, wilson
from ..records import Candidate, GateResult

MEASURE = Measure(
    __name__, "evidence for resolved questions that is cited", "fraction", at_least=True,
    remedy="Train on answers that cite every passage that says so, not the first alone.",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `citation_recall`."""

    threshold: float = 0.7
    """Least share of the evidence that is cited, from 0 to 1. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult | DoesNotApply:
    """Share of the evidence that is cited; n = resolved questions; Wilson's interval over questions."""
    responses = ctx.grounded_responses()
    if responses is None:
        return DoesNotApply("no corpus to cite was given")
    cited, relevant = counts(responses)
    if not relevant:
        note = f"none of {len(responses)} questions is resolved by the corpus"
        return MEASURE.result(None, config.threshold, 0, note=note)
    note = f"{sum(cited):.0f} of {sum(relevant):.0f} passages, {len(relevant)} resolved questions"
    value, n = ratio(cited, relevant), len(relevant)
    return MEASURE.result(value, config.threshold, n, wilson(value * n, n), note)


def counts(responses: list[ResponseRecord]) -> tuple[list[float], list[float]]:
    """Two numbers for each resolved question: passages of its support that are validly cited, and all of them."""
    resolved = [r for r in responses if r.label == "resolved"]
    return [hits(r) for r in resolved], [needed(r) for r in resolved]


def hits(response: ResponseRecord) -> float:
    """The number of passages of the support that one answer validly cites."""
    support = response.evidence.support if response.evidence else ()
    return float(len({c.passage for c in response.citations if c.valid} & set(support)))


def needed(response: ResponseRecord) -> float:
    """The number of passages in the support."""
    return float(len(response.evidence.support)) if response.evidence else 0.0
