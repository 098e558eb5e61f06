"""What every gate is given, how it measures, and what comes of all of them: verdict, thresholds, report page."""

from __future__ import annotations

from .context import Context, trained_prompts
from .grounded.corpus import read_corpus
from .grounded.evidence import LabelThresholds
from .grounded.trace import read_trace, trace_target, write_trace
from .measure import DoesNotApply
from .page import AnswerComparison, report
from .run_gates import Config, calibrated, run, settings
from .suite import Suite, read_suite
from .thresholds import (
    Calibration,
    CalibrationTrial,
    calibration_folder,
    failed_gates,
    read_calibration,
    write_calibration,
)

__all__ = [
    "AnswerComparison",
    "Calibration",
    "CalibrationTrial",
    "Config",
    "Context",
    "DoesNotApply",
    "LabelThresholds",
    "Suite",
    "calibrated",
    "calibration_folder",
    "failed_gates",
    "read_calibration",
    "read_corpus",
    "read_suite",
    "read_trace",
    "report",
    "run",
    "settings",
    "trace_target",
    "trained_prompts",
    "write_calibration",
    "write_trace",
]
