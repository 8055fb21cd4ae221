"""Bad inputs by the hundred: one clear line, exit code 2, nothing lost, nothing left, nothing that blocks."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import GOLDEN, ROOT
from tests.cli.bad_inputs import ROWS, Row

_MOST_S = 10
_MOST_MORE_BYTES = 100 << 20
_MOST_HASHED_BYTES = 1 << 24


def test_there_are_three_hundred_bad_inputs_with_names_of_their_own() -> None:
    assert len(ROWS) >= 300
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.fixture
def alarm() -> Iterator[None]:
    """What blocks for ten seconds is interrupted, and fails."""

    def stop(*_: object) -> None:
        raise AssertionError(f"no answer in {_MOST_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_MOST_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def places(tmp_path: Path, runs: dict[str, Path], bundles: dict[str, Path]) -> dict[str, Path]:
    """A RUN, a bundle and a file of the row's own."""
    shutil.copytree(runs["linear"], tmp_path / "run")
    shutil.copytree(bundles["linear"], tmp_path / "bundle")
    return {
        "RUN": tmp_path / "run",
        "BUNDLE": tmp_path / "bundle",
        "FILE": tmp_path / "file",
        "OUT": tmp_path / "out",
        "PTH": GOLDEN / "official_exact_copy8.pth",
    }


def put(word: str, places: dict[str, Path]) -> str:
    """An argument with its place, and what stands behind that."""
    first, slash, rest = word.partition("/")
    return f"{places[first]}{slash}{rest}" if first in places else word


def found(folder: Path) -> dict[str, object]:
    """Everything below a folder: kinds, and contents of files that are no larger than they should be."""
    seen: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content: object = path.readlink() if path.is_symlink() else status.st_size
        if stat.S_ISREG(status.st_mode) and status.st_size < _MOST_HASHED_BYTES:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        seen[str(path.relative_to(folder))] = stat.S_IFMT(status.st_mode), content
    return seen


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_bad_input_is_one_clear_line(call, places, tmp_path, row: Row) -> None:
    if row.damage is not None:
        row.damage(Path(put(row.place, places)))
    before = found(tmp_path)
    code, _, error = call(*(put(word, places) for word in row.arguments))
    assert code == 2, error
    assert "Traceback" not in error
    last = error.splitlines()[-1]
    assert last.startswith("Error: ")
    assert error.count("\n") == 1 or error.startswith("Usage: ")
    for word in row.words:
        assert word in last
    if row.damage is not None:
        assert places[row.place.partition("/")[0]].name in last
    assert found(tmp_path) == before


def peak_bytes(row: Row, places: dict[str, Path]) -> int:
    """Memory that the command took at most, in a process of its own, which has to refuse."""
    command = [sys.executable, "-m", "causalrn", *(put(word, places) for word in row.arguments)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 2
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.cases(1)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("small", "absurd"),
    [
        (
            "manifest, run: text",
            ("manifest: blocks 1e9", "token ids: a header of 1e12 numbers", "manifest, run: a device"),
        ),
        ("configuration, export: text", ("configuration: E = H = 10,000", "weights: a tensor of 1e12 numbers")),
    ],
    ids=["without torch", "with torch"],
)
def test_what_asks_for_absurd_memory_takes_none(places, tmp_path, small, absurd) -> None:
    """A few rows in processes of their own, beside one that is refused at a glance."""
    rows = {row.name: row for row in ROWS}
    peaks = {}
    for name in (small, *absurd):
        here = {word: tmp_path / name.replace(" ", "-") / path.name for word, path in places.items()}
        shutil.copytree(places["BUNDLE"], here["BUNDLE"])
        shutil.copytree(places["RUN"], here["RUN"])
        damage = rows[name].damage
        assert damage is not None
        damage(Path(put(rows[name].place, here)))
        peaks[name] = peak_bytes(rows[name], here)
    assert max(peaks.values()) < peaks[small] + _MOST_MORE_BYTES, peaks
