"""The folder listing is the architecture: the order of imports, one file per kind, small things, plain names."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.sizes import ROOT, breaches, files
from stillhouse import kinds

PACKAGE = ROOT / "stillhouse"
# What stands further left may be imported by what stands further right; a group's members do not know each other.
ORDER = (
    ("errors",),
    ("config", "kinds", "records", "progress", "seeds"),
    ("inputs", "processes", "storage"),
    ("text", "compute", "work", "prestart"),
    ("weights",),
    ("models",),
    ("lora", "losses"),
    ("signals",),
    ("runners",),
    ("generate",),
    ("teachers", "export"),
    ("capture",),
    ("feeds",),
    ("trainer",),
    ("surgery",),
    ("train",),
    ("report",),
    ("gating", "judge"),
    ("gate",),
    ("store",),
    ("retrieve",),
    ("serve",),
    ("improve",),
    ("consolidation",),
    ("distillation",),
    ("demo",),
    ("cli",),
    ("commands",),
    ("__main__", "__init__"),
)
RANK = {name: rank for rank, group in enumerate(ORDER) for name in group}
STAGES_OF_KINDS = ("capture", "surgery", "train", "gate", "export", "commands")
VAGUE = {"manager", "factory", "handler", "helper", "helpers", "util", "utils", "common", "misc", "base"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FOREIGN_PATHS = tuple(f"/{folder}/" for folder in ("work", "tmp", "root"))
MODULES = files(PACKAGE)


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    """stillhouse/gate/recall.py -> stillhouse.gate.recall; a package's __init__ is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path): path for path in MODULES}


def part(name: str) -> str:
    """The name in ORDER that a module belongs to: stillhouse.gate.recall -> gate."""
    return name.split(".")[1] if "." in name else "__init__"


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every module of the package that a file imports, inside functions too."""
    here = module_name(path).split(".") + (["__init__"] if path.name == "__init__.py" else [])
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "stillhouse")
        elif isinstance(node, ast.ImportFrom):
            start = (
                ".".join([*here[: -node.level], *([node.module] if node.module else [])]) if node.level else node.module
            )
            if start and start.split(".")[0] == "stillhouse":
                for alias in node.names:
                    longer = f"{start}.{alias.name}"
                    yield node.lineno, longer if longer in NAMES else start


def test_every_part_of_the_package_has_its_place_in_the_order() -> None:
    strangers = {f"{NAMES[n].relative_to(ROOT)} ({part(n)})" for n in NAMES if part(n) not in RANK}
    assert not strangers, f"say in ORDER, above, where these stand: {sorted(strangers)}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_stage_imports_only_what_stands_before_it(path: Path) -> None:
    mine = part(module_name(path))
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {mine} imports {name}, which does not stand before it"
        for line, name in imports(path)
        if part(name) != mine and RANK.get(part(name), 0) >= RANK.get(mine, len(ORDER))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles() -> None:
    graph = {name: {target for _, target in imports(path)} - {name} for name, path in NAMES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def kind_files(stage: str) -> list[Path]:
    """The kinds of a stage: a file, or a folder with an `__init__.py`."""
    files = [p for p in (PACKAGE / stage).glob("*.py") if not p.name.startswith("_")]
    return sorted([*files, *(p.parent for p in (PACKAGE / stage).glob("*/__init__.py"))])


STAGES = [stage for stage in STAGES_OF_KINDS if kind_files(stage)]


@pytest.mark.parametrize("stage", STAGES)
def test_no_list_of_kinds_is_kept_anywhere(stage: str) -> None:
    """Two names of one stage's kinds in one literal are a list that somebody has to remember to extend."""
    known = {p.stem for p in kind_files(stage)}
    for path in files(PACKAGE / stage):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Dict | ast.List | ast.Set | ast.Tuple):
                elements = node.keys if isinstance(node, ast.Dict) else node.elts
                named = {str(e.value) for e in elements if isinstance(e, ast.Constant)} & known
                assert len(named) < 2, f"{path.relative_to(ROOT)}:{node.lineno}: lists the kinds {sorted(named)}"


@pytest.mark.parametrize("stage", STAGES)
def test_adding_a_kind_is_adding_one_file(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = importlib.import_module(f"stillhouse.{stage}")
    before = kinds.names(stage)
    assert before == [p.stem for p in kind_files(stage)]
    (tmp_path / "zz_added.py").write_text('"""A kind nobody has heard of."""\n\nYEARS = 12\n', encoding="utf-8")
    (tmp_path / "_zz_shared.py").write_text('"""No kind."""\n', encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    assert kinds.names(stage) == [*before, "zz_added"]
    assert kinds.load(stage, "zz_added").YEARS == 12


@pytest.mark.parametrize("path", kind_files("gate"), ids=lambda p: p.stem)
def test_a_gate_has_a_check_and_a_frozen_config(path: Path) -> None:
    gate = kinds.load("gate", path.stem)
    assert callable(gate.check)
    assert gate.Config.__dataclass_params__.frozen
    assert isinstance(gate.Config(), gate.Config), "every setting has the default we stand behind"


def test_the_root_is_a_short_list() -> None:
    root = sorted(p.stem for p in PACKAGE.glob("*.py"))
    assert len(root) <= 15, f"{len(root)} modules in the package's root; at most 15: {root}"


def test_no_module_hides_behind_an_underscore() -> None:
    """A part of something stands in its folder. `_part.py` and `_prefix_part.py` are folders that nobody made."""
    hidden = [str(p.relative_to(ROOT)) for p in MODULES if re.match(r"_[a-z]", p.stem)]
    assert not hidden, f"make a folder, or say what it is: {hidden}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree(path)) or not path.read_text(encoding="utf-8").strip(), (
        f"{path.relative_to(ROOT)}: no docstring"
    )


def test_everything_is_small() -> None:
    assert not breaches(PACKAGE), "\n".join(breaches(PACKAGE))


def words(name: str) -> set[str]:
    """`FileUtils` and `file_utils` -> {"file", "utils"}."""
    return {w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_names_say_what_a_thing_is(path: Path) -> None:
    named = [path.stem, path.parent.name, *(n.name for n in ast.walk(tree(path)) if isinstance(n, ast.ClassDef))]
    vague = [name for name in named if words(name) & VAGUE]
    assert not vague, f"{path.relative_to(ROOT)}: {vague} could be anything"


RIDDLE = re.compile(r"_*(said|found|held|going|heard)(_[A-Z0-9]+)?|Said|Found|Held|Going|Heard")


def given_names(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of every variable, argument, function, class and attribute."""
    for node in ast.walk(module):
        if isinstance(node, ast.Name | ast.arg | ast.Attribute | ast.FunctionDef | ast.ClassDef):
            name = getattr(node, "id", "") or getattr(node, "arg", "") or getattr(node, "attr", "")
            yield node.lineno, name or getattr(node, "name", "")


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_names_say_what_is_in_them(path: Path) -> None:
    """`found` says that something was looked for, and not what it is."""
    wrong = [f"{path.relative_to(ROOT)}:{line}: {n}" for line, n in given_names(tree(path)) if RIDDLE.fullmatch(n)]
    assert not wrong, "\n".join(wrong)


def imported(path: Path) -> Iterator[tuple[str, ast.alias]]:
    """Every name that a file imports from the package, with the module that it comes from."""
    here = module_name(path).split(".") + (["__init__"] if path.name == "__init__.py" else [])
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "stillhouse"):
            origin = [*here[: -node.level], node.module or ""] if node.level else [node.module or ""]
            yield from ((".".join(filter(None, origin)), alias) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, alias) for alias in node.names if alias.name.split(".")[0] == "stillhouse")


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_name_of_ours_is_the_same_everywhere(path: Path) -> None:
    """`import X as Y` is a sign that two things have one name, or that X is no good name. `stillhouse.ask` is the one
    exception: the module of its function is called `ask`."""
    both = [(alias.name, alias.asname) for _, alias in imported(path) if alias.asname not in (None, alias.name)]
    wrong = [names for names in both if names != ("ask_home", "ask")]
    assert not wrong, f"{path.relative_to(ROOT)}: {wrong}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_no_module_knows_two_classes_of_one_name(path: Path) -> None:
    origins: dict[str, set[str]] = {n.name: {"here"} for n in tree(path).body if isinstance(n, ast.ClassDef)}
    for origin, alias in imported(path):
        if alias.name[:1].isupper() and not alias.name.isupper() and f"{origin}.{alias.name}" not in NAMES:
            origins.setdefault(alias.name, set()).add(origin)
    twice = {name: sorted(where) for name, where in origins.items() if len(where) > 1}
    assert not twice, f"{path.relative_to(ROOT)}: {twice}"


def undescribed(module: ast.Module) -> Iterator[str]:
    """Fields of dataclasses with settings that have no docstring line under them."""
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Config", "Settings")):
            for field, below in zip(node.body, [*node.body[1:], None], strict=True):
                text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                if isinstance(field, ast.AnnAssign) and not (text and isinstance(below.value.value, str)):  # type: ignore[union-attr]
                    yield f"{node.name}.{ast.unparse(field.target)}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_every_setting_has_a_line_that_describes_it(path: Path) -> None:
    wrong = list(undescribed(tree(path)))
    assert not wrong, f"{path.relative_to(ROOT)}: {wrong}"


@functools.cache
def private_names_of_ours() -> frozenset[str]:
    """Functions, classes, variables and attributes of the package whose names begin with one underscore."""
    given = {name for path in MODULES for _, name in given_names(tree(path))}
    return frozenset(name for name in given - PUBLIC_AFTER_ALL if re.match(r"_[^_]", name))


def private_uses(path: Path) -> Iterator[str]:
    """Private names of the package that a test imports, reads or replaces."""
    for origin, alias in imported(path):
        if any(re.match(r"_[^_]", name) for name in (*origin.split("."), alias.name)):
            yield f"{origin}.{alias.name}"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            yield from {node.attr} & private_names_of_ours()
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            yield from {str(a.value) for a in node.args[1:2] if isinstance(a, ast.Constant)} & private_names_of_ours()


@pytest.mark.parametrize("path", files(ROOT / "tests"), ids=lambda p: str(p.relative_to(ROOT / "tests")))
def test_tests_use_public_names(path: Path) -> None:
    """A test of a private name fixes how a thing is done. What it does is public."""
    wrong = sorted(set(private_uses(path)))
    assert not wrong, f"{path.relative_to(ROOT)}: {wrong}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_nothing_that_can_run_code_is_unpickled(path: Path) -> None:
    for node in ast.walk(tree(path)):
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not {m.split(".")[0] for m in modules} & PICKLES, f"{path.relative_to(ROOT)}: imports {modules}"
        if isinstance(node, ast.Call):
            wrong = unsafe_load(node)
            assert not wrong, f"{path.relative_to(ROOT)}:{node.lineno}: {wrong}"


def unsafe_load(call: ast.Call) -> str:
    """What is wrong with a call that could unpickle, or nothing."""
    given = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
    if ast.unparse(call.func) == "torch.load" and given.get("weights_only") is not True:
        return "torch.load without weights_only=True"
    if given.get("allow_pickle"):
        return "allow_pickle"
    return ""


def test_the_rule_against_pickle_sees_what_it_forbids() -> None:
    calls = ["torch.load(f)", "torch.load(f, weights_only=False)", "numpy.load(f, allow_pickle=True)"]
    parsed = [node for text in calls for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert all(map(unsafe_load, parsed))
    (good,) = (n for n in ast.walk(ast.parse("torch.load(f, weights_only=True)")) if isinstance(n, ast.Call))
    assert not unsafe_load(good)


PUBLIC_AFTER_ALL = {"_exit", "_asdict", "_fields", "_replace"}  # of os and named tuples: their documents name them
ROW = re.compile(r"^\| `[\w.]*\.(_\w+)`[^|]*\| `([\w/.]+)` \| [^|]+\|[^|]*\|$", re.MULTILINE)


def private_names(module: ast.Module) -> set[str]:
    """Names with one underscore in front that a module uses and does not define: other people's."""
    used: set[str] = set()
    own: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name):
            own.add(node.id)
        elif isinstance(node, ast.Attribute):
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (own if of_self else used).add(node.attr)
        elif isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
            paths = [getattr(node, "module", ""), *(alias.name for alias in node.names)]
            used |= {name for path in paths if path for name in path.split(".")}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "delattr"):
            used |= {str(a.value) for a in node.args[1:2] if isinstance(a, ast.Constant)}
    return {name for name in used - own - PUBLIC_AFTER_ALL if re.match(r"_[^_]", name)}


def test_private_interfaces_of_others_are_the_listed_ones_each_in_one_file() -> None:
    listed = sorted(ROW.findall((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")))
    used = sorted((name, str(p.relative_to(PACKAGE))) for p in MODULES for name in private_names(tree(p)))
    assert used == listed, "ARCHITECTURE.md lists every private name of others that is used, with its file"
    assert len({name for name, _ in used}) == len(used), "each in one file"


def test_the_rule_against_private_names_sees_what_it_forbids() -> None:
    text = "import torch._dynamo\nfrom a._b import c\nx._y\ngetattr(x, '_z')\nself._own\nd._own\nos._exit(0)\n__name__"
    assert private_names(ast.parse(text)) == {"_dynamo", "_b", "_y", "_z"}


def test_no_path_of_one_machine_is_in_the_package() -> None:
    suffixes = {".py", ".html", ".css", ".js", ".sql", ".txt", ".jinja", ".json"}
    texts = [
        p
        for p in PACKAGE.rglob("*")
        if p.suffix in suffixes and "__pycache__" not in p.parts and "assets" not in p.parts
    ]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(foreign in line for foreign in FOREIGN_PATHS)
    ]
    assert not found, "\n".join(found)
