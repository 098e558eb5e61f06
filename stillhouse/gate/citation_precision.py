"""Citation precision: the share of the student's citations that their passages support.

In: answers to questions with passages of a corpus before them, or those of a trace. Out: valid citations over all
citations; `gating/grounded/citations.py` says which are valid. A citation of a passage that was never shown is not
valid, and neither is one whose words are not in its passage.

It does not know whether a valid citation answers the question. A student that cites little but safely passes here and
fails `citation_recall`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..gating.context import Context
from ..gating.measure import DoesNotApply, Measure
from ..gating.stats import ratio, wilson
from ..records import Candidate, GateResult

MEASURE = Measure(
    __name__, "citations whose passage exists and says so", "fraction", at_least=True,
    remedy="Train on answers that quote their passage; show fewer passages at once; remove near twins from the corpus.",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `citation_precision`."""

    threshold: float = 0.9
    """Least share of citations that are valid, from 0 to 1. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult | DoesNotApply:
    """Share of valid citations; n = citations; Wilson's interval, computed as if each answer that cites had one
    citation, because the citations of one answer are not independent."""
    responses = ctx.grounded_responses()
    if responses is None:
        return DoesNotApply("no corpus to cite was given")
    citing = [r for r in responses if r.citations]
    good = [float(sum(c.valid for c in r.citations)) for r in citing]
    given = [float(len(r.citations)) for r in citing]
    if not citing:
        return MEASURE.result(None, config.threshold, 0, note=f"no citation in {len(responses)} answers")
    wrong = [
        {"prompt": r.prompt_id, "passage": c.passage, "span": c.span}
        for r in citing
        for c in r.citations
        if not c.valid
    ]
    note = f"{sum(good):.0f} of {sum(given):.0f}, in {len(citing)} of {len(responses)} answers"
    value = ratio(good, given)
    interval = wilson(value * len(citing), len(citing))
    return MEASURE.result(value, config.threshold, int(sum(given)), interval, note, {"invalid": wrong})
