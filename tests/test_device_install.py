"""What a device gets, an install without extras: bundles run and are checked there, the rest names what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from causalrn.bundle.bundle_folder import Bundle
from tests.runtimes.trt.fake_gpu import fake_compile

ROOT = Path(__file__).parents[1]

OPTIONAL_PACKAGES = (
    "torch",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "matplotlib",
    "jinja2",
    "tensorrt_rtx",
    "tensorrt",
    "cuda",
    "starlette",
    "uvicorn",
    "httptools",
    "prometheus_client",
)

# Makes packages look uninstalled, to `import` as to `importlib.util.find_spec`: every finder is asked through a filter.
_HIDE_PACKAGES = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in {set(OPTIONAL_PACKAGES)!r}
        return None if hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, attribute):
        return getattr(self.finder, attribute)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""

_CALL_MAIN = """
sys.argv[0] = "causalrn-export"
from causalrn.cli import main
main()
"""


def run_python(code: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def run_on_device(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`causalrn-export ARGUMENTS` in an interpreter that has no optional package."""
    return run_python(_HIDE_PACKAGES + _CALL_MAIN, *arguments, cwd=cwd)


@pytest.mark.parametrize("package", OPTIONAL_PACKAGES)
def test_hidden_package_is_not_found(package: str, tmp_path: Path) -> None:
    looks = f"import importlib.util\nassert importlib.util.find_spec({package!r}) is None\nimport {package}"
    result = run_python(_HIDE_PACKAGES + looks, cwd=tmp_path)
    assert result.returncode == 1
    assert f"ModuleNotFoundError: No module named '{package}'" in result.stderr


def test_run_generates_without_torch(exact_bundle: Path, tmp_path: Path) -> None:
    result = run_on_device("run", exact_bundle, "--prompt", "abc", "--max-new-tokens", "4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_run_writes_state_and_logits_without_torch(exact_bundle: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    saved = run_on_device(
        "run", exact_bundle, "--prompt", "abc", "--max-new-tokens", "2", "--state-out", state, cwd=tmp_path
    )
    resumed = run_on_device("run", exact_bundle, "--state-in", state, "--max-new-tokens", "2", cwd=tmp_path)
    assert (saved.returncode, resumed.returncode) == (0, 0), saved.stderr + resumed.stderr


def test_verify_passes_without_torch(exact_bundle: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    result = run_on_device("verify", exact_bundle, "--samples", "20", "--json", report, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "PASS" in result.stdout
    assert json.loads(report.read_text())


def test_source_is_compiled_verified_and_shown_without_torch(c_bundles: dict[str, Path], tmp_path: Path) -> None:
    result = run_on_device("verify", c_bundles["exact"], "--samples", "20", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "native" in result.stdout
    result = run_on_device("inspect", c_bundles["exact"], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "multiply-accumulates per token" in result.stdout


def test_bench_measures_and_predicts_without_torch(exact_bundle: Path, tmp_path: Path) -> None:
    quick = ("-r", "3", "--turn-ms", "1", "-n", "2", "-d", "4,8", "--json", tmp_path / "b.json")
    result = run_on_device("bench", exact_bundle, *quick, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert {row["status"] for row in json.loads((tmp_path / "b.json").read_text())["rows"]} == {"measured"}
    result = run_on_device("bench", exact_bundle, "--predict", "--device", "apple-m1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for options, package in ((("--profile",), "onnx"), (("--html", "b.html"), "jinja2")):
        result = run_on_device("bench", exact_bundle, *options, cwd=tmp_path)
        assert result.returncode == 2
        assert f"this needs {package}, which is not installed" in result.stderr


def test_verify_refuses_a_changed_bundle_without_torch(exact_bundle: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    changed.mkdir()
    for source in exact_bundle.iterdir():
        (changed / source.name).write_bytes(source.read_bytes())
    weights = changed / "weights.bin"
    weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])
    result = run_on_device("verify", changed, cwd=tmp_path)
    assert result.returncode == 2
    assert "weights.bin" in result.stderr


def test_inspect_works_without_torch(exact_bundle: Path, tmp_path: Path) -> None:
    result = run_on_device("inspect", exact_bundle, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "00.pool" in result.stdout


def test_doctor_works_without_torch(tmp_path: Path) -> None:
    result = run_on_device("doctor", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "onnxruntime" in result.stdout
    assert "torch not installed: pip install" in result.stdout


def test_help_of_every_command_works_without_torch(tmp_path: Path) -> None:
    code = """
from click.testing import CliRunner
from causalrn.cli import COMMANDS, group
for name in COMMANDS:
    result = CliRunner().invoke(group, [name, "--help"])
    assert result.exit_code == 0 and "Usage" in result.output, (name, result)
"""
    result = run_python(_HIDE_PACKAGES + code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "-o", "OUT"),
        ("export", "RUN", "-o", "OUT"),
        ("verify", "BUNDLE", "--checkpoint", "RUN"),
        ("convert", "weights.pth", "-o", "OUT", "--readout", "exact"),
        ("run", "RUN", "--prompt", "abc"),
        ("demo", "-o", "OUT"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_command_that_needs_torch_says_so(
    arguments: tuple[str, ...], exact_bundle: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    paths = {"RUN": runs["exact"], "BUNDLE": exact_bundle}
    result = run_on_device(*(paths.get(argument, argument) for argument in arguments), cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "Error: this needs torch, which is not installed: pip install 'causalrn[export]'\n"
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_compile_without_its_packages_says_what_to_install(exact_bundle: Path, tmp_path: Path) -> None:
    result = run_on_device("compile", exact_bundle, "-o", "OUT", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "Error: this needs onnx, which is not installed: pip install 'causalrn[tensorrt-rtx]'\n"
    assert list(tmp_path.iterdir()) == []


def test_engine_bundle_without_tensorrt_says_what_to_install(
    fixed_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = fake_compile(Bundle.open(fixed_bundle), tmp_path / "engines", monkeypatch).path
    for arguments in (("verify", engines), ("run", engines, "--prompt", "abc")):
        result = run_on_device(*arguments, cwd=tmp_path)
        assert result.returncode == 3, result.stderr
        assert "TensorRT-RTX, which is not installed: pip install 'causalrn[tensorrt-rtx]'" in _in_one_line(result)
    assert run_on_device("inspect", engines, cwd=tmp_path).returncode == 0


def _in_one_line(result: subprocess.CompletedProcess[str]) -> str:
    return " ".join((result.stdout + result.stderr).split())


def test_serving_over_http_names_its_extra(exact_bundle: Path, tmp_path: Path) -> None:
    result = run_on_device("serve", exact_bundle, "--http", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "serving over HTTP needs starlette, which is not installed: pip install 'causalrn[serve]'" in line
