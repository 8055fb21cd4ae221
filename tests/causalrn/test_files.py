"""Files and folders written whole or not at all."""

import pytest

from causalrn.errors import InputError
from causalrn.files import written_file, written_folder


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
    (target / "manifest.json").write_text("old")
    with pytest.raises(RuntimeError), written_folder(target, "manifest.json") as partial:
        _fail(partial)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (target / "manifest.json").read_text() == "old"


def test_folder_of_ours_is_replaced_whole(tmp_path):
    target = tmp_path / "bundle"
    for content in ("first", "second"):
        with written_folder(target, "manifest.json") as partial:
            (partial / "manifest.json").write_text("m")
            (partial / content).write_text(content)
    assert sorted(path.name for path in target.iterdir()) == ["manifest.json", "second"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_somebody_elses_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(InputError, match=r"holds other files \(no manifest\.json\)"),
        written_folder(tmp_path, "manifest.json"),
    ):
        raise AssertionError("never entered")
    assert (tmp_path / "thesis.tex").exists()


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="is a file, not a folder"), written_folder(tmp_path / "out", "m"):
        raise AssertionError("never entered")


def test_file_in_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no folder"), written_file(tmp_path / "no" / "file"):
        raise AssertionError("never entered")
