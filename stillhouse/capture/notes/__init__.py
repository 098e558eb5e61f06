"""Capture kind `notes`: notes with questions written by hand become signals that teach a base the trade."""

from __future__ import annotations

from .lessons import Lesson, Task, lessons_of
from .settings import Config
from .signals import artifacts

__all__ = ["Config", "Lesson", "Task", "artifacts", "lessons_of"]
