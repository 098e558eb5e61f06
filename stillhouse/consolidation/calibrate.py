"""Trials: consolidations that are good and consolidations that are sabotaged, each measured by every gate.

In: a model, memories, how many of each. Out: `CalibrationTrial`s. A memory is captured once, and its honest
student trained once, whatever is then done to them: only sabotages that act on what is learned are trained on their
own, those of one memory in one batch. Signals, adapters and trials are files named by the digest of what they came
from, so a killed run is run again and goes on where it was, and several processes may share the work (`prepare`, then
`trials` with some of the jobs each).

It does not know thresholds, users or the store.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from torch import Tensor

from .. import kinds
from ..capture import memory
from ..compute.threads import fastest_threads
from ..config import as_dict
from ..errors import InputError
from ..export import peft
from ..gating.context import Context, trained_prompts
from ..gating.run_gates import run
from ..gating.thresholds import HONEST, Calibration, CalibrationTrial, measurements, revive_trial, thresholds
from ..lora import AdapterBank, LoraConfig
from ..models import Model
from ..records import Candidate, Study, canonical, digest, from_mapping
from ..runners import TorchRunner
from ..signals import DistillArtifact, shards
from ..storage.files import make_folder, write_atomic
from ..text.prompts import PROMPTS_VERSION
from ..train import adapter
from ..work import Work, complete
from . import sabotage
from .sabotage import KINDS, Signals

T = TypeVar("T")
SHARD = "signals.parquet"
OnStep = Callable[[int, str], None]
Tensors = Mapping[str, Tensor]
Job = tuple[int, str]  # number of the memory, sabotage
Place = Callable[[str, Sequence[int]], Path]  # (name, numbers of memories) -> an existing folder for what they became


@dataclass(frozen=True)
class Plan:
    """How many trials are made, and with what settings."""

    good: int = 12
    """Honest consolidations, each of a memory of its own; at least 2."""
    bad: int = 2
    """Consolidations by each sabotage; at least 1."""
    together: int = 4
    """Students that are trained in one batch, at most; at least 1."""
    capture: memory.Config = field(default_factory=memory.Config)
    """How memories are captured."""
    train: adapter.Config = field(default_factory=adapter.Config)
    """How honest students are trained."""

    def __post_init__(self) -> None:
        if self.good < 2 or self.bad < 1 or self.together < 1:
            raise InputError(
                f"{self.good} good, {self.bad} bad, {self.together} together: at least 2, 1 and 1 are needed; a "
                "threshold lies between consolidations of both kinds"
            )

    @property
    def memories(self) -> int:
        """Memories that it takes."""
        return max(self.good, self.bad)

    def jobs(self) -> list[Job]:
        """Every trial, the honest ones first."""
        honest = [(number, HONEST) for number in range(self.good)]
        return honest + [(number, name) for number in range(self.bad) for name in KINDS]

    def batches(self) -> list[list[int]]:
        """The memories whose honest students are trained in one batch; always the same, so that a checkpoint fits."""
        return [
            list(range(start, min(start + self.together, self.good))) for start in range(0, self.good, self.together)
        ]


def prepare(
    model: Model, memories: Sequence[str], plan: Plan, folder: Path, batch: Sequence[int],
    on_step: OnStep = lambda n, note: None, place: Place | None = None,
) -> None:  # fmt: skip
    """Capture and train one of `plan.batches()`; what is done already is not done again."""
    with fastest_threads(model):
        _trials(model, memories, plan, folder, on_step, place).honest(batch)


def trials(
    model: Model, memories: Sequence[str], plan: Plan, folder: Path, on_step: OnStep = lambda n, note: None,
    place: Place | None = None, jobs: Sequence[Job] | None = None,
) -> list[CalibrationTrial]:  # fmt: skip
    """One trial per job (default: all of the plan), in their order. `on_step(1, name)` is told of each.

    `folder` keeps the trials, which are numbers; signals and adapters lie where `place` says, by default there too.
    Raises `InputError` for too few memories, or one that cannot be captured; `StoreError` for a damaged file.
    """
    works = _trials(model, memories, plan, folder, on_step, place)
    with fastest_threads(model):
        return works.all(plan.jobs() if jobs is None else jobs)


def calibrate(model: Model, plan: Plan, trials: Sequence[CalibrationTrial]) -> Calibration:
    """Thresholds from finished trials, with the settings they hold for."""
    about = {"capture": as_dict(plan.capture), "train": adapter.about(model, plan.train)}
    return Calibration(model.fingerprint, model.ref, thresholds(trials), tuple(trials), about)


def _trials(
    model: Model, memories: Sequence[str], plan: Plan, folder: Path, on_step: OnStep, place: Place | None
) -> _Trials:
    if len(memories) < plan.memories:
        raise InputError(f"{len(memories)} memories; {plan.memories} are needed for {plan.good} good, {plan.bad} bad")
    if len(set(memories[: plan.memories])) < plan.memories:
        raise InputError("a memory comes twice; every trial needs one of its own")
    make_folder(folder)

    def beside(name: str, numbers: Sequence[int]) -> Path:
        make_folder(folder / name)
        return folder / name

    plan = replace(plan, train=adapter.resolved(model, plan.train))
    return _Trials(model, memories, plan, folder, on_step, place or beside)


class _Trials:
    """One call: the work of every job, finished or not."""

    def __init__(
        self, model: Model, memories: Sequence[str], plan: Plan, folder: Path, on_step: OnStep, place: Place
    ) -> None:
        self.model, self.memories, self.plan, self.folder = model, memories, plan, folder
        self.on_step, self.place = on_step, place
        self._last: tuple[int, Signals] | None = None

    def all(self, jobs: Sequence[Job]) -> list[CalibrationTrial]:
        """One trial per job, in their order."""
        missing = [job for job in jobs if not self._trial(job).finished]
        needed = {n % self.plan.good for number, _ in missing for n in (number, number + 1, number + 2)}
        for batch in self.plan.batches():
            if needed & set(batch):
                self.honest(batch)
        for number in dict.fromkeys(number for number, name in missing if name and KINDS[name].trained):
            for group in self._groups(number):
                self._train({job: self._trial(job) for job in group}, self._judged)
        return [self._judge(job) for job in jobs]

    def honest(self, batch: Sequence[int]) -> None:
        """Capture these memories and train their honest students in one batch."""
        works = {(number, HONEST): self._adapter(number) for number in batch}
        self._train(works, lambda job, tensors: safetensors.torch.save(dict(tensors)))

    def _groups(self, number: int) -> Iterator[list[Job]]:
        """The sabotaged students of one memory that are trained on their own. Those with equal settings are in one
        batch, `together` at most; always the same ones, so that a checkpoint fits."""
        for way in ("signals", "training"):
            jobs = [(number, name) for name, kind in KINDS.items() if kind.acts_on == way]
            yield from (jobs[i : i + self.plan.together] for i in range(0, len(jobs), self.plan.together))

    def _train(self, works: Mapping[Job, Work[T]], mark: Callable[[Job, Tensors], bytes]) -> None:
        """Train the students of these jobs in one batch, unless all are finished; `mark` says what each leaves."""

        def make(missing: Sequence[Job]) -> Iterator[tuple[Job, bytes]]:
            folder = self._checkpoints(list(works))
            for job, tensors in zip(works, self._fit(list(works), folder), strict=True):
                if job in missing:
                    yield job, mark(job, tensors)
            shutil.rmtree(folder)

        complete(works, make)

    def _judge(self, job: Job) -> CalibrationTrial:
        """A job's trial. Students that need no training of their own are judged now."""
        trial = self._trial(job).once(lambda _: self._judged(job, self._changed(job)))
        self.on_step(1, f"{job[1] or 'honest'} {job[0]}")
        return replace(trial, memory=str(job[0]))

    def _changed(self, job: Job) -> Tensors:
        """The honest adapter that a job is judged with, sabotaged; where the memory is, another memory's."""
        number, name = job
        if name and KINDS[name].acts_on == "memory":
            return self._adapter((number + 1) % self.plan.good).result()
        own = self._adapter(number % self.plan.good).result()
        return KINDS[name].change(own, number) if name else own

    def _judged(self, job: Job, tensors: Tensors) -> bytes:
        """What every gate measures. Another honest adapter, not this memory's, is asked the same for `swap`."""
        number, name = job
        signals, near = self._captured(number), (number + 2) % self.plan.good
        config, spoil = self.plan.train, KINDS[name].study if name else None
        bank = AdapterBank(self.model.network, 2, LoraConfig(config.rank, config.alpha, config.targets, config.experts))
        try:
            about = bank.adapter_config(self.model.ref)
            bank.load(0, tensors, about)
            others = (1,) if near != number % self.plan.good else ()
            if others:
                bank.load(1, self._adapter(near).result(), about)
            study = spoil(signals.study) if spoil else signals.study
            runner, trained = TorchRunner(self.model, bank), trained_prompts(self._spoiled(job))
            ctx = Context(runner, 0, study, others, trained=trained)
            candidate = Candidate("adapter", "calibration", self.model.fingerprint, "", {}, {}, 0, ())
            verdict = run(candidate, digest("calibration"), ctx)
        finally:
            bank.detach()
        return canonical(asdict(CalibrationTrial(str(number), name, measurements(verdict.results))))

    def _spoiled(self, job: Job) -> Sequence[DistillArtifact]:
        """What the student of a job was trained on, as its records would say."""
        signals, spoil = self._captured(job[0]), KINDS[job[1]].spoil if job[1] else None
        return spoil(signals) if spoil else signals.artifacts

    def _fit(self, jobs: Sequence[Job], folder: Path) -> list[Tensors]:
        """One adapter per job, in one batch. Goes on from a checkpoint that a killed run left in `folder`."""
        config, names = self.plan.train, [name for _, name in jobs]
        if names[0] and KINDS[names[0]].acts_on == "training":
            config = sabotage.overtrained(config)
        note = ", ".join(f"{name or 'honest'} {number}" for number, name in jobs)

        def on_step(_: int, text: str) -> None:
            self.on_step(0, f"training {note}: {text}")

        students = adapter.train(self.model, [self._spoiled(job) for job in jobs], config, folder, on_step)
        return [trained.tensors for trained in students]

    def _captured(self, number: int) -> Signals:
        """A memory's signals and study. Only the last one is kept: signals are large."""
        if self._last is None or self._last[0] != number:
            self._last = number, self._signals(number).once(lambda folder: self._capture(number, folder))
        return self._last[1]

    def _capture(self, number: int, folder: Path) -> bytes:
        self.on_step(0, f"capturing memory {number}")
        captured = memory.capture(self.model, self.memories[number], self.plan.capture)
        about = {"base": self.model.fingerprint, "vocabulary": str(self.model.vocabulary)}
        write_atomic(folder / SHARD, shards.write(captured.artifacts, about))
        return canonical(captured.study)

    # ---- works, by what they come from

    def _signals(self, number: int) -> Work[Signals]:
        """The capture of one memory; its mark is the study."""

        def load(study: Path) -> Signals:
            examples, _ = shards.read((study.parent / SHARD).read_bytes())
            return Signals(self.model, tuple(examples), from_mapping(Study, json.loads(study.read_bytes())), number)

        return Work(self._own(number) / "study.json", load)

    def _adapter(self, number: int) -> Work[Tensors]:
        """The honest student of one memory; its mark is the adapter."""
        name = digest(["honest", self._inputs((number, HONEST))])
        return Work(
            self._own(number) / f"{name}.safetensors", lambda mark: peft.from_bytes(mark.read_bytes(), str(mark))
        )

    def _trial(self, job: Job) -> Work[CalibrationTrial]:
        near = self._source((job[0] + 2) % self.plan.good)
        name = digest(["trial", self._inputs(job), near, kinds.names("gate")])
        return Work(self.folder / f"{name}.json", lambda mark: revive_trial(json.loads(mark.read_bytes())))

    def _checkpoints(self, jobs: Sequence[Job]) -> Path:
        """Where the training of these jobs leaves its checkpoint."""
        name = digest(["fit", [self._inputs(job) for job in jobs]])
        return self.place(name, sorted({number for number, _ in jobs}))

    def _own(self, number: int) -> Path:
        """Where one memory's signals and honest adapter lie, with the memory's digest, which whoever forgets it
        looks for."""
        folder = self.place(digest(["signals", self._source(number)]), [number])
        note = folder / "memory.json"
        if not note.exists():
            write_atomic(note, canonical({"memory": self._source(number)["memory"]}))
        return folder

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
        return {
            **self._source(number), "train": adapter.about(self.model, self.plan.train), "sabotage": name,
            "near": sources, "about": KINDS[name].about if name else "",
        }  # fmt: skip
