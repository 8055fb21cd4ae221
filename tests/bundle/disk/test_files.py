"""Files written whole or not at all, wherever they go."""

import os
import stat
import threading
from pathlib import Path

import pytest

from causalrn.bundle.disk.files import check_output_file, written_file
from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.errors import InputError


def _fail(path):
    path.write_text("half")
    raise RuntimeError("disk full")


def test_failed_file_leaves_the_old_one(tmp_path):
    target = tmp_path / "report.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), written_file(target) as partial:
        _fail(partial)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert target.read_text() == "old"


def test_file_in_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no folder"), written_file(tmp_path / "no" / "file"):
        raise AssertionError("never entered")


def test_symbolic_link_to_a_file_is_written_through(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with written_file(tmp_path / "link") as partial:
        partial.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_pipe_gets_the_whole_content_and_is_not_replaced(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    for _ in range(1000):  # until the reader is there
        try:
            check_output_file(pipe)
            break
        except InputError:
            threading.Event().wait(0.01)
    with written_file(pipe) as place:
        place.write_text("content")
    reader.join()
    assert read == ["content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_pipe_that_nobody_reads_is_refused_before_the_work(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="nobody reads from this pipe"):
        check_output_file(tmp_path / "pipe")
    with pytest.raises(InputError, match="nobody reads from this pipe"), written_file(tmp_path / "pipe") as place:
        place.write_text("content")


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path):
    (tmp_path / ".report.abcdefgh.partial").write_text("half")
    (tmp_path / ".report.notes.partial").write_text("not named as ours are")
    with written_file(tmp_path / "report") as first:
        first.write_text("first")
        with written_file(tmp_path / "report") as second:
            second.write_text("second")
        assert first.read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".report.notes.partial", "report"]
    assert (tmp_path / "report").read_text() == "first"


def test_standard_output_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="name a file"), written_file(Path("-")):
        raise AssertionError("never entered")


def test_full_disk_names_the_file_that_the_user_knows(tmp_path):
    with pytest.raises(OSError, match="No space") as raised, written_file(tmp_path / "report") as partial:
        raise OSError(28, "No space left on device", str(partial))
    assert raised.value.filename == str(tmp_path / "report")
    with pytest.raises(OSError, match="No space") as raised, written_file(tmp_path / "report"):
        raise OSError(28, "No space left on device")
    assert raised.value.filename == str(tmp_path / "report")


def test_temporary_folders_of_killed_processes_go(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / ".causalrn.abcdefgh.partial").mkdir()
    (tmp_path / ".causalrn.abcdefgh.partial" / "weights").write_text("left")
    with temporary_folder() as folder, temporary_folder() as other:
        (folder / "x").write_text("x")
        assert sorted(tmp_path.iterdir()) == sorted([folder, other])
    assert not list(tmp_path.iterdir())
