"""Types of the web module, `causalrn.d.ts`: strict programs compile with them, and wrong ones do not."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.builders import ROOT
from tests.npm_tools import TYPESCRIPT, Share, install

pytestmark = pytest.mark.slow

MODULE = ROOT / "export" / "web" / "module"
HERE = Path(__file__).parent
STRICT = ("--strict", "--noUncheckedIndexedAccess", "--exactOptionalPropertyTypes", "--noUnusedLocals")
LANGUAGE = ("--target", "es2022", "--lib", "es2022,dom,dom.iterable", "--types", "")
RESOLUTIONS = {"nodenext": "nodenext", "bundler": "esnext"}  # how packages are found, and modules written


@pytest.fixture(scope="module")
def tsc(share: Share) -> Path:
    return install(share, "typescript", TYPESCRIPT) / ".bin" / "tsc"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An app that has the module as a package."""
    shutil.copytree(MODULE, tmp_path / "node_modules" / "causalrn-web-bundle")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    return tmp_path


def compile_program(tsc: Path, project: Path, name: str, resolution: str = "nodenext") -> tuple[int, str]:
    """The exit code of the compiler, and its errors: "NAME(line,column): error ..." each."""
    shutil.copy(HERE / name, project / name)
    modules = ("--moduleResolution", resolution, "--module", RESOLUTIONS[resolution])
    command = [str(tsc), "--noEmit", "--pretty", "false", *STRICT, *LANGUAGE, *modules, name]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, timeout=300)
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_strict_program_compiles(tsc, project, resolution):
    assert compile_program(tsc, project, "uses_of_types.ts", resolution) == (0, "")


def test_each_mistake_is_refused(tsc, project):
    code, printed = compile_program(tsc, project, "misuses_of_types.ts")
    lines = (HERE / "misuses_of_types.ts").read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("// wrong")}
    assert code != 0
    assert {int(number) for number in re.findall(r"misuses_of_types\.ts\((\d+),", printed)} == wrong, printed


def test_program_uses_every_exported_name():
    types = (MODULE / "causalrn.d.ts").read_text(encoding="utf-8")
    program = (HERE / "uses_of_types.ts").read_text(encoding="utf-8")
    exported = re.findall(r"^export (?:class|interface|function) (\w+)", types, re.MULTILINE)
    imported = re.search(r"import \{(.*?)\} from", program, re.DOTALL)
    assert len(exported) == len(re.findall(r"^export ", types, re.MULTILINE))
    assert imported
    assert set(exported) == set(re.findall(r"(\w+),?$", imported[1], re.MULTILINE))


def test_what_is_exported_at_run_time_has_types():
    module = (MODULE / "causalrn.js").read_text(encoding="utf-8")
    types = (MODULE / "causalrn.d.ts").read_text(encoding="utf-8")
    (again,) = re.findall(r"^export \{ (.*?) \};", module, re.MULTILINE)
    values = {*again.split(", "), *re.findall(r"^export (?:async )?(?:class|function) (\w+)", module, re.MULTILINE)}
    assert values == set(re.findall(r"^export (?:class|function) (\w+)", types, re.MULTILINE))
