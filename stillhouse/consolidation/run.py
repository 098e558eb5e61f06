"""The pipeline of a user's memory into weights: capture -> train -> gate -> store, each stage once.

In: users with their memories, a model reference, a home folder. Out: one `Consolidation` per user. The digest of a
stage's inputs names its output, so a killed run is simply run again and goes on where it was; users given together are
trained in one batch.

It holds no state of its own: everything is in the store.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import safetensors.torch

from .. import gating, kinds, models, runners
from ..capture import memory as capture_memory
from ..compute.allocator import kept_memory
from ..compute.threads import fastest_threads
from ..config import as_dict
from ..errors import InputError, ModelError
from ..export import peft
from ..gating import AnswerComparison, report
from ..inputs import MAX_MEMORY_BYTES, check_memory, home_folder
from ..lora import AdapterBank, LoraConfig
from ..models import Model
from ..progress import Audience, Step, progress
from ..records import Candidate, Signals, Statement, Study, Verdict, Version, canonical, digest, from_mapping
from ..signals import shards
from ..storage.files import write_atomic
from ..store import Store
from ..text.prompts import PROMPTS_VERSION, with_memory, without_memory
from ..text.statements import statements
from ..train import adapter as train_adapter
from .remedies import follow
from .result import Consolidation, Try, model_card, samples
from .settings import Settings
from .sharding import Shares, processes

R = TypeVar("R")
DEFAULTS = Settings()
STAGES = ("capture", "train", "gate")
OTHERS = 4  # other users' champions that the swap gate asks


def consolidate(
    user: str, memory: str, *, model: str | Model = models.DEFAULT, home: Path | str | None = None,
    settings: Settings = DEFAULTS, show: Audience = False, diagnose: bool = False,
) -> Consolidation:  # fmt: skip
    """Turn `memory` (text) into a private adapter of `user`, gate it, and make it the user's champion if it passes.

    With `diagnose`, what the failed gates' remedies say is tried in turn, until one is approved: at most five more
    candidates, each a version with its own verdict and report. The result is the approved one, or else the one that the
    fewest gates refuse; its `tries` are all of them. `show`: who sees progress (`progress.Audience`).
    """
    return consolidate_all({user: memory}, model=model, home=home, settings=settings, show=show, diagnose=diagnose)[0]


def consolidate_all(
    memories: Mapping[str, str], *, model: str | Model = models.DEFAULT, home: Path | str | None = None,
    settings: Settings = DEFAULTS, show: Audience = False, diagnose: bool = False, workers: int = 1,
) -> list[Consolidation]:  # fmt: skip
    """The same for several users, trained together in batches; results in the order given.

    `workers` processes share the users (0: as many as cores and memory allow), where `model` is a reference.
    Raises `InputError` (user id, memory), `ModelError`, `Busy` when a user is being consolidated elsewhere.
    """
    gating.settings(settings.gate)  # a mistake in the last stage's settings is said before the first
    with _opened(memories, model, home, settings, show) as run:
        run.shared(STAGES, 1 if isinstance(model, Model) else workers)
        results = run.all()

        def again(remedy: str, changed: Settings, before: Mapping[str, tuple[Try, ...]]) -> list[Consolidation]:
            some = {user: run.memories[user] for user in before}
            return _Run(run.store, run.model, changed, some, show, remedy, before).all()

        return follow(results, run.settings, again) if diagnose else results


def candidates(
    memories: Mapping[str, str], *, model: str | Model = models.DEFAULT, home: Path | str | None = None,
    settings: Settings = DEFAULTS, show: Audience = False, workers: int = 1, note: str = "",
) -> dict[str, Candidate]:  # fmt: skip
    """Captured and trained, but not gated: candidates by user; their adapters are blobs of `home`. `note` stands in the
    progress."""
    with _opened(memories, model, home, settings, show, note) as run:
        run.shared(("capture", "train"), 1 if isinstance(model, Model) else workers)
        return run.trained()


@contextmanager
def _opened(
    memories: Mapping[str, str], model: str | Model, home: Path | str | None, settings: Settings, show: Audience,
    note: str = "",
) -> Iterator[_Run]:  # fmt: skip
    """A run that holds its users' locks, with the settings as they are for this home and model."""
    if not memories:
        raise InputError("no memory given: at least one user with a memory is needed")
    memories = {user: _stated(user, text) for user, text in memories.items()}
    store = Store(home_folder(home))
    with ExitStack() as stack:
        stack.enter_context(kept_memory())
        for user in sorted(memories):
            stack.enter_context(store.lock(user))
        base = model if isinstance(model, Model) else models.load(model, cache=store.home / "fingerprints.json")
        stack.enter_context(fastest_threads(base))
        train = train_adapter.resolved(base, settings.train)
        judged = replace(settings, train=train, gate=gating.calibrated(store.home, base.fingerprint, settings.gate))
        yield _Run(store, base, judged, memories, show, note)


def share(
    model: Model, home: Path, settings: Settings, memories: Mapping[str, str], users: Sequence[str], stage: str,
    step: Step,
) -> None:  # fmt: skip
    """One of `STAGES` for some users of a run, after the stages before it for all `memories`; `step` is told as a bar
    is. What it makes is in the store; whoever calls holds the users' locks."""
    _Run(Store(home), model, settings, memories, False, step=step).stage(stage, users)


def _stated(user: str, text: str) -> str:
    """The text of a memory that states something, whoever read it."""
    try:
        memory = check_memory(text.encode(), f"memory of {user!r}")
    except UnicodeEncodeError as error:
        raise InputError(f"memory of {user!r}: no Unicode text at character {error.start}; decode it first") from error
    if len(memory) <= MAX_MEMORY_BYTES and not statements(memory):
        raise InputError(f"memory of {user!r} states nothing: no sentence of three words or more in it")
    return memory


def base_name(model: Model) -> str:
    """How an adapter names its base: the hub id, or the folder's absolute path."""
    return model.ref if not (model.ref == models.DEFAULT or Path(model.ref).exists()) else str(model.path)


def base_title(ref: str) -> str:
    """How a base is called in a report: the hub id, or the folder's own name."""
    return Path(ref).name if Path(ref).is_absolute() else ref


class _Run:
    """One call: the stages with their caches, and the clock. `before`: what was tried for each user until now."""

    def __init__(
        self, store: Store, model: Model, settings: Settings, memories: Mapping[str, str], show: Audience,
        remedy: str = "", before: Mapping[str, tuple[Try, ...]] = MappingProxyType({}), step: Step | None = None,
    ):  # fmt: skip
        self.store, self.model, self.settings, self.memories = store, model, settings, memories
        self.show, self.before, self._step = show, before, step
        self.remedy, self.label = remedy, f" ({remedy})" if remedy else ""
        self.seconds: dict[str, float] = {}
        self.train_about = train_adapter.about(model, settings.train)

    def stage(self, stage: str, users: Sequence[str]) -> None:
        """One stage for some users, with what the stages before it left in the store for all."""
        wanted = users if stage != "gate" else self.memories
        signals = self._capture({user: self.memories[user] for user in wanted})
        if stage != "capture":
            candidates = self._train(signals)
        if stage == "gate":
            for user in users:
                self._judge(user, self.memories[user], signals[user], candidates)

    def shared(self, stages: Sequence[str], workers: int) -> None:
        """The same for all users by as many processes as `workers` says; nothing where one does it all."""
        count = processes(self.model, len(self.memories), workers)
        if count < 2:
            return

        def own(stage: str, users: Sequence[str], step: Step) -> None:
            share(self.model, self.store.home, self.settings, self.memories, users, stage, step)

        with Shares(self.store.home, self.model.ref, self.settings, self.memories, count, own) as shares:
            steps = train_adapter.total_steps(shares.sizes, self.settings.train, self.model.device)
            gates = len(self.memories) * len(gating.settings(self.settings.gate))
            totals = {"capture": None, "train": steps, "gate": gates}
            for stage in stages:
                with self._progress(stage, totals[stage], f"{len(self.memories)} users") as step:
                    self._timed(stage, partial(shares.run, stage, step))

    def all(self) -> list[Consolidation]:
        """All stages for all users; what is in the store already is taken from there."""
        signals = self._timed("capture", partial(self._capture, self.memories))
        candidates = self._timed("train", partial(self._train, signals))
        judged = {
            user: self._timed("gate", partial(self._judge, user, text, signals[user], candidates))
            for user, text in self.memories.items()
        }
        return [self._result(user, version, signals[user]) for user, version in judged.items()]

    def trained(self) -> dict[str, Candidate]:
        """The first two of them."""
        return self._train(self._capture(self.memories))

    def _timed(self, stage: str, work: Callable[[], R]) -> R:
        start = time.monotonic()
        try:
            return work()
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - start

    @contextmanager
    def _progress(self, stage: str, total: int | None, user: str = "") -> Iterator[Step]:
        if self._step is not None:
            yield self._step
            return
        with progress(stage, total, self.show, user=f"{user}{self.label}".strip()) as step:
            yield step

    def _once(self, kind: type[R], users: Sequence[str], inputs: dict[str, Any], make: Callable[[], R]) -> R:
        """The record that these inputs gave before, or `make()` it and remember."""
        found = self._noted(kind, users, inputs)
        if found is not None:
            return found
        record = make()
        write_atomic(self._note(users, inputs), canonical({"digest": self.store.put(record)}))
        return record

    def _noted(self, kind: type[R], users: Sequence[str], inputs: dict[str, Any]) -> R | None:
        """The record that these inputs gave before."""
        note = self._note(users, inputs)
        return self.store.get(kind, json.loads(note.read_text())["digest"]) if note.exists() else None

    def _note(self, users: Sequence[str], inputs: dict[str, Any]) -> Path:
        return self.store.work(digest(inputs), users) / "result.json"

    def _capture(self, memories: Mapping[str, str]) -> dict[str, Signals]:
        """Every user's signals. Those that are not there yet are captured together, and kept as each is done."""
        config = as_dict(self.settings.capture)
        inputs = {
            user: {
                "stage": "capture", "user": user, "memory": digest(text.encode()), "base": self.model.fingerprint,
                "config": config, "prompts": PROMPTS_VERSION,
            } for user, text in memories.items()
        }  # fmt: skip
        noted = {user: self._noted(Signals, [user], inputs[user]) for user in memories}
        found = {user: signals for user, signals in noted.items() if signals is not None}
        missing = [user for user in memories if user not in found]
        if missing:
            for user, captured in self._captured({user: memories[user] for user in missing}):
                made = partial(self._signals, user, memories[user], captured, config)
                found[user] = self._once(Signals, [user], inputs[user], made)
        return {user: found[user] for user in memories}

    def _captured(self, memories: Mapping[str, str]) -> Iterator[tuple[str, capture_memory.CapturedMemory]]:
        users, settings = list(memories), self.settings.capture
        count = sum(len(self._checked(user, text)) for user, text in memories.items())
        whose = users[0] if len(users) == 1 else f"{len(users)} users"
        with self._progress("capture", count, whose) as step:
            for number, found in capture_memory.capture_all(self.model, list(memories.values()), settings, step):
                yield users[number], found

    def _checked(self, user: str, text: str) -> Sequence[Statement]:
        try:
            return capture_memory.check(self.model, text, self.settings.capture)
        except InputError as error:
            raise InputError(f"user {user!r}: {error}") from error

    def _signals(self, user: str, text: str, found: capture_memory.CapturedMemory, config: dict[str, Any]) -> Signals:
        prompts, blobs = str(PROMPTS_VERSION), self.store.blobs
        about = {"base": self.model.fingerprint, "vocabulary": str(self.model.vocabulary), "prompts": prompts}
        return Signals(
            user=user,
            memory=blobs.put(text.encode()),
            base=self.model.fingerprint,
            shard=blobs.put(shards.write(found.artifacts, about)),
            study=blobs.put(canonical(found.study)),
            config=config,
            examples=len(found.artifacts),
            positions=sum(len(a.targets) for a in found.artifacts),
            memory_tokens=found.memory_tokens,
        )

    def _train(self, signals: Mapping[str, Signals]) -> dict[str, Candidate]:
        about = {"stage": "train", "kind": "adapter", "config": self.train_about}
        keys = {u: about | {"signals": digest(s)} for u, s in signals.items()}
        done = {u: self.store.work(digest(k), [u]) / "result.json" for u, k in keys.items()}
        missing = [u for u in signals if not done[u].exists()]
        if missing and train_adapter.checkpoints(self._fit_folder(list(signals.values()))):
            missing = list(signals)  # killed between two users' candidates: the end of that run is on disk
        trained = self._new_adapters([signals[u] for u in missing]) if missing else []
        fresh = dict(zip(missing, trained, strict=True))
        found = {
            u: self._once(Candidate, [u], keys[u], partial(self._candidate, s, fresh.get(u)))
            for u, s in signals.items()
        }
        for file in train_adapter.checkpoints(self._fit_folder([signals[u] for u in missing])) if missing else []:
            file.unlink()
        return found

    def _fit_folder(self, signals: Sequence[Signals]) -> Path:
        """Where these users' training goes on from after a kill."""
        inputs = ["fit", self.train_about, *map(digest, signals)]
        return self.store.work(digest(inputs), [s.user for s in signals])

    def _new_adapters(self, signals: Sequence[Signals]) -> list[train_adapter.Trained]:
        read = [shards.read(self.store.blobs.get(s.shard))[0] for s in signals]
        work = self._fit_folder(signals)
        steps = train_adapter.total_steps([len(signals)], self.settings.train, self.model.device)
        with self._progress("train", steps) as step:
            return train_adapter.train(self.model, read, self.settings.train, work, step)

    def _candidate(self, signals: Signals, trained: train_adapter.Trained | None) -> Candidate:
        assert trained is not None, "a candidate that was not found was trained"
        return Candidate(
            kind="adapter",
            user=signals.user,
            base=self.model.fingerprint,
            adapter=self.store.blobs.put(peft.to_bytes(trained.tensors)),
            adapter_config=trained.adapter_config | {"base_model_name_or_path": base_name(self.model)},
            config=self.train_about,
            steps=trained.steps,
            losses=tuple(round(x, 5) for x in trained.losses),
            parents=(digest(signals),),
        )

    def _judge(self, user: str, text: str, signals: Signals, candidates: Mapping[str, Candidate]) -> Version:
        candidate = candidates[user]
        others = self._others(user, candidates)
        inputs = {
            "stage": "gate", "candidate": digest(candidate), "config": as_dict(self.settings.gate),
            "others": [digest(c) for c in others], "gates": kinds.names("gate"),
        }  # fmt: skip
        made = self._noted(Verdict, [user], inputs)
        version = self._version(candidate, made) if made is not None else None
        if version is not None:
            return version
        study = load_study(self.store, signals)
        bank = AdapterBank(self.model.network, 1 + len(others), lora_config(candidate))
        try:
            slots = [bank_slot(self.store, bank, slot, c) for slot, c in enumerate([candidate, *others])]
            taken = tuple(s for s in slots[1:] if s is not None)
            trained = gating.trained_prompts(shards.read(self.store.blobs.get(signals.shard))[0])
            ctx = gating.Context(runners.TorchRunner(self.model, bank), 0, study, others=taken, trained=trained)
            verdict = self._once(Verdict, [user], inputs, partial(self._new_verdict, user, candidate, ctx))
            return self._save(text, signals, candidate, verdict, ctx)
        finally:
            bank.detach()

    def _others(self, user: str, candidates: Mapping[str, Candidate]) -> list[Candidate]:
        """Up to `OTHERS` adapters of other users on this base: this run's first, then champions."""
        found = [c for u, c in candidates.items() if u != user]
        for other in self.store.users():
            if len(found) >= OTHERS or other in candidates:
                continue
            champion = self.store.champion(other)
            if champion is not None and champion.base == self.model.fingerprint:
                found.append(self.store.get(Candidate, champion.candidate))
        return found[:OTHERS]

    def _new_verdict(self, user: str, candidate: Candidate, ctx: gating.Context) -> Verdict:
        with self._progress("gate", len(gating.settings(self.settings.gate)), user) as step:
            return gating.run(candidate, digest(candidate), ctx, self.settings.gate, lambda name: step(1, name))

    def _save(
        self, text: str, signals: Signals, candidate: Candidate, verdict: Verdict, ctx: gating.Context
    ) -> Version:
        """The version this candidate and verdict have, or a new one."""
        version = self._version(candidate, verdict)
        if version is not None:
            return version
        user = candidate.user
        found = samples(ctx)
        parents = (digest(candidate), digest(verdict), digest(signals), signals.memory)
        facts = {
            "user": user, "base": f"{base_title(self.model.ref)} ({self.model.fingerprint[:12]})",
            "memory": f"{signals.memory_tokens} tokens, {len(ctx.study.statements)} statements",
            "signals": f"{signals.examples} examples, {signals.positions} positions ({digest(signals)[:12]})",
            "training": f"{candidate.steps} steps, rank {candidate.config['rank']}",
        }  # fmt: skip
        tries = [as_dict(t) for t in self.before.get(user, ())]
        if tries:
            failed = [r.gate for r in verdict.results if not r.passed]
            tries.append(as_dict(Try(self.remedy, "", {}, 0, verdict.passed, tuple(failed))))
        page = report(
            verdict, candidate, ctx.study, text, found, candidate.losses, facts, self._calibration(verdict),
            tries,
        )  # fmt: skip
        files = {
            "adapter_config.json": json.dumps(candidate.adapter_config, indent=2, sort_keys=True).encode(),
            "adapter_model.safetensors": self.store.blobs.get(candidate.adapter),
            "gate_report.json": json.dumps(
                as_dict(verdict) | {"samples": [as_dict(s) for s in found], "tries": tries},
                indent=1,
                ensure_ascii=False,
            ).encode(),
            "gate_report.html": page.encode(),
            "README.md": model_card(candidate, verdict).encode(),
        }
        return self.store.save_version(candidate, verdict, files, base_name(self.model), parents)

    def _version(self, candidate: Candidate, verdict: Verdict) -> Version | None:
        """The version this candidate and verdict have. An approved one becomes the champion again."""
        user = candidate.user
        for version in self.store.versions(user):
            if (version.candidate, version.verdict) == (digest(candidate), digest(verdict)):
                champion = self.store.champion(user)
                if version.approved and (champion is None or champion.number != version.number):
                    self.store.promote(user, version.number, "consolidated again")
                return version
        return None

    def _calibration(self, verdict: Verdict) -> gating.Calibration | None:
        """The calibration that this verdict was taken with, for the report's scales."""
        found = gating.read_calibration(self.store.home, self.model.fingerprint)
        return found if found is not None and found.digest == verdict.config.get("calibrated_by") else None

    def _result(self, user: str, version: Version, signals: Signals) -> Consolidation:
        folder = self.store.version_dir(user, version.number)
        written = json.loads((folder / "gate_report.json").read_text(encoding="utf-8"))
        return Consolidation(
            user, version, folder, self.store.get(Verdict, version.verdict), load_study(self.store, signals),
            tuple(from_mapping(AnswerComparison, s) for s in written["samples"]), signals.memory_tokens,
            self._saved(self.store.blobs.get(signals.memory).decode()), dict(self.seconds),
        )  # fmt: skip

    def _saved(self, memory: str) -> int:
        return len(self.model.chat_ids(with_memory(memory, "?"))) - len(self.model.chat_ids(without_memory("?")))


def lora_config(candidate: Candidate) -> LoraConfig:
    """The shape of a candidate's adapter."""
    names = ("rank", "alpha", "targets", "experts")
    return LoraConfig(**{name: candidate.config[name] for name in names})


def bank_slot(store: Store, bank: AdapterBank, slot: int, candidate: Candidate) -> int | None:
    """Load a candidate's adapter into `slot`; None where an older adapter does not fit this bank's shape."""
    tensors = safetensors.torch.load(store.blobs.get(candidate.adapter))
    try:
        bank.load(slot, tensors, candidate.adapter_config)
    except ModelError:
        if slot == 0:
            raise
        return None
    return slot


def load_study(store: Store, signals: Signals) -> Study:
    """The study of one memory's signals."""
    return from_mapping(Study, json.loads(store.blobs.get(signals.study)))
