"""Nothing is reported to anybody, and no identifier is left: not by a command, nor by a process that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import ROOT

COMMANDS = {
    "run": ("run", "BUNDLE", "--prompt", "abc", "--max-new-tokens", "2"),
    "bench, whose rows run in processes of their own": ("bench", "BUNDLE", "-n", "2", "-r", "3", "-d", "4", "-p", "2"),
}


def environment(home: Path, **more: str) -> dict[str, str]:
    """No variable of a build server: onnxruntime reports nothing where it finds one."""
    places = {"HOME": home, "TMPDIR": home / "tmp", "XDG_CACHE_HOME": home / "cache"}
    for place in places.values():
        place.mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **{name: str(place) for name, place in places.items()},
        **more,
    }


def run_python(arguments: tuple[str, ...], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_commands_leave_no_identifier_and_no_report(bundles, tmp_path, arguments):
    words = [str(bundles["linear"]) if word == "BUNDLE" else word for word in arguments]
    result = run_python(("-m", "causalrn", *words), environment(tmp_path))
    assert result.returncode == 0, result.stderr
    ours = tmp_path / "cache" / "causalrn"  # compiled code
    assert [path for path in tmp_path.rglob("*") if not path.is_dir() and ours not in path.parents] == []


@pytest.mark.parametrize("module", ["causalrn", "causalrn.runtimes.ort_session", "causalrn.runtimes"])
def test_it_is_switched_off_before_onnxruntime_is_imported(tmp_path, module):
    """Also for whoever uses the package as a library, and then onnxruntime itself."""
    code = f"""
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
            print("seen")

sys.meta_path.insert(0, Watch())
import {module}
import onnxruntime
"""
    result = run_python(("-c", code), environment(tmp_path))
    assert (result.returncode, result.stdout) == (0, "seen\n"), result.stderr
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("choice", ["0", "1", ""])
def test_a_users_own_choice_is_left_alone(tmp_path, choice):
    code = "import causalrn, os; print(repr(os.environ['ORT_DISABLE_TELEMETRY']))"
    result = run_python(("-c", code), environment(tmp_path, ORT_DISABLE_TELEMETRY=choice))
    assert result.stdout == f"{choice!r}\n", result.stderr
