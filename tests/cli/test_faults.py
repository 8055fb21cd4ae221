"""Kills, Ctrl-C and full disks at every write of every command that writes: the old output or the new one, complete.

Python reports every file that it opens, renames or deletes to audit hooks (PEP 578), whichever library does it. A kill
at a write leaves what is on disk just before it, so one run of a command shows them all; Ctrl-C and a full disk need a
run each, of which `make faults` makes all, and the ordinary tests those of the commands that take a moment.
"""

import contextlib
import errno
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk import inplace
from causalrn.bundle.disk.files import written_file
from causalrn.bundle.disk.folders import check_replaceable
from causalrn.bundle.manifest import BUNDLE_MARKER
from causalrn.bundle.trt_flavors import RTX
from causalrn.training.checkpoint import load_checkpoint
from causalrn.training.checkpoint_folder import CHECKPOINT_MARKER
from tests.c_tools import HAS_C_COMPILER

ALL = bool(os.environ.get("CAUSALRN_ALL_FAULTS"))

TRAIN = "train --length 3 --steps 4 --batch 4 --evaluate-every 2 --blocks 1 --device cpu --overwrite -o PLACE/out"
COMMANDS = {
    "export": "export RUN -o PLACE/out",
    "export c": "export RUN -o PLACE/out --target c",
    "quantize": "quantize BUNDLE -o PLACE/out --scheme w8 --samples 4",
    "compile": "compile FIXED -o PLACE/out --max-batch 1",
    "convert": "convert RUN -o PLACE/out --overwrite",
    "train": TRAIN,
    "verify": "verify BUNDLE --runtime onnxruntime --level logits --json PLACE/a.json --html PLACE/b.html"
    " --save-outputs PLACE/c.npz --certificate PLACE/d.json",
}
IN_A_MOMENT = ("convert",)
"""Commands that are run with every fault in the ordinary tests."""


class _Watch:
    """Calls `notice(number, is_new_content)` before each change below a folder."""

    def __init__(self):
        self.place, self.notice, self.count = None, None, 0

    @contextlib.contextmanager
    def on(self, place, notice):
        self.place, self.notice, self.count = place, notice, 0
        try:
            yield
        finally:
            self.place = None

    def hear(self, event, args):
        if self.place is None or self.notice is None or event not in _PATHS:
            return
        path, descriptor = _PATHS[event](args)
        if event == "open" and not _is_for_writing(args):
            return
        if isinstance(path, int) or path is None:
            return
        path = Path(os.fsdecode(path))
        if not path.is_absolute() and descriptor not in (None, -1):
            path = Path(f"/proc/self/fd/{descriptor}").readlink() / path
        if self.place in path.absolute().parents:
            place, self.place = self.place, None  # what is noticed changes files, too
            try:
                self.count += 1
                self.notice(self.count - 1, event == "open")
            finally:
                self.place = place


_PATHS = {
    "open": lambda args: (args[0], None),
    "os.rename": lambda args: (args[1], args[3]),
    "os.remove": lambda args: (args[0], args[1]),
    "os.rmdir": lambda args: (args[0], args[1]),
    "os.mkdir": lambda args: (args[0], args[2]),
    "os.chmod": lambda args: (args[0], args[2]),
}
"""Path, and descriptor of the folder that it is relative to, of the events that change files."""


def _is_for_writing(args):
    _, mode, flags = args
    return any(letter in (mode or "") for letter in "wax+") or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


WATCH = _Watch()
sys.addaudithook(WATCH.hear)


@pytest.fixture
def arguments(runs, bundles, fixed_bundle, tmp_path):
    """The command's arguments, with an earlier output of it in PLACE."""

    def of(name):
        if name == "export c" and not HAS_C_COMPILER:
            pytest.skip("needs a C compiler: install gcc or clang")
        if name == "compile" and not RTX.is_installed:
            pytest.skip(f"needs TensorRT-RTX: {RTX.install}")
        place = tmp_path / "place"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if name == "verify":
            for file in ("a.json", "b.html", "c.npz", "d.json"):
                (place / file).write_text("old")
        else:
            earlier = bundles["linear"] if name not in ("convert", "train") else runs["linear"]
            shutil.copytree(earlier, place / "out")
        words = {"RUN": runs["exact"], "BUNDLE": bundles["exact"], "FIXED": fixed_bundle}
        parts = COMMANDS[name].split()
        return place, [words.get(part, part.replace("PLACE", str(place))) for part in parts]

    return of


def _assert_whole(place, name):
    """Every folder or file there is an earlier output or a new one, to its last byte."""
    if name == "verify":
        assert (place / "a.json").read_text() == "old" or (place / "a.json").read_text().endswith("}\n")
        assert (place / "b.html").read_text() == "old" or (place / "b.html").read_text().endswith("</html>")
        assert (place / "c.npz").read_bytes() == b"old" or (place / "c.npz").read_bytes().startswith(b"PK")
    elif name in ("convert", "train"):
        load_checkpoint(place / "out")
    else:
        Bundle.open(place / "out")


def _assert_no_leftovers(place):
    assert not [path for path in place.rglob(".*") if path.name != ".gitattributes"]


def _begin_again(place, name):
    """What the next command does before its work."""
    if name == "verify":
        for file in ("a.json", "b.html", "c.npz", "d.json"):
            with contextlib.suppress(RuntimeError), written_file(place / file):
                raise RuntimeError
    else:
        check_replaceable(place / "out", CHECKPOINT_MARKER if name in ("convert", "train") else BUNDLE_MARKER)


@pytest.mark.parametrize("name", COMMANDS)
def test_kill_at_any_write_leaves_the_old_output_or_the_new_one(name, arguments, call, tmp_path):
    place, command = arguments(name)
    snapshots = []

    def keep(number, is_new):
        snapshots.append(tmp_path / f"{number}")
        shutil.copytree(place, snapshots[-1])

    with WATCH.on(place, keep):
        code, _, error = call(*command)
    assert code == 0, error
    assert len(snapshots) >= 4
    for snapshot in snapshots:
        if (snapshot / "out" / inplace.COMING).exists():  # a journal speaks of its own folder, not of a copy
            _adopt(snapshot / "out", place / "out")
        _assert_whole(snapshot, name)
        _begin_again(snapshot, name)
        _assert_no_leftovers(snapshot)
        _assert_whole(snapshot, name)
        shutil.rmtree(snapshot)


def _adopt(folder, original):
    journal = folder / inplace.COMING / ".journal.json"
    if journal.exists():
        of = original.stat()
        here = folder.stat()
        text = journal.read_text()
        assert f"[{of.st_dev},{of.st_ino}]" in text
        journal.write_text(text.replace(f"[{of.st_dev},{of.st_ino}]", f"[{here.st_dev},{here.st_ino}]"))


def _writes_of(command, call, place):
    """How many changes a command makes, and which of them open a file."""
    opened = []
    with WATCH.on(place, lambda number, is_new: opened.append(is_new)):
        assert call(*command)[0] == 0
    return opened


@pytest.mark.parametrize("name", COMMANDS if ALL else IN_A_MOMENT)
@pytest.mark.parametrize("fault", ["Ctrl-C", "SIGTERM", "full disk"])
def test_fault_at_any_write_leaves_the_old_output_or_the_new_one(name, fault, arguments, call):
    place, command = arguments(name)
    opened = _writes_of(command, call, place)
    tried = 0
    for number, is_new in enumerate(opened):
        if fault == "full disk" and not is_new:
            continue
        place, command = arguments(name)
        with _stopped_by_signals(), WATCH.on(place, _fault_at(number, fault)):
            code, _, error = call(*command)
        assert code == (2 if fault == "full disk" else 130), (number, error)
        assert error.splitlines()[-1].startswith("Error: ")
        assert "Traceback" not in error
        if fault == "full disk":
            assert str(place) in error, (number, error)
            assert "the disk is full" in error
            assert "partial" not in error
        _assert_whole(place, name)
        _assert_no_leftovers(place)
        tried += 1
    assert tried >= 2


def _fault_at(count, fault):
    def notice(number, is_new):
        if number != count:
            return
        if fault == "full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        signal.raise_signal(signal.SIGINT if fault == "Ctrl-C" else signal.SIGTERM)

    return notice


@contextlib.contextmanager
def _stopped_by_signals():
    """Both signals raise KeyboardInterrupt, as in the program."""

    def stop(*_):
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
