"""The teacher of a recipe: models on this machine, mixed where there are several, or an endpoint.

In: a recipe's `[teacher]` table. Out: the teacher, ready to be captured from and asked. It does not know students.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import models
from ..capture import prompts
from ..capture.prompts.workers import TeacherSource, spread
from ..errors import InputError
from ..models import Device, Model
from ..teachers.examples import rendered
from ..teachers.local import Local, Teacher
from ..teachers.quantised import Bits
from ..teachers.settings import Dialect
from .evaluate import Answer, answer


@dataclass(frozen=True)
class TeacherTable:
    """A teacher: one model or several on this machine, or an endpoint where `url` is given."""

    model: str = models.DEFAULT
    """tiny, a local Hugging Face folder or a hub id; of an endpoint the name it serves, the default its only one."""
    device: Device = "auto"
    """Where models on this machine compute, students included."""
    mix: dict[str, float] = field(default_factory=dict)
    """Models with their weights, above 0, whose distributions are mixed. `model` renders prompts where it is one of
    them, otherwise the first. Empty: `model` alone."""
    bits: Bits = 0
    """8 or 4 keep weights small on this machine; 0 leaves them as they are."""
    workers: int = 1
    """How many processes on this machine capture at once, at least 1."""
    url: str = ""
    """Of an endpoint; it ends in `/v1`."""
    tokenizer: str = ""
    """The tokenizer that the endpoint serves with: a folder or a hub id."""
    key: str = ""
    """The name of the environment variable that holds the endpoint's key; "" for none."""
    dialect: Dialect = "auto"
    """How the endpoint is spoken to; "auto" finds out."""
    revision: str = ""
    """Tells two models of one name on an endpoint apart."""
    context: int = 0
    """The endpoint's longest sequence in tokens; 0: what it says."""
    timeout: float = 120.0
    """How long one request to the endpoint may take, in seconds, above 0."""
    retries: int = 6
    """How often a request to the endpoint is sent again."""
    concurrency: int = 8
    """How many requests to the endpoint are under way at once, at least 1."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("concurrency", 1), ("retries", 0), ("context", 0)):
            if getattr(self, name) < least:
                raise InputError(f"teacher.{name}: {getattr(self, name)} is not allowed; at least {least}")
        if not self.timeout > 0:
            raise InputError(f"teacher.timeout: {self.timeout} is not allowed; more than 0 seconds")
        if self.mix and self.model not in (models.DEFAULT, *self.mix):
            raise InputError(f"teacher.mix: {self.model!r} is not among {', '.join(self.mix)}; leave teacher.model out")
        local = [name for name in ("mix", "bits") if getattr(self, name)] + ["workers"] * (self.workers > 1)
        if self.url and local:
            raise InputError(f"teacher.{local[0]}: is of models on this machine, and teacher.url is given: choose")
        if not self.url and (self.tokenizer or self.key):
            raise InputError("teacher.tokenizer and teacher.key are of an endpoint; give its teacher.url")

    @property
    def source(self) -> TeacherSource:
        """Where local models come from, the one that renders prompts first."""
        names = sorted(self.mix, key=lambda name: name != self.model) if self.mix else [self.model]
        weights = tuple(self.mix[name] for name in names) if self.mix else ()
        return TeacherSource(tuple(names), weights, self.device, self.bits)


@dataclass(frozen=True)
class OpenTeacher:
    """A teacher that is loaded or connected."""

    table: TeacherTable
    teacher: Teacher
    source: TeacherSource | None
    home: Path
    """Where fetched models are looked for first."""

    @property
    def ref(self) -> str:
        """Its name in reports."""
        return " + ".join(self.source.models) if self.source else f"{self.teacher.text_model.ref} at {self.table.url}"

    @property
    def fingerprint(self) -> str:
        """It changes with anything that changes the signals."""
        return self.teacher.fingerprint

    @property
    def parameters(self) -> int:
        """The number of parameters of all its models; 0 for an endpoint."""
        if not isinstance(self.teacher, Local):
            return 0
        return sum(p.numel() for m in self.teacher.mixture.models for p in m.network.parameters())

    def base_ref(self, student: str) -> str:
        """The reference of the model that a student starts from: its own, or else the teacher's."""
        if not student and not isinstance(self.teacher, Local):
            raise InputError(
                "students: the teacher is an endpoint, so no weights are here to start from; give each student a model"
            )
        return student or self.teacher.text_model.ref

    def base(self, student: str) -> Model:
        """The model that a student starts from where it names no other."""
        if isinstance(self.teacher, Local):
            return self.teacher.text_model
        return models.load(self.base_ref(student), self.table.device, self.home)

    def capture(
        self,
        examples: Sequence[prompts.Example],
        config: prompts.Config,
        folder: Path,
        on_step: Callable[[int, str], None],
    ) -> prompts.Captured:
        """`prompts.capture`, by `workers` processes at once."""
        if self.source and isinstance(self.teacher, Local) and self.table.workers > 1 and examples:
            spread(self.source, self.teacher, examples, config, folder, self.table.workers, on_step)
            return prompts.capture(self.teacher, examples, config, folder)
        return prompts.capture(self.teacher, examples, config, folder, on_step)

    def answers(self, requests: Sequence[prompts.Example], limit: int) -> list[Answer]:
        """Greedy answers of at most `limit` tokens."""
        if isinstance(self.teacher, Local):
            return answer(self.teacher.text_model, requests, limit)
        words = self.teacher.text_model
        replies = self.teacher.replies([rendered(words, request, "") for request in requests], limit)
        return [Answer(text, len(words.text_ids(text)) >= limit) for text in replies]


def open_teacher(table: TeacherTable, home: Path) -> OpenTeacher:
    """Load the models, or find the endpoint. `InputError` and `ModelError` say what is wrong with which."""
    home.mkdir(parents=True, exist_ok=True)
    if not table.url:
        source = replace(table.source, home=str(home.resolve()))
        return OpenTeacher(table, source.open(), source, home)
    return OpenTeacher(table, _endpoint(table, home), None, home)


def _endpoint(table: TeacherTable, home: Path) -> Teacher:
    try:
        from ..teachers.client import EndpointClient
        from ..teachers.endpoint import open_endpoint, secret
    except ImportError as error:
        raise InputError("teacher.url: an endpoint takes httpx: pip install 'stillhouse[endpoint]'") from error
    wire = EndpointClient(table.url, secret(table.key), table.timeout, table.retries, table.concurrency)
    model = "" if table.model == models.DEFAULT else table.model
    return open_endpoint(wire, model, table.tokenizer, table.dialect, table.context, table.revision, home)
