"""Folders written whole or not at all, replaced only if they are ours, and found again after a kill."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from causalrn.bundle.disk import folders
from causalrn.bundle.disk.files import sha256_file
from causalrn.bundle.disk.folders import (
    check_renewable,
    check_replaceable,
    recover_to_read,
    renewed_folder,
    written_folder,
)
from causalrn.bundle.disk.inplace import COMING, GOING
from causalrn.bundle.disk.ownership import Marker
from causalrn.bundle.json_values import json_text, own_hash
from causalrn.errors import InputError

OURS = Marker("manifest.json", "ours", "own_sha256", {"certificate.json": "certificate_sha256"})


def _write(folder, **contents):
    """Fill a folder as ours are: files, and a marker file with their hashes."""
    for name, content in contents.items():
        (folder / name).write_text(content)
    _seal(folder)


def _seal(folder, **entries):
    files = {path.name: {"sha256": sha256_file(path)} for path in folder.iterdir() if path.name != OURS.file}
    data = {"format": "ours", "files": files, **entries}
    (folder / OURS.file).write_text(json_text(data | {"own_sha256": own_hash(data, "own_sha256")}))


def _content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _fail(folder, error):
    _write(folder, weights="half")
    raise error


@pytest.fixture
def place(tmp_path):
    """A folder of ours in a folder of its own."""
    (tmp_path / "bundle").mkdir()
    _write(tmp_path / "bundle", weights="old", only_old="old")
    return tmp_path / "bundle"


@pytest.fixture(params=["exchange", "two renames", "in place"])
def way(request, monkeypatch, tmp_path):
    """The ways in which a folder is replaced."""
    if request.param == "two renames":
        monkeypatch.setattr(folders, "exchange", lambda first, second: False)
    if request.param == "in place":
        monkeypatch.setattr(folders, "must_write_inside", Path.is_dir)
    return request.param


def test_folder_is_replaced_whole(place, way):
    with written_folder(place, OURS) as partial:
        _write(partial, weights="new", only_new="new")
    assert sorted(_content(place)) == ["manifest.json", "only_new", "weights"]
    assert [path.name for path in place.parent.iterdir()] == ["bundle"]
    check_replaceable(place, OURS)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_failure_leaves_the_old_folder(place, way, error):
    before = _content(place)
    with pytest.raises(error), written_folder(place, OURS) as partial:
        _fail(partial, error)
    assert _content(place) == before
    assert [path.name for path in place.parent.iterdir()] == ["bundle"]


def test_failure_leaves_no_folders_that_were_made_for_it(tmp_path):
    with pytest.raises(RuntimeError), written_folder(tmp_path / "a" / "b" / "bundle", OURS):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_mount_that_nothing_shows_is_written_in_place(place, monkeypatch):
    def refuse(first, second):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(second))

    monkeypatch.setattr(folders, "exchange", refuse)
    identity = place.stat().st_ino
    with written_folder(place, OURS) as partial:
        _write(partial, weights="new")
    assert sorted(_content(place)) == ["manifest.json", "weights"]
    assert place.stat().st_ino == identity


@pytest.mark.parametrize(
    "spoil",
    {
        "a file of the user": lambda folder: (folder / "thesis.tex").write_text("years of work"),
        "a file that the manifest merely lists": lambda folder: (
            (folder / "thesis.tex").write_text("years of work"),
            _list_without_hash(folder, "thesis.tex"),
        ),
        "an edited file": lambda folder: (folder / "weights").write_text("mine"),
        "an edited manifest": lambda folder: _list_without_hash(folder, "other"),
        "a certificate of the user's": lambda folder: (folder / "certificate.json").write_text('{"mine": 1}'),
        "a folder": lambda folder: ((folder / "notes").mkdir(), (folder / "notes" / "x").write_text("mine")),
        "an empty folder": lambda folder: (folder / "notes").mkdir(),
        "a hidden file": lambda folder: (folder / ".bundle.notes").write_text("mine"),
        "a folder elsewhere that the manifest lists": lambda folder: (
            (folder.parent / "o").mkdir(),
            (folder.parent / "o" / "thesis.tex").write_text("mine"),
            (folder / "mine").write_text(""),
            _seal_with_folders(folder),
        ),
    }.items(),
    ids=lambda spoil: spoil[0],
)
def test_what_is_not_ours_is_refused_by_name_and_goes_only_when_asked(place, way, spoil):
    spoil[1](place)
    before = _content(place.parent)
    with pytest.raises(InputError, match=r"holds other files \(.+\): name another output, or add `overwrite`"):
        check_replaceable(place, OURS)
    assert _content(place.parent) == before
    with written_folder(place, OURS, overwrite=True) as partial:
        _write(partial, weights="new")
    assert sorted(_content(place)) == ["manifest.json", "weights"]
    assert {name: content for name, content in before.items() if not name.startswith("bundle/")} == {
        name: content for name, content in _content(place.parent).items() if not name.startswith("bundle/")
    }


def _list_without_hash(folder, name):
    data = json.loads((folder / OURS.file).read_text())
    data["files"][name] = {"sha256": "0" * 64}
    (folder / OURS.file).write_text(json.dumps(data))


def _seal_with_folders(folder):
    (folder / "mine").unlink()
    _seal(folder, folders={"../o": "0" * 64, "/": 1, "o": None})
    (folder / "mine").write_text("")


def test_whole_certificate_is_ours(place):
    data = {"report": 1}
    text = json_text(data | {"certificate_sha256": own_hash(data, "certificate_sha256")})
    (place / "certificate.json").write_text(text)
    check_replaceable(place, OURS)


def test_folder_inside_is_ours_with_the_recorded_hash_only(place):
    inside = place / "beside"
    inside.mkdir()
    _write(inside, weights="inner")
    (place / OURS.file).unlink()
    files = {path.name: {"sha256": sha256_file(path)} for path in place.iterdir() if path.is_file()}
    data = {"format": "ours", "files": files, "folders": {"beside": sha256_file(inside / OURS.file)}}
    (place / OURS.file).write_text(json_text(data | {"own_sha256": own_hash(data, "own_sha256")}))
    check_replaceable(place, OURS)
    (inside / "mine").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files \(beside, changed\)"):
        check_replaceable(place, OURS)


@pytest.mark.parametrize(
    "files", [{}, {"manifest.json": "{}"}, {"manifest.json": "["}, {"manifest.json": '{"a": NaN}'}]
)
def test_somebody_elses_folder_is_refused_even_when_asked(tmp_path, files):
    """Web extensions have a manifest.json, too."""
    for name, content in {**files, "thesis.tex": "years of work"}.items():
        (tmp_path / name).write_text(content)
    for overwrite in (False, True):
        with pytest.raises(InputError, match="name another output, or empty it first"):
            check_replaceable(tmp_path, OURS, overwrite)


def test_places_where_no_folder_can_be_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for path, words in [("file", "is a file, not a folder"), ("link", "symbolic link"), (".", "the current folder")]:
        with pytest.raises(InputError, match=words), written_folder(Path(path), OURS):
            raise AssertionError("never entered")


def test_renewed_folder_keeps_what_it_does_not_bring(place):
    (place / "notes").write_text("mine")
    with renewed_folder(place, OURS) as partial:
        _write(partial, weights="new")
    assert _content(place)["notes"] == b"mine"
    assert _content(place)["weights"] == b"new"
    assert sorted(_content(place)) == ["manifest.json", "notes", "only_old", "weights"]
    check_renewable(place, OURS)


class _KilledError(BaseException):
    """A process ends here; what has been done so far stays."""


_STEPS = ("replace", "rmdir", "unlink", "mkdir", "chmod", "write_bytes")


def _killed_at(monkeypatch, count):
    """Let the process end at the n-th change in the file system: from then on nothing can be changed any more."""
    left = [count]
    for name in _STEPS:
        change = getattr(Path, name)

        def step(self, *args, change=change, **options):
            left[0] -= 1
            if left[0] < 0:
                raise _KilledError
            return change(self, *args, **options)

        monkeypatch.setattr(Path, name, step)
    for name in ("rmtree", "copytree"):
        monkeypatch.setattr(shutil, name, _unless_killed(getattr(shutil, name), left))


def _unless_killed(call, left):
    return lambda *args, **options: None if left[0] < 0 else call(*args, **options)


@pytest.mark.parametrize("keeps", [False, True], ids=["replaced", "renewed"])
def test_kill_at_any_change_leaves_the_old_or_the_new_folder_and_the_next_command_tidies_up(
    place, way, keeps, monkeypatch
):
    write = renewed_folder if keeps else written_folder
    brought = {"weights": b"new", "only_new": b"new"}
    for count in range(100):
        old = _content(place)
        with monkeypatch.context() as patch:
            _killed_at(patch, count)
            try:
                with write(place, OURS) as partial:
                    (partial / "weights").write_bytes(b"new")
                    (partial / "only_new").write_bytes(b"new")
                    _seal(partial)
                ended = True
            except _KilledError:
                ended = False
        recover_to_read(place)
        found = {name: content for name, content in _content(place).items() if not name.startswith(".bundle.")}
        new = {name for name in found if found[name] == b"new"} == set(brought)
        assert new or found == old, (count, found)
        check_renewable(place, OURS) if keeps else check_replaceable(place, OURS)
        assert not [path for path in place.parent.rglob(".*") if path.name not in (".", "..")], count
        if ended:
            break
        if new:  # from the start again
            for path in place.iterdir():
                path.unlink()
            _write(place, weights="old", only_old="old")
    else:
        raise AssertionError("more changes than were tried")
    assert count >= 7


def test_renewal_that_came_with_a_copy_decides_nothing(place):
    """Only a renewal of this very folder is finished: a stranger's archive may hold one that moves files."""
    (place / "mine").write_text("mine")
    (place / COMING).mkdir()
    journal = {"folder": [1, 2], "marker": "manifest.json", "going": ["mine"], "coming": []}
    (place / COMING / ".journal.json").write_text(json.dumps(journal))
    before = _content(place)
    recover_to_read(place)
    assert _content(place) == before
    identity = [place.stat().st_dev, place.stat().st_ino]
    for going in (["../bundle/mine"], ["/"], [".."], "mine", [1]):
        (place / COMING / ".journal.json").write_text(json.dumps(journal | {"folder": identity, "going": going}))
        before = _content(place)
        recover_to_read(place)
        assert _content(place) == before, going
    with pytest.raises(InputError, match=COMING):
        check_replaceable(place, OURS)
    assert not (place / GOING).exists()
