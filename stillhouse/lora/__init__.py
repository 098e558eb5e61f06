"""Adapters: LoRA for many users on one base, each row of a batch with its own; PEFT in and out."""

from __future__ import annotations

from .bank import AdapterBank
from .batch import BatchAdapters, Run
from .sites import LoraConfig, Site, check_sites

__all__ = ["AdapterBank", "BatchAdapters", "LoraConfig", "Run", "Site", "check_sites"]
