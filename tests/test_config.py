"""Settings: what fits is taken, equal settings have equal names, and everything else is one clear line."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from stillhouse.config import SettingError, as_dict, resolve
from stillhouse.errors import InputError
from stillhouse.records import digest


@dataclass(frozen=True)
class Schedule:
    kind: Literal["cosine", "flat"] = "cosine"
    warmup: int = 10


@dataclass(frozen=True)
class Config:
    rank: int = 16
    alpha: float = 32.0
    modules: tuple[str, ...] = ("q_proj",)
    betas: tuple[float, float] = (0.9, 0.98)
    where: Literal["all", "attention", "mlp"] = "all"
    resume: bool = True
    seed: int | None = None
    thresholds: dict[str, float] | None = None
    schedule: Schedule = Schedule()
    gates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Required:
    name: str


def refused(kind: type, values: Any, where: str = "train") -> str:
    with pytest.raises(InputError) as error:
        resolve(kind, values, where)
    assert "\n" not in str(error.value)
    return str(error.value)


@dataclass(frozen=True)
class Refusing:
    share: float = 0.0

    def __post_init__(self) -> None:
        if self.share >= 1:
            raise SettingError("lora", "share", f"{self.share} is not allowed")


@dataclass(frozen=True)
class Outer:
    lora: Refusing | None = None


def test_what_a_table_refuses_is_named_by_its_whole_path() -> None:
    assert refused(Outer, {"lora": {"share": 1}}, "students.small") == "students.small.lora.share: 1.0 is not allowed"
    with pytest.raises(InputError, match=r"^lora\.share: 2\.0 is not allowed$") as error:
        Refusing(2.0)
    assert str(copy.copy(error.value)) == str(error.value), "it can go from one process to another"


def test_defaults_and_overrides() -> None:
    assert resolve(Config, {}) == Config()
    assert resolve(Config, {"rank": 8, "resume": False, "seed": 3}) == Config(rank=8, resume=False, seed=3)
    assert resolve(Config, {"seed": None}) == Config()


def test_unknown_key_lists_what_is_allowed_and_suggests_the_nearest() -> None:
    line = refused(Schedule, {"warm_up": 3})
    assert line == "train: unknown key 'warm_up'; allowed: kind, warmup; did you mean 'warmup'?"
    assert refused(Schedule, {"zzz": 3}) == "train: unknown key 'zzz'; allowed: kind, warmup"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"rank": "8"}, "train.rank: '8' is not of type int"),
        ({"rank": 8.0}, "train.rank: 8.0 is not of type int"),
        ({"rank": True}, "train.rank: True is not of type int"),
        ({"rank": None}, "train.rank: None is not of type int"),
        ({"alpha": False}, "train.alpha: False is not of type float"),
        ({"alpha": "1"}, "train.alpha: '1' is not of type float"),
        ({"alpha": float("nan")}, "train.alpha: nan is not of type float"),
        ({"alpha": float("inf")}, "train.alpha: inf is not of type float"),
        ({"resume": 1}, "train.resume: 1 is not of type bool"),
        ({"seed": "x"}, "train.seed: 'x' is not of type int | None"),
        ({"where": "head"}, "train.where: 'head' is not one of 'all', 'attention', 'mlp'"),
        ({"where": ["all"]}, "train.where: ['all'] is not one of 'all', 'attention', 'mlp'"),
        ({"modules": "q_proj"}, "train.modules: 'q_proj' is not of type tuple[str, ...]"),
        ({"modules": ["q_proj", 1]}, "train.modules: ['q_proj', 1] is not of type tuple[str, ...]"),
        ({"betas": [0.9]}, "train.betas: [0.9] is not of type tuple[float, float]"),
        ({"thresholds": {"recall": "x"}}, "train.thresholds: {'recall': 'x'} is not of type dict[str, float] | None"),
        ({"gates": {"recall": 1}}, "train.gates: {'recall': 1} is not of type"),
        ({"schedule": 3}, "train.schedule: 3 is not of type Schedule"),
        ({"schedule": {"kind": "step"}}, "train.schedule.kind: 'step' is not one of 'cosine', 'flat'"),
        (
            {"schedule": {"kid": "flat"}},
            "train.schedule: unknown key 'kid'; allowed: kind, warmup; did you mean 'kind'?",
        ),
    ],
)
def test_a_value_of_a_wrong_type_is_named(values: dict[str, Any], line: str) -> None:
    assert refused(Config, values).startswith(line)


@pytest.mark.parametrize("values", [[], None, "rank=3", 3])
def test_anything_but_a_table_is_named(values: Any) -> None:
    assert refused(Config, values) == f"train: expected a table of settings, found {values!r}"


def test_a_setting_without_a_default_is_asked_for() -> None:
    assert refused(Required, {}) == "train: missing 'name'"
    assert resolve(Required, {"name": "x"}) == Required("x")


def test_lists_become_tuples_and_tables_become_settings() -> None:
    text = 'modules = ["q_proj", "v_proj"]\nbetas = [0.8, 0.9]\n[schedule]\nkind = "flat"'
    config = resolve(Config, tomllib.loads(text))
    assert config == Config(modules=("q_proj", "v_proj"), betas=(0.8, 0.9), schedule=Schedule("flat"))
    assert hash(config.modules) is not None


def test_equal_settings_have_equal_names() -> None:
    """TOML's `alpha = 32` and `alpha = 32.0` are one setting: the resolved digest names stored work."""
    whole, real = resolve(Config, {"alpha": 32, "betas": [0, 1]}), resolve(Config, {"alpha": 32.0, "betas": [0.0, 1.0]})
    assert digest(as_dict(whole)) == digest(as_dict(real))
    assert digest(as_dict(resolve(Config, {"thresholds": {"a": 1}}))) == digest(
        as_dict(resolve(Config, {"thresholds": {"a": 1.0}}))
    )


def test_resolved_settings_go_round() -> None:
    config = resolve(Config, {"thresholds": {"recall": 0.9}, "gates": {"drift": {"n": 3}}, "schedule": {"warmup": 3}})
    assert resolve(Config, as_dict(config)) == config
    assert resolve(Config, {"schedule": config.schedule}).schedule is config.schedule
