"""Capture kind `prompts`: a teacher writes signals on a data set, once for many students."""

from __future__ import annotations

from ...teachers.examples import Example
from ...teachers.settings import Config, Positions
from .dataset import ABOUT, Captured, capture, load

__all__ = ["ABOUT", "Captured", "Config", "Example", "Positions", "capture", "load"]
