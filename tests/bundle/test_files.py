"""Files and folders written whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from causalrn.bundle.files import Marker, written_file, written_folder
from causalrn.errors import InputError

OURS = Marker("manifest.json", "ours", names=("first", "second"), leftovers=(".partial",))
MINE = '{"format": "ours"}'


def _fail(path):
    (path / "half" if path.is_dir() else path).write_text("half")
    raise RuntimeError("disk full")


def test_failed_file_leaves_the_old_one(tmp_path):
    target = tmp_path / "report.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), written_file(target) as partial:
        _fail(partial)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert target.read_text() == "old"


def test_failed_folder_leaves_the_old_one(tmp_path):
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "manifest.json").write_text(MINE)
    with pytest.raises(RuntimeError), written_folder(target, OURS) as partial:
        _fail(partial)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (target / "manifest.json").read_text() == MINE


def test_what_a_killed_process_left_is_ours_to_remove(tmp_path):
    (tmp_path / "manifest.json").write_text(MINE)
    for name in (".partial", ".first.abc.partial", ".manifest.json.x.partial", ".mine.abc.partial", "first.partial"):
        (tmp_path / name).write_text("half")
    assert OURS.foreign(tmp_path) == [".mine.abc.partial", "first.partial"]
    OURS.remove_leftovers(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"manifest.json", ".mine.abc.partial", "first.partial"}


def test_folder_of_ours_is_replaced_whole(tmp_path):
    target = tmp_path / "bundle"
    for content in ("first", "second"):
        with written_folder(target, OURS) as partial:
            (partial / "manifest.json").write_text(MINE)
            (partial / content).write_text(content)
    assert sorted(path.name for path in target.iterdir()) == ["manifest.json", "second"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    "files", [{}, {"manifest.json": "{}"}, {"manifest.json": MINE, "first/x": "1"}, {"manifest.json": MINE}]
)
def test_somebody_elses_folder_is_refused(tmp_path, files):
    """Web extensions have a manifest.json too, and whoever keeps folders in a bundle would lose them."""
    for name, content in {**files, "thesis.tex": "years of work"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="holds other files"), written_folder(tmp_path, OURS):
        raise AssertionError("never entered")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_current_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the current folder"), written_folder(Path(), OURS):
        raise AssertionError("never entered")


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="is a file, not a folder"), written_folder(tmp_path / "out", OURS):
        raise AssertionError("never entered")


def test_file_in_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no folder"), written_file(tmp_path / "no" / "file"):
        raise AssertionError("never entered")


def test_leftovers_of_a_killed_process_are_no_obstacle(tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / ".partial").write_text("")
    with written_folder(tmp_path / "bundle", OURS) as partial:
        (partial / "manifest.json").write_text(MINE)
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["manifest.json"]


def test_symbolic_link_to_a_file_is_written_through(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with written_file(tmp_path / "link") as partial:
        partial.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_pipe_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with written_file(tmp_path / "pipe") as place:
        assert place == tmp_path / "pipe"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
