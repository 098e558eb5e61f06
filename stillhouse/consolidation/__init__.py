"""A memory goes the whole way: captured, trained, judged, stored. Also what calibrates and primes a base."""

from __future__ import annotations

from .result import Consolidation
from .run import (
    DEFAULTS,
    OTHERS,
    bank_slot,
    base_title,
    candidates,
    consolidate,
    consolidate_all,
    load_study,
    lora_config,
)
from .settings import Settings, read_settings

__all__ = [
    "DEFAULTS",
    "OTHERS",
    "Consolidation",
    "Settings",
    "bank_slot",
    "base_title",
    "candidates",
    "consolidate",
    "consolidate_all",
    "load_study",
    "lora_config",
    "read_settings",
]
