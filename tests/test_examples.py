"""What is in examples/ runs, as users start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import causalrn

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run_example(name: str, *arguments: object, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run an example as a script, with packages blocked that it must not need."""
    block = f"import sys; sys.modules.update(dict.fromkeys({without!r}))"
    run = (
        f"{block}; import runpy; sys.argv = {[name, *map(str, arguments)]!r}; runpy.run_path({str(EXAMPLES / name)!r})"
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", run],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train_export_verify.py` writes."""
    folder = tmp_path_factory.mktemp("example")
    result = run_example("train_export_verify.py", folder)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("copied 100%")
    assert lines.count("verify: PASS") == 2
    assert lines[-2:] == ["abc -> abc", "xyz -> xyz"]
    return folder


@pytest.mark.cases(1)
@pytest.mark.slow
@pytest.mark.parametrize("folder", ["bundle", "small"])
def test_step_loop_without_this_toolkit_copies(example: Path, folder: str) -> None:
    result = run_example("onnxruntime_only.py", example / folder, "fox", without=("causalrn", "torch", "onnx"))
    assert result.returncode == 0, result.stderr
    assert result.stdout == "fox\n"


@pytest.mark.cases(0)
@pytest.mark.slow
@pytest.mark.parametrize("pool", ["fixed", "concat"])
def test_step_loop_without_this_toolkit_takes_other_pools(example: Path, pool: str, tmp_path: Path) -> None:
    causalrn.export(example / "run", output=tmp_path / pool, pool=pool)
    result = run_example("onnxruntime_only.py", tmp_path / pool, "fox", without=("causalrn", "torch", "onnx"))
    assert result.stdout == "fox\n", result.stderr


@pytest.mark.parametrize("readout", ["linear", "plain"])
def test_step_loop_without_this_toolkit_gives_what_the_session_gives(bundles: dict[str, Path], readout: str) -> None:
    """States of constant size; the weights are random, so it is no copy."""
    result = run_example("onnxruntime_only.py", bundles[readout], "fox", without=("causalrn", "torch", "onnx"))
    assert result.returncode == 0, result.stderr
    with causalrn.open_session(bundles[readout]) as session:
        tokens = [int(step.tokens[0]) for step in session.generate("fox")]
    letters = "".join(chr(token - 3 + ord("a")) if token > 2 else "?" for token in tokens if token != 2)
    assert len(letters) > 0
    assert result.stdout.strip()[: len(letters)] == letters[: len(result.stdout.strip())]


def test_every_example_is_in_the_list() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"]({path.name})" in text for path in EXAMPLES.glob("*.py"))
