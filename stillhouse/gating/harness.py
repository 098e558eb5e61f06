"""A student with its adapter as a model of lm-evaluation-harness, so that its task files run unchanged.

In: a runner, an adapter slot; task files or names of tasks. Out: `TaskRun`s with the metrics that the harness
reports, their directions, and each document's own values. The harness (package `lm-eval`, an optional extra) makes
prompts, few-shot examples, filters and metrics. Likelihoods and greedy answers are ours. They are equal to those of the
harness's own `HFLM` (`benchmarks/gates_harness.py`).

It does not sample: a task that asks for a temperature is refused. A task file may name Python functions, and these run:
use files that you trust.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from ..errors import InputError, first_line
from ..generate import Sampling, answer, score
from ..runners import Runner
from .scored_answers import refuse_nan

LONGEST = 256  # new tokens, where a task does not say: the harness's own default
FIRST = 32  # tokens before stop strings are looked for the first time


@dataclass(frozen=True)
class TaskRun:
    """What the harness reports of one task."""

    task: str
    metrics: Mapping[str, float]  # by name
    higher_is_better: Mapping[str, bool]  # by the metric's name
    values: Mapping[str, Sequence[float]]  # one per document, for metrics that are the mean of them
    documents: Sequence[Mapping[str, Any]]


def run_tasks(runner: Runner, slot: int, tasks: Sequence[str], chat: bool = False) -> list[TaskRun]:
    """Runs every task, in the order of their names. `chat`: prompts go through the model's chat template, as with the
    harness's `--apply_chat_template`.

    Raises `InputError` where the harness cannot load a task or its data, `FloatingPointError` on NaN logits.
    """
    student = HarnessModel(runner, slot)
    with _quiet():
        try:
            known = TaskManager(include_defaults=not all(Path(task).is_file() for task in tasks))
            loaded = known.load(list(tasks))
        except Exception as error:  # the harness and `datasets` raise whatever they meet
            raise InputError(
                f"{', '.join(tasks)}: lm-evaluation-harness cannot load it: {first_line(error)}"
            ) from error
        results = evaluate(
            student, prepared(loaded), bootstrap_iters=0, apply_chat_template=chat, fewshot_as_multiturn=chat
        )
    return [_run(name, results) for name in sorted(loaded["tasks"])]


def prepared(loaded: Any) -> Any:
    """Loaded tasks with the few-shot defaults that the harness's own `simple_evaluate` gives them.

    `simple_evaluate` itself is not used: it asks pip and the compiler for their versions, and takes longer over that
    than over a small task.
    """
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    return loaded


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """One slot of a runner, as the harness asks a model; `BASE` is the base alone."""

    def __init__(self, runner: Runner, slot: int) -> None:
        super().__init__()
        self.runner, self.model, self.slot = runner, runner.model, slot
        self.tokenizer: Any = runner.model.tokenizer

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The id that stands before the first token of a text without a context."""
        first = self.tokenizer.bos_token_id
        return int(first) if first is not None else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        """A name for the harness's caches."""
        return self.model.fingerprint

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids, with the special tokens that the tokenizer adds, but without a second one at the beginning."""
        has_prefix = string.startswith(self.tokenizer.decode([self.prefix_token_id]))
        special = not has_prefix if add_special_tokens is None else add_special_tokens
        return list(self.tokenizer(string, add_special_tokens=special, verbose=False)["input_ids"])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The template's text of a conversation."""
        text = self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )  # fmt: skip
        return str(text)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in disjoint windows of the model's context."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for pair in get_rolling_token_windows(ids, self.prefix_token_id, self.model.context, 1):
                windows.append((("", ""), *make_disjoint_window(pair)))
                owners.append(number)
        sums = [0.0] * len(requests)
        for number, (likelihood, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            sums[number] += likelihood
        return sums

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """Log-likelihood in nats of each continuation after its context, and whether it is the greedy one.

        A context that is too long loses its beginning.
        """
        whole = [[*context, *after][-(self.model.context + 1) :] for _, context, after in requests]

        def reduce(row: int, logits_TV: Tensor) -> tuple[float, bool]:
            refuse_nan(logits_TV)
            after = whole[row][-len(requests[row][2]) :]
            logp_NV = torch.log_softmax(logits_TV[-len(after) :], -1)
            after_N = torch.tensor(after, device=logits_TV.device)
            greedy = bool((logp_NV.argmax(-1) == after_N).all())
            return float(logp_NV.gather(1, after_N[:, None]).sum()), greedy

        slots = [self.slot] * len(whole)
        return score(self.runner, [ids[:-1] for ids in whole], reduce, slots=slots)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers, each cut before the first of its stop strings."""
        answers = [""] * len(requests)
        for (stops, limit), rows in self._grouped(requests).items():
            room = self.model.context - limit
            if room < 1:
                raise InputError(f"a task asks for {limit} new tokens; the context has {self.model.context}")
            prompts = [self.tok_encode(requests[row].args[0])[-room:] for row in rows]
            for row, text in zip(rows, self._until(prompts, stops, limit), strict=True):
                answers[row] = text
        return answers

    def _grouped(self, requests: Sequence[Any]) -> dict[tuple[tuple[str, ...], int], list[int]]:
        """The numbers of the requests, by their stop strings and their limit in new tokens."""
        groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for row, request in enumerate(requests):
            settings = normalize_gen_kwargs(dict(request.args[1]), LONGEST)
            if settings.get("do_sample") or settings.get("temperature"):
                raise InputError(f"a task samples ({dict(request.args[1])}); a gate's answers are greedy")
            stops = settings.get("until") or []
            stops = (stops,) if isinstance(stops, str) else tuple(stops)
            groups.setdefault((stops, int(settings["max_gen_toks"])), []).append(row)
        return groups

    def _until(self, prompts: Sequence[list[int]], stops: tuple[str, ...], limit: int) -> list[str]:
        """Answers, generated in rounds of more and more tokens. One that has its stop string is not continued."""
        answers: list[list[int]] = [[] for _ in prompts]
        unfinished, done = list(range(len(prompts))), 0
        while unfinished and done < limit:
            step = min(limit - done, max(FIRST, done))
            slots = [self.slot] * len(unfinished)
            longer = [prompts[row] + answers[row] for row in unfinished]
            sampling = Sampling(max_new_tokens=step)
            new = answer(self.runner, longer, sampling, slots=slots, on_step=_refuse_nan)
            for row, ids in zip(unfinished, new, strict=True):
                answers[row] += ids
            full = [row for row, ids in zip(unfinished, new, strict=True) if len(ids) == step]
            unfinished = [row for row in full if not _has_stop(self._text(answers[row]), stops)]
            done += step
        return [_before(self._text(ids), stops) for ids in answers]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def _refuse_nan(_: list[int], logits_NV: Tensor) -> None:
    refuse_nan(logits_NV)


def _has_stop(text: str, stops: Sequence[str]) -> bool:
    return any(stop and stop in text for stop in stops)


def _before(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0] if stop else text
    return text


def _run(name: str, results: Any) -> TaskRun:
    """One task's part of the harness's results. A metric's name ends with a comma and its filter, unless that is
    "none"."""
    better = results["higher_is_better"].get(name, {})
    metrics, values = {}, {}
    samples = results["samples"][name]
    for key, value in results["results"][name].items():
        metric, _, strain = key.partition(",")
        if metric not in better or not isinstance(value, int | float):
            continue
        label = metric if strain == "none" else key
        metrics[label] = float(value)
        rows = [s[metric] for s in samples if s["filter"] == strain and metric in s]
        if rows and all(isinstance(v, int | float) for v in rows):
            values[label] = [float(v) for v in rows]
    directions = {label: bool(better[label.partition(",")[0]]) for label in metrics}
    return TaskRun(name, metrics, directions, values, [s["doc"] for s in samples])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside: the harness shows no bars and no notices. Its errors are raised."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
