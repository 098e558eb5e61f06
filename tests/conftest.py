"""What holds for every test: no network for models, fixed seeds, hypothesis without a clock or a database; and the
models that several folders of tests share."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported anywhere
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same rounding on every machine
os.environ.setdefault("STILLHOUSE_MODELS", str(Path(__file__).parents[1] / "build" / "models"))  # where make puts them

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: what tests start has to hear Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from stillhouse.models import Model
    from tests.commands import Commands
    from tests.consolidated import Consolidated

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


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of a real small chat model, which `make setup` fetches; where there is none the test is skipped."""
    from stillhouse.weights.places import find

    folder = find("smollm2", None)
    if folder is None:
        pytest.skip("smollm2 is not fetched: stillhouse models fetch smollm2")
    return folder


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """`random_model("llama", template=…, bos=…)`: a small random-weight model of a real class, loaded once."""
    from stillhouse import models
    from tests import architectures, tokenizers

    made: dict[tuple[str, str | None, bool], Model] = {}

    def make(name: str, template: str | None = tokenizers.WITH_SYSTEM, bos: bool = False) -> Model:
        if (name, template, bos) not in made:
            network = architectures.ALL[name](tokenizers.VOCABULARY)
            folder = tokenizers.save(tmp_path_factory.mktemp(name), network, template, bos)
            made[name, template, bos] = models.load(str(folder), device="cpu")
        return made[name, template, bos]

    return make


@pytest.fixture(scope="session")
def shipped() -> Model:
    """The model that ships, loaded once."""
    from stillhouse import models

    return models.load(device="cpu")


@pytest.fixture(scope="session")
def consolidated(shipped: Model, tmp_path_factory: pytest.TempPathFactory) -> Consolidated:
    """A memory consolidated once, with every default, by the model that ships: by whichever of the test processes wants
    it first. The others find its result in the home, as the same command again does."""
    from stillhouse.storage.locks import locked
    from tests.consolidated import make

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with locked(shared / "consolidated.lock", "the memory that tests share", wait=300):
        return make(shipped, shared / "consolidated")


@pytest.fixture(scope="session")
def commands(shipped: Model) -> Iterator[Commands]:
    """The command line in processes of its own, with the shipped model."""
    from tests.commands import Commands

    server = Commands(shipped.path)
    yield server
    server.close()
