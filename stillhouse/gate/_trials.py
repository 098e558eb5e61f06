"""Trials: consolidations that are good and consolidations that are sabotaged, each measured by every gate.

In: a model, memories, how many of each. Out: `Trial`s to calibrate on. Honest students come first, several in one
batch; then the sabotaged ones, trained where their sabotage needs it. Every signal, honest adapter and trial is a file
named by the digest of what it came from, so a killed run is run again and goes on where it was.

It does not know thresholds, users or the store.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from stillhouse import artifacts, kinds
from stillhouse.artifacts import DistillArtifact
from stillhouse.blobs import make_folder, write_atomic
from stillhouse.capture import memory as teacher
from stillhouse.chat import PROMPTS_VERSION
from stillhouse.config import as_dict
from stillhouse.errors import InputError
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model
from stillhouse.records import Candidate, Study, canonical, digest, from_mapping
from stillhouse.train import adapter as student

from . import _sabotage
from ._calibration import HONEST, Calibration, Trial, measured, revive_trial, thresholds
from ._context import Context, trained_prompts
from ._run import run
from ._sabotage import KINDS, Signals

OnStep = Callable[[int, str], None]
Tensors = Mapping[str, Tensor]
Job = tuple[int, str]  # number of the memory, sabotage


@dataclass(frozen=True)
class Plan:
    """How many honest consolidations, how many of each sabotage, and with what settings; `together` are trained in one
    batch."""

    good: int = 12
    bad: int = 2
    together: int = 4
    capture: teacher.Config = field(default_factory=teacher.Config)
    train: student.Config = field(default_factory=student.Config)

    def __post_init__(self) -> None:
        if self.good < 2 or self.bad < 1 or self.together < 1:
            raise InputError(
                f"{self.good} good, {self.bad} bad, {self.together} together: at least 2, 1 and 1 are needed; a "
                "threshold lies between consolidations of both kinds"
            )

    @property
    def memories(self) -> int:
        """How many memories it takes."""
        return max(self.good, self.bad)

    def jobs(self) -> list[Job]:
        """Every trial, the honest ones first."""
        honest = [(number, HONEST) for number in range(self.good)]
        return honest + [(number, name) for number in range(self.bad) for name in KINDS]


def trials(
    model: Model, memories: Sequence[str], plan: Plan, folder: Path, on_step: OnStep = lambda n, note: None
) -> list[Trial]:
    """One trial per job of the plan, in its order. `on_step(1, name)` is told of each.

    `folder` keeps what is done. Raises `InputError` for too few memories, or one that cannot be captured.
    """
    if len(memories) < plan.memories:
        raise InputError(f"{len(memories)} memories; {plan.memories} are needed for {plan.good} good, {plan.bad} bad")
    if len(set(memories[: plan.memories])) < plan.memories:
        raise InputError("a memory comes twice; every trial needs one of its own")
    make_folder(folder)
    return _Work(model, memories, plan, folder, on_step).all()


def calibrate(model: Model, plan: Plan, found: Sequence[Trial]) -> Calibration:
    """Thresholds from finished trials, with the settings they hold for."""
    about = {"capture": as_dict(plan.capture), "train": as_dict(plan.train)}
    return Calibration(model.fingerprint, model.ref, thresholds(found), tuple(found), about)


def forget_memories(folder: Path) -> None:
    """Remove every signal and adapter of finished trials; what the gates measured stays."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix == ".safetensors":
            path.unlink()


class _Work:
    """One call: what is on disk, and what is still to do."""

    def __init__(self, model: Model, memories: Sequence[str], plan: Plan, folder: Path, on_step: OnStep):
        self.model, self.memories, self.plan, self.folder, self.on_step = model, memories, plan, folder, on_step
        self._signals: dict[int, Signals] = {}

    def all(self) -> list[Trial]:
        jobs = self.plan.jobs()
        if any(not self._file(job).exists() for job in jobs):
            self._honest([number for number, name in jobs if name == HONEST])
        trained = [job for job in jobs if job[1] != HONEST and KINDS[job[1]].acts_on in ("signals", "training")]
        for group in self._groups([job for job in trained if not self._file(job).exists()]):
            for job, tensors in zip(group, self._train(group), strict=True):
                self._judge(job, tensors)
        return [self._trial(job) for job in jobs]

    def _trial(self, job: Job) -> Trial:
        """From its file, or judged now: students that need no training of their own."""
        if not self._file(job).exists():
            self._judge(job, self._changed(job))
        found = revive_trial(json.loads(self._file(job).read_bytes()))
        self.on_step(1, f"{job[1] or 'honest'} {job[0]}")
        return found

    def _changed(self, job: Job) -> Tensors:
        number, name = job
        own = self._adapter(number % self.plan.good)
        if name == HONEST:
            return own
        if KINDS[name].acts_on == "judging":
            return self._adapter((number + 1) % self.plan.good)
        return _sabotage.ADAPTERS[name](own, number)

    def _judge(self, job: Job, tensors: Tensors) -> None:
        """Measure with every gate. Another honest adapter, not this memory's, is asked the same for `swap`."""
        number, name = job
        signals, other = self._captured(number), self._adapter((number + 2) % self.plan.good)
        config = self.plan.train
        bank = AdapterBank(self.model.network, 2, LoraConfig(config.rank, config.alpha, config.targets, config.experts))
        try:
            about = bank.adapter_config(self.model.ref)
            bank.load(0, tensors, about)
            others = (1,) if (number + 2) % self.plan.good != number % self.plan.good else ()
            if others:
                bank.load(1, other, about)
            trained = trained_prompts(self._spoiled(job))
            ctx = Context(self.model, bank, 0, signals.study, others, trained=trained)
            verdict = run(_candidate(self.model), digest("calibration"), ctx)
        finally:
            bank.detach()
        found = Trial(digest(self.memories[number].encode()), name, measured(verdict.results))
        write_atomic(self._file(job), canonical(asdict(found)))

    def _spoiled(self, job: Job) -> Sequence[DistillArtifact]:
        """What the student of a job was trained on, as its records would say."""
        signals, spoil = self._captured(job[0]), KINDS[job[1]].spoil if job[1] else None
        return spoil(signals) if spoil else signals.artifacts

    def _honest(self, numbers: Sequence[int]) -> None:
        for group in self._groups([(n, HONEST) for n in numbers if not self._adapter_file(n).exists()]):
            for (number, _), tensors in zip(group, self._train(group), strict=True):
                write_atomic(self._adapter_file(number), safetensors.torch.save(dict(tensors)))

    def _groups(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Jobs that can be trained in one batch: the same settings, `together` at most."""
        over = [j for j in jobs if j[1] and KINDS[j[1]].acts_on == "training"]
        plain = [j for j in jobs if j not in over]
        size = self.plan.together
        return [part[i : i + size] for part in (plain, over) for i in range(0, len(part), size)]

    def _train(self, group: Sequence[Job]) -> list[Tensors]:
        """One adapter per job. Goes on from a checkpoint that a killed run left."""
        config = self.plan.train
        if group[0][1] and KINDS[group[0][1]].acts_on == "training":
            config = _sabotage.overtrained(config)
        work = self.folder / digest(["fit", as_dict(config), [self._inputs(job) for job in group]])
        make_folder(work)
        note = ", ".join(f"{name or 'honest'} {number}" for number, name in group)

        def on_step(_: int, said: str) -> None:
            self.on_step(0, f"training {note}: {said}")

        found = student.train(self.model, [self._spoiled(job) for job in group], config, work, on_step)
        shutil.rmtree(work)
        return [trained.tensors for trained in found]

    def _adapter(self, number: int) -> Tensors:
        return safetensors.torch.load_file(self._adapter_file(number))

    def _captured(self, number: int) -> Signals:
        if number not in self._signals:
            folder = self.folder / digest(["signals", self._source(number)])
            shard, study = folder / "signals.parquet", folder / "study.json"
            if not study.exists():
                self.on_step(0, f"capturing memory {number}")
                found = teacher.capture(self.model, self.memories[number], self.plan.capture)
                make_folder(folder)
                about = {"base": self.model.fingerprint, "vocabulary": str(self.model.vocabulary)}
                write_atomic(shard, artifacts.write(found.artifacts, about))
                write_atomic(study, canonical(found.study))
            examples, _ = artifacts.read(shard.read_bytes())
            revived = from_mapping(Study, json.loads(study.read_bytes()))
            self._signals[number] = Signals(self.model, tuple(examples), revived, number)
        return self._signals[number]

    def _source(self, number: int) -> dict[str, Any]:
        """What a memory's signals come from."""
        return {
            "memory": digest(self.memories[number].encode()), "base": self.model.fingerprint,
            "capture": as_dict(self.plan.capture), "prompts": PROMPTS_VERSION,
        }  # fmt: skip

    def _inputs(self, job: Job) -> dict[str, Any]:
        """What a job's student comes from."""
        number, name = job
        sources = [self._source(n % self.plan.good) for n in (number, number + 1, number + 2)] if name else []
        return {**self._source(number), "train": as_dict(self.plan.train), "sabotage": name, "near": sources}

    def _file(self, job: Job) -> Path:
        near = self._source((job[0] + 2) % self.plan.good)
        return self.folder / f"{digest(['trial', self._inputs(job), near, kinds.names('gate')])}.json"

    def _adapter_file(self, number: int) -> Path:
        return self.folder / f"{digest(['honest', self._inputs((number, HONEST))])}.safetensors"


def _candidate(model: Model) -> Candidate:
    return Candidate("adapter", "calibration", model.fingerprint, "", {}, {}, 0, ())
