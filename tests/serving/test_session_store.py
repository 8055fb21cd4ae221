"""Sessions at rest: in memory, on disk, of one client alone; nothing is lost, nothing exceeds its bytes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from causalrn.errors import QueueFullError, StateError
from causalrn.runtimes.snapshot import Snapshot
from causalrn.serving import session_store
from causalrn.serving.session_store import BusySessionError, SessionStore, StoreLimits, UnknownSessionError, owner_name
from causalrn.serving.state_cost import snapshot_bytes

MINE, YOURS = owner_name("a key"), owner_name("another key")


def state(value: int, width: int = 25) -> Snapshot:
    return Snapshot(value, 1, {"00.sum": np.full((1, width), value, np.float32)}, None, "owner")


SIZE = snapshot_bytes(state(0))


def test_states_come_back_from_disk(tmp_path) -> None:
    store = SessionStore(tmp_path, StoreLimits(memory_bytes=2 * SIZE))
    names = [store.create(MINE, state(value)) for value in range(9)]
    assert len(set(names)) == 9
    for value, name in enumerate(names):
        got = store.read(MINE, name)
        assert got.position == value
        assert (got.tensors["00.sum"] == value).all()
        assert store.memory_bytes <= 2 * SIZE
    assert store.disk_bytes == sum(path.stat().st_size for path in tmp_path.glob("*/*"))
    for name in names:
        store.delete(MINE, name)
    assert (store.memory_bytes, store.disk_bytes, len(store)) == (0, 0, 0)
    assert [*tmp_path.glob("*/*")] == []


def test_least_recently_used_goes_to_disk(tmp_path) -> None:
    store = SessionStore(tmp_path, StoreLimits(memory_bytes=2 * SIZE))
    first, second = store.create(MINE, state(1)), store.create(MINE, state(2))
    store.read(MINE, first)
    store.create(MINE, state(3))
    assert [path.stem for path in tmp_path.glob("*/*")] == [second]


def test_what_is_larger_than_memory_lies_on_disk(tmp_path) -> None:
    store = SessionStore(tmp_path, StoreLimits(memory_bytes=SIZE))
    name = store.create(MINE, state(4, width=1000))
    assert store.memory_bytes == 0
    assert store.read(MINE, name).tensors["00.sum"].shape == (1, 1000)


def test_another_store_goes_on(tmp_path) -> None:
    store = SessionStore(tmp_path)
    names = {store.create(owner, state(value)): (owner, value) for value, owner in enumerate((MINE, YOURS, MINE))}
    store.write_all()
    (tmp_path / MINE / "not a session.safetensors").write_bytes(b"x")
    again = SessionStore(tmp_path)
    assert len(again) == 3
    for name, (owner, value) in names.items():
        assert again.read(owner, name).position == value
        with pytest.raises(UnknownSessionError):
            again.read(YOURS if owner == MINE else MINE, name)


def test_taken_session_is_nobody_elses(tmp_path) -> None:
    store = SessionStore(tmp_path)
    name = store.create(MINE, state(1))
    assert store.take(MINE, name).position == 1
    with pytest.raises(BusySessionError):
        store.take(MINE, name)
    assert store.read(MINE, name).position == 1  # a fork, meanwhile
    store.replace(MINE, name, state(2))
    store.give_back(name)
    assert store.take(MINE, name).position == 2
    store.delete(MINE, name)
    store.give_back(name)
    with pytest.raises(UnknownSessionError):
        store.replace(MINE, name, state(3))


def test_idle_sessions_are_deleted(tmp_path) -> None:
    store = SessionStore(tmp_path, StoreLimits(idle_s=100, memory_bytes=SIZE))
    names = [store.create(MINE, state(value)) for value in range(3)]
    store.take(MINE, names[0])
    now = store._entries[names[0]].used
    assert store.delete_idle(now + 99) == 0
    assert store.delete_idle(now + 200) == 2
    assert len(store) == 1  # it is in use
    assert [*tmp_path.glob("*/*")] == []


def test_sessions_need_room(tmp_path) -> None:
    store = SessionStore(tmp_path, StoreLimits(memory_bytes=2 * SIZE, disk_bytes=1000))
    while store.memory_bytes + store.disk_bytes + SIZE <= 2 * SIZE + 1000:
        store.create(MINE, state(len(store)))
    with pytest.raises(QueueFullError, match="all memory and disk"):
        store.create(MINE, state(9))
    assert len(store) > 2


def test_sessions_do_not_outgrow_their_room(tmp_path) -> None:
    store = SessionStore(tmp_path, StoreLimits(memory_bytes=2 * SIZE, disk_bytes=1000))
    names = [store.create(MINE, state(value)) for value in range(2)]
    with pytest.raises(QueueFullError, match="all memory and disk"):
        store.replace(MINE, names[0], state(7, width=1000))
    assert [store.read(MINE, name).position for name in names] == [0, 1]
    store.replace(MINE, names[0], state(8))  # no larger than it was


def test_full_disk_loses_nothing(tmp_path, monkeypatch) -> None:
    store = SessionStore(tmp_path, StoreLimits(memory_bytes=2 * SIZE))
    names = [store.create(MINE, state(value)) for value in range(2)]

    def full(path, state) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session_store, "save_state", full)
    store.replace(MINE, names[0], state(7, width=50))
    assert [store.read(MINE, name).position for name in names] == [7, 1]
    with pytest.raises(QueueFullError, match="No space left on device"):
        store.create(MINE, state(3))
    monkeypatch.undo()
    store.replace(MINE, names[0], state(8))
    store.create(MINE, state(3))


def test_damaged_file_is_a_session_that_is_gone(tmp_path) -> None:
    store = SessionStore(tmp_path, StoreLimits(memory_bytes=SIZE))
    name = store.create(MINE, state(1))
    store.create(MINE, state(2))
    (path,) = tmp_path.glob("*/*")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UnknownSessionError, match="gone or damaged"):
        store.read(MINE, name)
    assert len(store) == 1


@pytest.mark.parametrize("kind", [OSError, StateError])
def test_file_that_cannot_be_read_now_is_read_later(tmp_path, monkeypatch, kind) -> None:
    store = SessionStore(tmp_path, StoreLimits(memory_bytes=SIZE))
    name = store.create(MINE, state(1))
    store.create(MINE, state(2))

    def too_many_files(path):
        try:
            raise OSError(24, "Too many open files")
        except OSError as error:
            if kind is OSError:
                raise
            raise StateError(f"{path}: {error}") from None

    monkeypatch.setattr(session_store, "load_state", too_many_files)
    with pytest.raises(QueueFullError, match="Too many open files"):
        store.take(MINE, name)
    monkeypatch.undo()
    assert store.take(MINE, name).position == 1


def test_file_that_cannot_be_deleted_still_counts(tmp_path, monkeypatch) -> None:
    store = SessionStore(tmp_path, StoreLimits(memory_bytes=SIZE, idle_s=0))
    store.create(MINE, state(1))
    store.create(MINE, state(2))
    taken = store.disk_bytes

    def refuse(path, missing_ok=False) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match="Read-only"):
        store.delete_idle(now=1e12)
    assert store.disk_bytes == taken
    monkeypatch.undo()
    store.delete_idle(now=1e12)
    assert (store.memory_bytes, store.disk_bytes, len(store)) == (0, 0, 0)


def test_many_sessions_cost_what_their_states_do(tmp_path) -> None:
    store = SessionStore(tmp_path)
    fresh = state(0)
    for _ in range(10_000):
        store.create(MINE, fresh)
    assert store.memory_bytes == 10_000 * SIZE
    with pytest.raises(QueueFullError, match="this client has 10,000 sessions"):
        store.create(MINE, fresh)
    store.create(YOURS, fresh)


def test_giving_back_waits_for_no_disk(tmp_path, monkeypatch) -> None:
    """An event loop does it, which has other clients."""
    store = SessionStore(tmp_path)
    name = store.create(MINE, state(1))
    store.take(MINE, name)
    writing, go_on = threading.Event(), threading.Event()

    def write_slowly(*_: object) -> None:
        writing.set()
        assert go_on.wait(60)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session_store, "save_state", write_slowly)
    with ThreadPoolExecutor(2) as pool:
        written = pool.submit(store.write_all)
        assert writing.wait(60)
        try:
            pool.submit(store.give_back, name).result(60)
        finally:
            go_on.set()
        with pytest.raises(OSError, match="No space left"):
            written.result(60)
    store.take(MINE, name)
