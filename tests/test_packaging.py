"""What is published: the wheel is complete, holds nothing twice, and claims no import name but `causalrn`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED_ROOMS = ("export", "runtimes", "calibration")


@dataclass(frozen=True)
class Distributions:
    """What `python -m build` made of a copy of this checkout."""

    checkout: Path
    wheel: Path
    sdist: Path

    @property
    def wheel_names(self) -> list[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return archive.namelist()


def copy_checkout(target: Path) -> None:
    """Copy what git tracks or would track, links as links: no build left-overs, no virtual environment."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listing.stdout.split("\0")):
        source = ROOT / name
        if source.is_symlink() or source.exists():  # a file deleted but not yet committed is still listed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)


def build(source: Path, output: Path, *kinds: str) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(output), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (made,) = output.glob("*.whl" if "--wheel" in kinds else "*.tar.gz")
    return made


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Both built straight from the checkout."""
    folder = tmp_path_factory.mktemp("packaging")
    checkout = folder / "checkout"
    copy_checkout(checkout)
    sdist = build(checkout, folder / "dist", "--sdist")
    wheel = build(checkout, folder / "dist", "--wheel")
    return Distributions(checkout, wheel, sdist)


@pytest.fixture(scope="module")
def installed(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to put on sys.path that holds the wheel's contents."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(distributions.wheel) as archive:
        archive.extractall(folder)
    return folder


def import_from(folder: Path, code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code with a folder first on sys.path, and without the editable install of this checkout."""
    prelude = "import sys; sys.meta_path = [f for f in sys.meta_path if 'Editable' not in repr(f)]\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def wheel_path(source: str) -> str:
    """Where the wheel has a source: `export/web/npm_package.py` -> `causalrn/export/web/npm_package.py`."""
    return source if source.startswith("causalrn/") else f"causalrn/{source}"


def expected_modules(checkout: Path) -> set[str]:
    """Every .py of the four rooms, by its path in the wheel; the links below causalrn/ are not followed."""
    paths = [path.relative_to(checkout) for path in (checkout / "causalrn").rglob("*.py")]
    own = {path.as_posix() for path in paths if path.parts[1] not in LINKED_ROOMS}
    linked = {
        wheel_path(path.relative_to(checkout).as_posix())
        for room in LINKED_ROOMS
        for path in (checkout / room).rglob("*.py")
    }
    return own | linked


def faults(names: list[str], expected: set[str]) -> list[str]:
    """What is wrong with a wheel's list of files."""
    modules = {name for name in names if name.endswith(".py")}
    found = [f"missing: {name}" for name in sorted(expected - modules)]
    found += [f"extra: {name}" for name in sorted(modules - expected)]
    found += [f"twice: {name}" for name, count in Counter(names).items() if count > 1]
    tops = {name.partition("/")[0] for name in names}
    return found + [f"top level: {top}" for top in sorted(tops) if top != "causalrn" and not top.endswith(".dist-info")]


def test_wheel_is_complete_and_holds_nothing_else(distributions: Distributions) -> None:
    expected = expected_modules(distributions.checkout)
    assert {
        "causalrn/model/sequence_model.py",
        "causalrn/training/tasks/base.py",
        "causalrn/cli/console.py",
        "causalrn/runtimes/session.py",
    } < expected
    assert faults(distributions.wheel_names, expected) == []
    assert "causalrn/py.typed" in distributions.wheel_names
    assert any(name.endswith("/licenses/LICENSE") for name in distributions.wheel_names)


def test_wheel_faults_are_found() -> None:
    expected = {"causalrn/__init__.py", "causalrn/export/__init__.py"}
    good = [*expected, "causalrn/py.typed", "causalrn-0.1.0.dist-info/METADATA"]
    assert faults(good, expected) == []
    assert faults(good[1:], expected) == [f"missing: {good[0]}"]
    assert faults([*good, "causalrn/py.typed"], expected) == ["twice: causalrn/py.typed"]
    assert faults([*good, "export/x.py"], expected) == ["extra: export/x.py", "top level: export"]
    assert faults([*good, "tests/x.py"], expected) == ["extra: tests/x.py", "top level: tests"]


def test_wheel_has_the_sources_unchanged(distributions: Distributions, installed: Path) -> None:
    for name in expected_modules(distributions.checkout):
        assert (installed / name).read_bytes() == (distributions.checkout / name).read_bytes()


def test_wheel_and_sdist_have_every_file_of_the_c_kernel_once(distributions: Distributions) -> None:
    pieces = {path.name for path in (distributions.checkout / "export" / "c99" / "kernel").iterdir()}
    assert {"causalrn.c", "products.h"} < pieces
    with tarfile.open(distributions.sdist) as archive:
        sdist_names = [name.partition("/")[2] for name in archive.getnames()]
    for names, folder in ((distributions.wheel_names, "causalrn/export/c99"), (sdist_names, "export/c99")):
        found = [name for name in names if name.startswith(f"{folder}/kernel/")]
        assert sorted(found) == sorted(f"{folder}/kernel/{piece}" for piece in pieces)
        assert [name for name in names if name.endswith("/causalrn.c")] == [f"{folder}/kernel/causalrn.c"]


def test_wheel_has_the_entry_point(installed: Path) -> None:
    (path,) = installed.glob("*.dist-info/entry_points.txt")
    parser = ConfigParser()
    parser.read(path)
    assert dict(parser["console_scripts"]) == {"causalrn-export": "causalrn.__main__:main"}


def test_sdist_builds_the_same_wheel(distributions: Distributions, tmp_path: Path) -> None:
    with tarfile.open(distributions.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    again = build(source, tmp_path / "dist", "--wheel")
    with zipfile.ZipFile(again) as ours, zipfile.ZipFile(distributions.wheel) as theirs:
        contents = [{name: archive.read(name) for name in archive.namelist()} for archive in (ours, theirs)]
    assert contents[0] == contents[1]


def test_sdist_has_what_tests_need(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "Makefile", "constraints.txt", "tests/conftest.py"} <= names
    assert {"CONTRIBUTING.md", ".pre-commit-config.yaml", "docs/conf.py", "docs/_static/site.css"} <= names
    assert {
        path.relative_to(distributions.checkout).as_posix() for path in distributions.checkout.glob("examples/*")
    } <= names


def test_installed_wheel_is_imported_as_causalrn_only(installed: Path, tmp_path: Path) -> None:
    code = "import causalrn.cli, causalrn.runtimes, causalrn.calibration; print(causalrn.cli.__file__)"
    result = import_from(installed, code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(installed)


@pytest.mark.parametrize("room", LINKED_ROOMS)
def test_installed_wheel_claims_no_other_name(room: str, installed: Path, tmp_path: Path) -> None:
    result = import_from(installed, f"import {room}", cwd=tmp_path)
    assert result.returncode == 1
    assert f"ModuleNotFoundError: No module named '{room}'" in result.stderr


def test_installed_wheel_works_beside_a_users_export_module(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "export.py").write_text("mine = True\n")
    code = "import export, causalrn.cli; assert export.mine"
    result = import_from(installed, code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
