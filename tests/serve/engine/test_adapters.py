"""Tiers of adapters: what is checked when one is loaded, which are dropped first, and that an earlier version serves
when a newer one is damaged."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stillhouse import runners
from stillhouse.errors import ModelError, NotFound, Rejected, StillhouseError
from stillhouse.models import Model
from stillhouse.runners import TorchRunner
from stillhouse.serve.engine.adapters import Adapter, AdapterSlots, Key, Library, Placement, highest_rank
from stillhouse.serve.log.event_types import AdapterMoved
from stillhouse.store import Store
from tests.serve.served import save

RANK = 4
EndedLoads = queue.SimpleQueue[tuple[Key, StillhouseError | None]]


@pytest.fixture
def model(random_model: Callable[..., Model]) -> Model:
    return random_model("qwen3")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def opened(model: Model, slots: int = 1) -> TorchRunner:
    return TorchRunner.open(model, runners.Config(slots, RANK))


def library(store: Store, model: Model, limit: int = 10**9) -> Library:
    return Library(store, opened(model), limit)


def test_the_champion_is_loaded_once(store: Store, model: Model) -> None:
    save(store, model, "alice")
    shelf = library(store, model)
    first, refused = shelf.champion("alice")
    assert first is not None
    assert (first.key, refused) == (Key("alice", 1), [])
    assert shelf.champion("alice")[0] is first
    assert (shelf.loads, shelf.hits) == (1, 1)
    assert shelf.champion("bob") == (None, [])


def test_a_new_champion_is_another_key(store: Store, model: Model) -> None:
    save(store, model, "alice", 1)
    shelf = library(store, model)
    before, _ = shelf.champion("alice")
    save(store, model, "alice", 2)
    after, _ = shelf.champion("alice")
    assert before is not None
    assert after is not None
    assert (before.key.number, after.key.number) == (1, 2)
    store.rollback("alice")
    assert shelf.champion("alice")[0] is before


def truncate(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:200])


def tamper(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, file)


def reconfigure(folder: Path) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 64}))


def remove(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def garble(folder: Path) -> None:
    (folder / "version.json").write_text("{")


@pytest.mark.parametrize("damage", [truncate, tamper, reconfigure, remove, garble])
def test_the_version_before_serves_where_the_champion_is_damaged(
    store: Store, model: Model, damage: Callable[[Path], None]
) -> None:
    save(store, model, "alice", 1)
    save(store, model, "alice", 2)
    damage(store.version_dir("alice", 2))
    events: list[AdapterMoved] = []
    shelf = Library(store, opened(model), 10**9, events.append)
    adapter, refused = shelf.champion("alice")
    if damage is garble:  # who the champion was cannot be read, so nobody is guessed
        assert adapter is None
    else:
        assert adapter is not None
        assert adapter.key == Key("alice", 1)
        assert [(event.number, event.tier) for event in events] == [(2, "refused"), (1, "warm")]
    assert len(refused) == 1
    assert "\n" not in str(refused[0])
    with pytest.raises(StillhouseError):
        shelf.load(Key("alice", 2))


def test_what_is_never_served(store: Store, model: Model) -> None:
    save(store, model, "other", base="f" * 64)
    save(store, model, "failed", passed=False)
    save(store, model, "large", rank=8)
    shelf = library(store, model)
    with pytest.raises(ModelError, match="was made for base"):
        shelf.load(Key("other", 1))
    with pytest.raises(Rejected, match="rejected by its gates"):
        shelf.load(Key("failed", 1))
    with pytest.raises(ModelError, match="rank 8"):
        shelf.load(Key("large", 1))
    with pytest.raises(NotFound, match="no version 7; there are: 1"):
        shelf.load(Key("large", 7))
    assert shelf.champion("failed") == (None, [])
    assert shelf.champion("other")[0] is None
    assert highest_rank(store, model) == 16
    save(store, model, "larger", rank=20)
    assert highest_rank(store, model) == 20


def test_numbers_that_are_none_are_refused(store: Store, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.serve import served

    tensors, about = served.adapter(model, 1)
    tensors[next(iter(tensors))][0, 0] = float("nan")
    monkeypatch.setattr(served, "adapter", lambda *args: (tensors, about))
    served.save(store, model, "alice")
    with pytest.raises(ModelError, match="is not finite"):
        library(store, model).load(Key("alice", 1))


def test_warm_adapters_go_by_bytes_least_recently_used_first(store: Store, model: Model) -> None:
    for user in ("a", "b", "c"):
        save(store, model, user)
    one = library(store, model).load(Key("a", 1)).bytes
    shelf = library(store, model, limit=2 * one)
    for user in ("a", "b", "a", "c"):
        shelf.load(Key(user, 1))
    assert (shelf.loads, shelf.evictions, shelf.bytes) == (3, 1, 2 * one)
    shelf.load(Key("a", 1))
    assert shelf.loads == 3, "a was used after b"
    shelf.forget("a")
    assert shelf.bytes == one


@contextmanager
def shelves(model: Model, count: int) -> Iterator[tuple[AdapterSlots, TorchRunner, EndedLoads]]:
    runner = opened(model, count)
    ended: EndedLoads = queue.SimpleQueue()
    slots = AdapterSlots(runner, lambda key, error: ended.put((key, error)))
    try:
        yield slots, runner, ended
    finally:
        slots.close()
        runner.close()


def test_slots_go_least_recently_used_first_and_never_under_a_running_row(store: Store, model: Model) -> None:
    for user in ("a", "b", "c"):
        save(store, model, user, seed=ord(user))
    shelf = library(store, model)
    a, b, c = (shelf.load(Key(user, 1)) for user in ("a", "b", "c"))
    with shelves(model, 2) as (slots, runner, ended):
        assert [slots.place(x, ()) for x in (a, b, a)] == [
            Placement(0, False),
            Placement(1, False),
            Placement(0, False),
        ]
        assert slots.place(c, ()) is None, "an adapter that is being loaded keeps its slot"
        for _ in range(2):
            slots.loaded(*ended.get(timeout=30))
        assert slots.place(a, ()) == Placement(0, True)
        assert slots.place(c, {a.key, b.key}) is None
        assert slots.place(c, {b.key}) == Placement(0, False)
        slots.loaded(*ended.get(timeout=30))
        assert holds(runner, 0, c)
        assert holds(runner, 1, b)
        assert (slots.loads, slots.hits, slots.evictions) == (3, 2, 1)
        slots.forget("c")
        assert c.key not in slots
        assert not holds(runner, 0, c)


def test_a_slot_is_free_again_after_an_adapter_that_cannot_be_loaded(store: Store, model: Model) -> None:
    save(store, model, "a")
    good = library(store, model).load(Key("a", 1))
    odd = Adapter(Key("odd", 1), {"what.is.this": torch.zeros(2)}, good.config)
    broken = Adapter(Key("broken", 1), dict.fromkeys(good.tensors, "no tensor"), good.config)  # type: ignore[arg-type]
    with shelves(model, 1) as (slots, _, ended):
        for adapter in (odd, broken):
            assert slots.place(adapter, ()) == Placement(0, False)
            key, error = ended.get(timeout=30)
            assert key == adapter.key
            assert isinstance(error, ModelError)
            slots.loaded(key, error)
        assert len(slots) == slots.loads == slots.evictions == 0
        assert slots.place(good, ()) == Placement(0, False)


def holds(runner: TorchRunner, slot: int, adapter: Adapter) -> bool:
    assert runner.bank is not None
    here = runner.bank.export(slot)
    return all(torch.equal(here[name], tensor) for name, tensor in adapter.tensors.items())
