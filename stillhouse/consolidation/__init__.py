"""A memory goes the whole way: captured, trained, judged, stored. Also what calibrates and primes a base."""

from __future__ import annotations

from .capture import load_study
from .judge import bank_slot, in_context, lora_config, neighbours
from .result import Consolidation
from .run import DEFAULTS, candidates, consolidate, consolidate_all
from .settings import Settings, read_settings
from .version import base_title, calibration_of, read_report

__all__ = [
    "DEFAULTS",
    "Consolidation",
    "Settings",
    "bank_slot",
    "base_title",
    "calibration_of",
    "candidates",
    "consolidate",
    "consolidate_all",
    "in_context",
    "load_study",
    "lora_config",
    "neighbours",
    "read_report",
    "read_settings",
]
