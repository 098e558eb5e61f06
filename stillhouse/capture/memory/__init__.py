"""Capture kind `memory`: a teacher with the memory in its context writes signals for a student without it."""

from __future__ import annotations

from .settings import Config
from .study import CapturedMemory, capture, capture_all, check

__all__ = ["CapturedMemory", "Config", "capture", "capture_all", "check"]
