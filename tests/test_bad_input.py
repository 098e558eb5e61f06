"""Wrong use is one clear line on stderr and exit code 2: no traceback, nothing half written, nothing stored."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stillhouse.inputs import MAX_MEMORY_BYTES
from stillhouse.store import Store
from tests.commands import Commands, Done, Signal, fast

LINE = re.compile(r"stillhouse: [^\n]+\n")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home in which nothing may be left by what goes wrong."""
    home = tmp_path / "home"
    yield home
    if home.is_dir() and (home / "FORMAT").is_file() and json.loads((home / "FORMAT").read_text())["format"] == 1:
        store = Store(home)
        assert store.users() == []
        assert store.verify() == []
        assert not list(home.rglob(".partial-*"))
        assert not list((home / "work").rglob("result.json"))


def refused(done: Done, *says: str) -> None:
    """One line, exit code 2, nothing on stdout."""
    assert done.code == 2, done
    assert LINE.fullmatch(done.err), done.err
    assert done.out == ""
    for part in says:
        assert part in done.err


def named(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def huge(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(40 * 2**30)  # a hole: no byte of it is on the disk
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


MEMORIES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda p: p, "no such file; a memory is a UTF-8 text file"),
    "a folder": (folder, "not a file; a memory is a UTF-8 text file"),
    "a pipe": (fifo, "not a file; a memory is a UTF-8 text file"),
    "empty": (lambda p: named(p, b""), "empty; a memory states something"),
    "blank": (lambda p: named(p, b" \n\t\r\n\xc2\xa0\n"), "empty; a memory states something"),
    "a mark alone": (lambda p: named(p, b"\xef\xbb\xbf"), "empty; a memory states something"),
    "binary": (lambda p: named(p, b"\x7fELF\x02\x00\x01"), "binary data (a zero byte at 5); a memory is UTF-8 text"),
    "UTF-16": (lambda p: named(p, "My dog is Rex.".encode("utf-16")), "binary data (a zero byte at 3)"),
    "Latin-1": (lambda p: named(p, "My dog is Zoë.".encode("latin-1")), "not UTF-8 at byte 12; convert it first"),
    "enormous": (huge, f"at most {MAX_MEMORY_BYTES} are taken at once: split it"),
    "no statement": (lambda p: named(p, b"# A heading of mine\n\n- Where is he now?\n"), "states nothing"),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_a_memory_that_cannot_be_used(commands: Commands, home: Path, tmp_path: Path, name: str) -> None:
    make, says = MEMORIES[name]
    path = make(tmp_path / "notes.md")
    refused(commands.run("consolidate", "--user", "alice", "--memory", path, "--home", home), says)
    if name != "no statement":
        refused(commands.run("ask", "--memory", path, "Who?", "--home", home, "--json"), says)


def test_more_tokens_than_are_taken_at_once(commands: Commands, home: Path, tmp_path: Path) -> None:
    notes = named(tmp_path / "notes.md", b"My dog is called Rex and he is old. " * 40_000)
    argv = commands.consolidating("alice", notes, home)
    refused(commands.run(*argv), "memory has ", " tokens; at most 131072 are taken at once: split it")
    notes.write_text("My dog is called Rex " + "and he is old " * 1000)
    refused(commands.run(*argv), "the statement at byte 0 of the memory has ", "make sentences of it")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return named(tmp_path / "notes.md", b"My dog is called Zorvik. The wifi password is plonk47.\n")


USERS = {
    "empty": ("", "the user id is empty"),
    "too long": ("u" * 10_000, "has 10000 characters"),
    "a line break": ("ali\nce", "contains U+000A"),
    "an escape": ("\x1b[31malice", "contains U+001B"),
    "a line separator": ("ali\u2028ce", "contains U+2028"),
}


@pytest.mark.parametrize("name", USERS)
def test_a_user_id_that_is_none(commands: Commands, home: Path, notes: Path, name: str) -> None:
    user, says = USERS[name]
    allowed = "a user id is 1 to 128 characters without control characters"
    refused(commands.run("consolidate", f"--user={user}", "--memory", notes, "--home", home), says, allowed)
    refused(commands.run("ask", f"--user={user}", "Who?", "--home", home), says, allowed)
    refused(commands.run("adapters", "list", f"--user={user}", "--home", home), says, allowed)
    refused(commands.run("forget", f"--user={user}", "--home", home), says, allowed)


ODD = ["../../etc/passwd", "a/b", "..", ".", "\U0001f600", "Zoë Müller", "-rf", "con", "a\\b", "~", "%2e%2e", "u" * 128]


def test_odd_user_ids_are_names_and_never_paths(commands: Commands, tmp_path: Path) -> None:
    inside = tmp_path / "deep" / "home"
    for user in ODD:
        done = commands.run(
            "ask", f"--user={user}", "Who is Rex?", "--home", inside, "--model", commands.model, "--json"
        )
        assert done.code == 0, done.err
        assert (done.json["path"], done.json["user"], done.json["version"]) == ("base", user, None)
        with Store(inside).lock(user):
            pass
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["home"]


def without(name: str) -> Callable[[Path], object]:
    return lambda model: (model / name).unlink()


def truncated(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])


MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tokenizer": (without("tokenizer.json"), "no tokenizer (tokenizer.json) beside the weights"),
    "no config": (without("config.json"), "no config.json; a model folder is in Hugging Face format"),
    "cut off": (truncated, "model.safetensors: damaged or cut off"),
    "pickle": (lambda m: (m / "model.safetensors").rename(m / "pytorch_model.bin"), "only pickle weights"),
    "nothing": (shutil.rmtree, "no such model; a model is 'tiny', the name of a fetched one"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_cannot_be_used(commands: Commands, home: Path, notes: Path, tmp_path: Path, name: str) -> None:
    spoil, says = MODELS[name]
    model = tmp_path / "model"
    shutil.copytree(commands.model, model)
    spoil(model)
    refused(commands.run("consolidate", "--user", "a", "--memory", notes, "--home", home, "--model", model), says)
    refused(commands.run("ask", "Who?", "--home", home, "--model", model), says)


SETTINGS = {
    "[train]\nstep = 3\n": "unknown key 'step'; allowed: alpha, anchor_every",
    "[train]\nlearnig_rate = 0.1\n": "did you mean 'learning_rate'?",
    "[trian]\nsteps = 3\n": "config: unknown key 'trian'; allowed: capture, gate, train; did you mean 'train'?",
    "[train]\nsteps = 'many'\n": "config.train.steps: 'many' is not of type int",
    "[train]\nsteps = 2.5\n": "config.train.steps: 2.5 is not of type int",
    "[train]\nsteps = true\n": "config.train.steps: True is not of type int",
    "[train]\nsteps = -1\n": "train.steps: -1 is not allowed; it must be at least 0",
    "[train]\nrank = 0\n": "train.rank: 0 is not allowed; it must be more than 0",
    "[train]\ntargets = 'everything'\n": "is not one of 'all', 'attention', 'mlp'",
    "[train]\nlearning_rate = nan\n": "config.train.learning_rate: nan is not of type float",
    "[capture]\ntop_k = 300\n": "capture.top_k: 300 is too large; at most 255 is allowed",
    "train = 3\n": "config.train: 3 is not",
    "[gate]\ngates = 'recall'\n": "config.gate.gates: 'recall' is not",
    "[gate]\ngates = ['recal']\n": "did you mean 'recall'?",
    "[gate.settings.recall]\ntreshold = 0.5\n": "did you mean 'threshold'?",
    "[train\nsteps = 3\n": "not TOML",
    "\udcff": "not TOML",
}


@pytest.mark.parametrize("text", SETTINGS)
def test_settings_that_cannot_be(commands: Commands, home: Path, notes: Path, tmp_path: Path, text: str) -> None:
    config = named(tmp_path / "settings.toml", text.encode(errors="surrogateescape"))
    argv: tuple[str | Path, ...] = ("consolidate", "--user", "a", "--memory", notes, "--home", home, "--config", config)
    refused(commands.run(*argv), SETTINGS[text])


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--config", "/nowhere.toml"], "/nowhere.toml: cannot be read: No such file or directory"),
        (["--config", "/"], "/: cannot be read: Is a directory"),
        (["--set", "train.rank"], "not TOML"),
        (["--set", "train.rank=many"], "train.rank=many: not TOML"),
        (["--set", "rank=4"], "config: unknown key 'rank'"),
        (["--set", "train=4"], "config.train: 4 is not"),
        (["--user", "bob"], "2 users and 1 memories: give one --memory per --user"),
        (["--user", "alice", "--memory", "notes.md"], "a user is named twice"),
        (["--home", "/dev/null"], "is a file; a home is a folder: choose another with --home"),
        (["--home", "/proc/nothing"], "cannot write '/proc/nothing'"),
    ],
)
def test_arguments_that_cannot_be(commands: Commands, home: Path, notes: Path, argv: list[str], says: str) -> None:
    given = ["--user", "alice", "--memory", str(notes), "--home", str(home)]
    refused(commands.run("consolidate", *given, *argv), says)


def test_a_store_from_another_version(commands: Commands, home: Path, notes: Path) -> None:
    Store(home)
    (home / "FORMAT").write_text('{"format": 2}')
    argv = commands.consolidating("alice", notes, home)
    refused(commands.run(*argv), "has format 2, this program reads 1", "use the program that wrote it")
    (home / "FORMAT").write_text("2")
    refused(commands.run(*argv), "is damaged")
    refused(commands.run("store", "verify", "--home", home), "is damaged")
    (home / "FORMAT").write_text('{"format": 1}')


def test_a_registry_from_a_newer_version(commands: Commands, home: Path) -> None:
    Store(home).query("INSERT INTO migrations (number) VALUES (99)")
    done = commands.run("store", "verify", "--home", home)
    assert (done.code, "Traceback" in done.err) == (1, False)
    assert "has migration 99, this program knows" in done.out
    assert "store rebuild" in done.out
    assert commands.run("store", "rebuild", "--home", home).code == 0
    assert commands.run("store", "verify", "--home", home, "--json").json == {"clean": True, "problems": []}


@pytest.mark.parametrize("largest", [60, 30_000, 250_000])
def test_a_full_disk(commands: Commands, home: Path, notes: Path, largest: int) -> None:
    """The limit is met by the store's first files, by the signals, or by the checkpoint; then there is room again."""
    Store(home)
    argv = commands.consolidating("alice", notes, home, *fast(4))
    done = commands.run(*argv, largest_file=largest)
    assert done.code == 2, done
    *_, last = done.err.splitlines()
    assert re.fullmatch(
        r"stillhouse: disk is full: '.*' could not be written; free some space and run the command again", last
    )
    assert "Traceback" not in done.err
    store = Store(home)
    assert store.users() == []
    assert store.verify() == []
    assert not list(home.rglob(".partial-*"))
    for note in (home / "work").rglob("result.json"):
        note.unlink()  # finished stages may stay: `home` asks for none


def test_a_disk_that_is_full_for_stdout(commands: Commands, home: Path) -> None:
    done = commands.run("adapters", "list", "--home", home, "--json", to="/dev/full")
    assert (done.code, done.err) == (2, "stillhouse: No space left on device\n")


@pytest.mark.slow
def test_a_user_who_is_being_consolidated(commands: Commands, home: Path, notes: Path) -> None:
    argv = commands.consolidating("alice", notes, home, *fast())
    with Store(home).lock("alice"):
        done = commands.run(*argv)
        refused(done, f"user 'alice' is being consolidated by process {os.getpid()} since ", "wait or try again")
        refused(commands.run("forget", "--user", "alice", "--home", home), f"by process {os.getpid()} since ")
        assert commands.run("ask", "--user", "alice", "Who?", "--home", home, "--model", commands.model).code == 0
    killed = commands.run(*argv, at=Signal(signal.SIGKILL, "capture alice: started"))
    assert killed.code == -signal.SIGKILL
    with Store(home).lock("alice"):
        pass  # a killed holder holds nothing


@pytest.mark.parametrize("question", ["", "  \n", "\udcff who?"])
def test_a_question_that_is_none(commands: Commands, home: Path, question: str) -> None:
    refused(commands.run("ask", question, "--home", home), "the question is ")


def test_questions_to_nobody(commands: Commands, home: Path, notes: Path) -> None:
    refused(commands.run("ask", "Who?", "--user", "a", "--memory", notes, "--home", home), "both a user and a memory")
    refused(commands.run("adapters", "list", "--user", "nobody", "--home", home), "has no versions; known users: none")
    refused(commands.run("adapters", "show", "--user", "nobody", "--home", home), "has no versions; known users: none")
    refused(commands.run("adapters", "rollback", "--user", "nobody", "--home", home), "no earlier champion")
    refused(commands.run("adapters", "rollback", "--user", "nobody", "--to", "3", "--home", home), "no version 3")
    refused(commands.run("artifacts", "show", "abc", "--home", home), "")
    refused(commands.run("artifacts", "show", "abcdef123456", "--home", home), "")


def test_a_memory_too_long_for_the_context(commands: Commands, home: Path, tmp_path: Path) -> None:
    long = named(tmp_path / "long.md", b"My dog is called Rex and he is old. " * 600)
    done = commands.run("ask", "--memory", long, "Who?", "--home", home, "--model", commands.model)
    refused(done, "does not fit the model's context of 2048 tokens")
    question = "Who is Rex? " * 2000
    refused(
        commands.run("ask", question, "--home", home, "--model", commands.model), "does not fit the model's context"
    )
