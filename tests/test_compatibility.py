"""Bundles in runtimes without this toolkit: benchmarks/compatibility_runner.py, where the tests have the runtime."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
RUNNER = ROOT / "benchmarks" / "compatibility_runner.py"
RUNTIMES = {"onnxruntime": "onnxruntime", "onnx.reference": "onnx", "openvino": "openvino"}
KINDS = ("exact, growing", "exact, fixed, whole pools", "exact, concat", "linear", "Transformer")


@pytest.fixture(scope="module")
def compatibility():
    """The benchmark as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        spec = importlib.util.spec_from_file_location("compatibility", ROOT / "benchmarks" / "compatibility.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "compatibility", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def run_here(compatibility, tmp_path):
    """Run a kind of bundle in a runtime of this environment: what it gave, judged."""

    def run(runtime: str, kind: str, change: Any = None) -> dict[str, Any]:
        reference = compatibility.write_case(tmp_path, kind, "portable")
        if change is not None:
            change(tmp_path / "case")
        (tmp_path / "out").mkdir()
        command = [sys.executable, str(RUNNER), runtime, str(tmp_path / "case"), str(tmp_path / "out")]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        entries: dict[str, Any] = json.loads((tmp_path / "out" / "result.json").read_text())
        compatibility.judge(entries, tmp_path / "out", reference)
        return entries

    return run


@pytest.mark.slow
@pytest.mark.cases(1)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_loop_of_a_page_gives_what_the_oracle_gives(run_here, runtime, kind) -> None:
    if importlib.util.find_spec(RUNTIMES[runtime]) is None:
        pytest.skip(f"needs {runtime}: pip install 'causalrn[{runtime}]'")
    for graph, entry in run_here(runtime, kind).items():
        assert entry["phase"] == "done", f"{graph}: {entry.get('error')}"
        assert entry["of_bound"] <= 1


@pytest.mark.cases(0)
def test_wrong_weights_are_not_within_the_bound(run_here) -> None:
    def change(case: Path) -> None:
        content = np.frombuffer((case / "weights.bin").read_bytes(), np.float32).copy()
        content[: content.size // 2] += 1e-3
        (case / "weights.bin").write_bytes(content.tobytes())

    entries = run_here("onnxruntime", "linear", change)
    assert all(entry["of_bound"] > 1 for entry in entries.values())


@pytest.mark.cases(0)
def test_what_fails_is_said_in_the_runtime_s_words(run_here) -> None:
    entries = run_here("onnxruntime", "linear", lambda case: (case / "prefill.onnx").write_bytes(b"no graph"))
    assert entries["step"]["phase"] == "done"
    assert entries["prefill"]["phase"] == "load"
    assert "prefill.onnx" in entries["prefill"]["error"]


def test_page_tells_right_from_wrong_from_refused(compatibility, tmp_path) -> None:
    def row(runtime: str, **step: Any) -> dict[str, Any]:
        return {"kind": "linear", "profile": "portable", "runtime": runtime, "step": step, "prefill": step}

    right = {"phase": "done", "error": 3e-7, "of_bound": 0.2, "of_newest": [0.9, 1.0, 1.1]}
    rows = [
        row(compatibility.NEWEST, **right),
        row("slow", **right | {"of_newest": [2.4, 2.5, 2.7]}),
        row("wrong", **right | {"error": 0.1, "of_bound": 9000.0}),
        row("refused", phase="load", error="RuntimeError: /home/someone/step.onnx: no such operator"),
    ]
    report = {"rows": rows, "runtimes": {"slow": ["slow==1"]}}
    compatibility.write_markdown(tmp_path / "page.md", report)
    text = (tmp_path / "page.md").read_text()
    assert "| linear | 3.0e-07, 1.0x | 3.0e-07, 2.5x | **off by 1.0e-01**, 1.0x | no |" in text
    assert "no such operator" in text
    assert "The default" not in text
    assert "someone" not in text


def test_numbers_of_other_runtimes_stay(compatibility, tmp_path) -> None:
    def report(runtime: str, error: float) -> dict[str, Any]:
        done = {"phase": "done", "error": error, "of_bound": 0.2}
        row = {"kind": "linear", "profile": "portable", "runtime": runtime, "step": done, "prefill": done}
        return {"machine": {}, "rows": [row], "runtimes": {runtime: [f"{runtime}=={error}"]}}

    tract, mnn = "tract 0.23.9", "MNN 3.6.1"
    file = tmp_path / "numbers.json"
    for name, error in ((mnn, 1e-7), (tract, 2e-7), (mnn, 3e-7)):
        file.write_text(json.dumps(compatibility.merged(report(name, error), file)))
    known = json.loads(file.read_text())
    assert [(row["runtime"], row["step"]["error"]) for row in known["rows"]] == [(tract, 2e-7), (mnn, 3e-7)]
    assert list(known["runtimes"]) == [tract, mnn]
