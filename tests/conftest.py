"""What holds for every test: no network for models, fixed seeds, hypothesis without a clock or a database."""

from __future__ import annotations

import os
import random
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported anywhere
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from hypothesis import settings

settings.register_profile("stillhouse", derandomize=True, deadline=None, database=None, max_examples=200)
settings.load_profile("stillhouse")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in every test, whichever ran before."""
    random.seed(0)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(0)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)
