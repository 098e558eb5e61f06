"""What came of one student: the record, its folder and its report, written once and read back.

In: a trained model or an adapter, measurements before and after, answers side by side. Out: `model/` (a Hugging Face
folder) or `adapter/` (PEFT's), `report.html` and `report.json`. The latter comes last: a folder with one is finished.

It does not know how a student is trained.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import as_dict
from ..export import peft
from ..models import Model
from ..records import canonical, from_mapping
from ..storage.files import write_atomic
from ..train import full
from .evaluate import Lengths, Measured
from .report import Sample, report
from .student import write_folder

REPORT = "report.json"


@dataclass(frozen=True)
class Distilled:
    """One student, or its specialist of one domain: where it is, and how near its teacher before and after, on
    held-out signals."""

    name: str
    folder: Path
    steps: int
    before: Measured
    after: Measured
    parameters: int
    teacher_parameters: int
    same_tokens: bool
    skipped: int
    lengths: Lengths
    domain: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return as_dict(self) | {"folder": str(self.folder)}


def write(done: Distilled, losses: Sequence[float], samples: Sequence[Sample], about: Mapping[str, Any]) -> None:
    """The report in `done.folder`. `about`: the settings and where the signals lie."""
    found = done.as_dict() | dict(about)
    found |= {"losses": [round(x, 5) for x in losses], "samples": [as_dict(s) for s in samples]}
    write_atomic(done.folder / "report.html", report(found).encode())
    write_atomic(done.folder / REPORT, canonical(found))


def read(folder: Path) -> list[Distilled]:
    """A student that is finished: itself, or its specialists."""
    raw = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    if "domains" in raw:
        return [one for domain in raw["domains"] for one in read(folder / domain["folder"])]
    parts: dict[str, Any] = {side: from_mapping(Measured, raw[side]) for side in ("before", "after")}
    parts |= {"lengths": from_mapping(Lengths, raw["lengths"]), "folder": folder}
    return [Distilled(**({f: raw[f] for f in Distilled.__dataclass_fields__} | parts))]


def write_weights(folder: Path, model: Model, trained: full.Trained, slot: int = 0) -> None:
    """The model as a Hugging Face folder, or the adapter in `slot` as a PEFT folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made = trained.adapter(str(model.path), slot)
    if made is None:
        shutil.rmtree(folder / "model", ignore_errors=True)
        write_folder(folder / "model", model.network, model.tokenizer)
        return
    peft.write(folder / "adapter", *made)
