"""Capture kind `memory`: a teacher with the memory in its context writes signals for a student without it."""

from __future__ import annotations

from .study import Captured, Config, capture, capture_all, check

__all__ = ["Captured", "Config", "capture", "capture_all", "check"]
