"""Stage 4, candidate -> verdict: every gate measures the student by itself, and all of them must pass.

In: a `Candidate`, its digest, and a `Context` in which its adapter sits in a bank slot. Out: a `Verdict`. A file in
this folder without an underscore is a gate: it has a `MEASURE`, a frozen `Config` with a `threshold`, and
`check(candidate, config, ctx) -> GateResult`, or `DoesNotApply` where this model has nothing of the kind. Adding a gate
is adding a file.

It does not know which gates there are, and it stores nothing. A verdict's details quote questions and answers of the
memory, so whoever forgets a user has to forget the verdicts too.
"""

from __future__ import annotations

from ._calibration import Calibration, Trial, calibration_folder, failed_gates, read_calibration, write_calibration
from ._context import Context, trained_prompts
from ._corpus import Corpus, read_corpus
from ._evidence import Limits
from ._measure import DoesNotApply
from ._memories import memory
from ._report import Sample, report
from ._run import Config, calibrated, run, settings
from ._suite import Suite, read_suite
from ._trace import Trace, read_trace, trace_target, write_trace
from ._trials import Plan, calibrate, prepare, trials

__all__ = [
    "Calibration",
    "Config",
    "Context",
    "Corpus",
    "DoesNotApply",
    "Limits",
    "Plan",
    "Sample",
    "Suite",
    "Trace",
    "Trial",
    "calibrate",
    "calibrated",
    "calibration_folder",
    "failed_gates",
    "memory",
    "prepare",
    "read_calibration",
    "read_corpus",
    "read_suite",
    "read_trace",
    "report",
    "run",
    "settings",
    "trace_target",
    "trained_prompts",
    "trials",
    "write_calibration",
    "write_trace",
]
