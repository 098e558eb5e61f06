"""A kind is a file: found without a list, refused with the names there are."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stillhouse
from stillhouse import kinds
from stillhouse.errors import InputError


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stage folder on the package's path, with two kinds and things that are none."""
    folder = tmp_path / "stillhouse" / "tasting"
    folder.mkdir(parents=True)
    for name in ("__init__.py", "nose.py", "palate.py", "_glass.py", "notes.txt"):
        (folder / name).write_text(f'"""{name}"""\n', encoding="utf-8")
    monkeypatch.setattr(stillhouse, "__path__", [*stillhouse.__path__, str(tmp_path / "stillhouse")])
    importlib.invalidate_caches()
    yield folder
    for name in [n for n in sys.modules if n.startswith("stillhouse.tasting")]:
        del sys.modules[name]


def test_names_are_file_names(stage: Path) -> None:
    assert kinds.names("tasting") == ["nose", "palate"]


def test_adding_a_kind_is_adding_a_file(stage: Path) -> None:
    (stage / "finish.py").write_text('"""A third kind."""\nYEARS = 12\n', encoding="utf-8")
    importlib.invalidate_caches()
    assert kinds.names("tasting") == ["finish", "nose", "palate"]
    assert kinds.load("tasting", "finish").YEARS == 12


@pytest.mark.parametrize("name", ["_glass", "notes", "__init__", "", "nose.py", "../errors", "nose\n"])
def test_what_is_no_kind_is_refused_with_the_names_there_are(stage: Path, name: str) -> None:
    with pytest.raises(InputError) as error:
        kinds.load("tasting", name)
    assert str(error.value).startswith(f"there is no tasting kind {name!r}; there are: nose, palate")
    assert "\n" not in str(error.value)


def test_the_nearest_name_is_suggested(stage: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'palate'"):
        kinds.load("tasting", "pallate")
