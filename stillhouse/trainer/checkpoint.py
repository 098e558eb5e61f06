"""Everything that a run needs to go on, in one safetensors file that is replaced atomically.

In: named tensors and a state that is plain JSON. Out: the file, and the same again from it, to the last bit. The state
stands in the file's metadata and holds the run's key, so that a checkpoint of another run is refused. Weights that are
shared out over processes are written whole, so any number of processes can go on from them.

It does not know what is trained.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import ModelError
from ..storage.files import discard, new_partial, sync_folder, writing
from .ranks import Ranks, put, whole


def save(file: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], key: str, here: Ranks) -> None:
    """Write it. Every process has to call; the first one writes. `StoreError`: it cannot be written."""
    gathered = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if here.first:
            gathered[name] = full.cpu().contiguous()
    if here.first:
        _write(file, gathered, json.dumps({**state, "key": key}))
    here.wait()


def resume(file: Path | None, tensors: Mapping[str, Tensor], key: str) -> dict[str, Any] | None:
    """Puts what a checkpoint holds into `tensors`, in place, and returns its state. None where there is no file, or one
    from before adapters' checkpoints had keys. A tensor that the file does not have stays as it is.

    `ModelError` for a damaged file, and for one of another run.
    """
    if file is None or not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as handle:
            state: dict[str, Any] = json.loads(handle.metadata()["state"])
            if "key" not in state:
                return None
            if state["key"] != key:
                raise ModelError(f"{file}: checkpoint of another run (other signals, settings or student); delete it")
            for name in tensors.keys() & set(handle.keys()):
                put(tensors[name], handle.get_tensor(name))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{file}: checkpoint cannot be read ({error}); delete it to start over") from error
    return state


class Best:
    """The best weights of every slot so far: in a file each beside the checkpoint, or in memory without one."""

    def __init__(self, file: Path | None, key: str, here: Ranks) -> None:
        self.file, self.key, self.here = file, key, here
        self.memory: dict[int, dict[str, Tensor]] = {}

    def keep(self, slot: int, weights: Mapping[str, Tensor]) -> None:
        """These are the best. Every process has to call."""
        if self.file is None:
            self.memory[slot] = {name: whole(tensor).clone() for name, tensor in weights.items()}
        else:
            save(self._of(self.file, slot), weights, {}, self.key, self.here)

    def take(self, slot: int, weights: Mapping[str, Tensor]) -> None:
        """Put the best into `weights`, in place. `ModelError` where their file is gone or damaged."""
        if self.file is None:
            for name, tensor in weights.items():
                put(tensor, self.memory[slot][name])
        elif resume(self._of(self.file, slot), weights, self.key) is None:
            raise ModelError(f"{self._of(self.file, slot)} is gone, the best weights; delete {self.file} to start over")

    def _of(self, file: Path, slot: int) -> Path:
        return file.with_name(f"{file.stem}.best-{slot}{file.suffix}")


def _write(file: Path, tensors: dict[str, Tensor], state: str) -> None:
    partial = new_partial(file.parent)
    try:
        with writing(file), _system_errors():
            save_file(tensors, partial, {"state": state})
            with partial.open("rb") as handle:
                os.fsync(handle.fileno())
            partial.replace(file)
            sync_folder(file.parent)
    finally:
        discard(partial)


@contextmanager
def _system_errors() -> Iterator[None]:
    """Raise an error of the operating system as itself; safetensors gives it as text: `… (os error 28)`."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error ([0-9]+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
