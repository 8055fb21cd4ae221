"""The runtimes of compatibility.py: versions, an environment of its own for each, and a process that runs a case."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TIMEOUT_S = 240
"""Most time for loading, for both sequences, and for every turn."""


@dataclass(frozen=True)
class Conversion:
    """A target of this toolkit whose graphs another package converts, in an environment of its own.

    Attributes:
        target, backend: as `export` calls them.
        packages: beside this toolkit.
    """

    target: str
    backend: str | None
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Runtime:
    """A runtime: the runner's name for it, what is installed, and what it takes if not ONNX graphs."""

    runner: str
    packages: tuple[str, ...]
    conversion: Conversion | None = None


NUMPY, TORCH = "numpy==2.4.6", "torch==2.13.0"
EXECUTORCH = (TORCH, "executorch==1.5.1")
RUNTIMES = {
    "onnxruntime 1.32.0": Runtime("onnxruntime", ("onnxruntime==1.32.0", NUMPY)),
    "onnxruntime 1.15.0": Runtime("onnxruntime", ("onnxruntime==1.15.0", "numpy==1.26.4")),
    "onnxruntime-node 1.30.0": Runtime("node", ("onnxruntime-node@1.30.0",)),
    "onnx.reference 1.23.2": Runtime("onnx.reference", ("onnx==1.23.2", NUMPY)),
    "OpenVINO 2026.4.1": Runtime("openvino", ("openvino==2026.4.1", NUMPY)),
    "tract 0.23.9": Runtime("tract", ("tract==0.23.9", NUMPY)),
    "MNN 3.6.1": Runtime("MNN", ("MNN==3.6.1", NUMPY)),
    "IREE 3.13.0": Runtime("IREE", ("iree-base-compiler==3.13.0", "iree-base-runtime==3.13.0", "onnx==1.20.1", NUMPY)),
    "TVM 0.27.0": Runtime("TVM", ("apache-tvm==0.27.0.post1", "onnx==1.20.1", NUMPY)),
    "ncnn 20261020": Runtime("ncnn", (TORCH, "pnnx==20261020", "ncnn==1.0.20261020", NUMPY)),
    "LiteRT 2.3.0": Runtime(
        "LiteRT", ("ai-edge-litert==2.3.0", NUMPY), Conversion("litert", None, (TORCH, "litert-torch==0.10.0"))
    ),
    "ExecuTorch 1.5.1, XNNPACK": Runtime("ExecuTorch", EXECUTORCH, Conversion("executorch", "xnnpack", EXECUTORCH)),
    "ExecuTorch 1.5.1, portable": Runtime("ExecuTorch", EXECUTORCH, Conversion("executorch", "portable", EXECUTORCH)),
}


# --- environments -----------------------------------------------------------------------------------------------------


def environment_of(name: str, root: Path) -> Path | None:
    """The environment of a runtime, installed once; None where that fails."""
    runtime = RUNTIMES[name]
    return installed(root / name.split(",")[0].replace(" ", "-"), runtime.packages, node=runtime.runner == "node")


def converter_of(conversion: Conversion, root: Path) -> Path | None:
    """The environment that exports for a conversion's target: its packages beside this toolkit."""
    toolkit = ("-e", f"{HERE.parent}[export]")
    return installed(root / f"converter-{conversion.target}", (*conversion.packages, *toolkit))


def installed(folder: Path, packages: tuple[str, ...], *, node: bool = False) -> Path | None:
    done = folder / "done"
    if done.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if node:
        commands = [["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--silent", *packages]]
    else:
        python = str(folder / "bin" / "python")
        commands = [
            [sys.executable, "-m", "venv", str(folder)],
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
        ]
    for command in commands:
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return None
    done.touch()
    return folder


# --- processes --------------------------------------------------------------------------------------------------------


class Process:
    """A runtime with a case: it runs both graphs when it starts, and the step's sequence again whenever it is asked.

    Args:
        name: of the runtime.
        environment: where it is installed.
        case: folder of graphs and `case.json`.
        out: a new folder, for a copy of the case and for what comes out.
    """

    def __init__(self, name: str, environment: Path, case: Path, out: Path) -> None:
        out.mkdir()
        copy = out / "case"
        shutil.copytree(case, copy)  # converters write beside the graph, and one into it
        runner, self._out, self._late = RUNTIMES[name].runner, out, False
        python, script = str(environment / "bin" / "python"), str(HERE / "compatibility_runner.py")
        command = [python, script, runner, str(copy), str(out)]
        if runner == "node":
            shutil.copy(HERE / "compatibility_runner.mjs", environment)
            command = ["node", str(environment / "compatibility_runner.mjs"), str(copy), str(out)]
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TVM_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | one_thread,
        )
        self.entries = self._first_entries()

    def _first_entries(self) -> dict[str, Any]:
        """By graph, its phase, and the error if it did not come to its end."""
        self._answer()
        ended = f"no answer in {TIMEOUT_S} s" if self._late else ""
        code = self._process.poll()
        if not ended and code is not None:
            ended = f"ended with exit code {code}" if code > 0 else f"ended by signal {-code}" if code else ""
        result = self._out / "result.json"
        entries: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
        for graph in ("step", "prefill"):
            entry = entries.setdefault(graph, {"phase": "load"})
            if entry["phase"] != "done":
                entry.setdefault("error", ended or "said nothing")
        return entries

    def _answer(self) -> str:
        """The next line; empty where the process has ended, or is ended because it is late."""
        timer = threading.Timer(TIMEOUT_S, self._end_late)
        timer.start()
        try:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            if not line:
                self._process.wait()
            return line.strip()
        finally:
            timer.cancel()

    def _end_late(self) -> None:
        self._late = True
        self._process.kill()

    def step_us(self) -> float | None:
        """Processor time of a step, in microseconds: the median of a sequence from a fresh state; None without one."""
        if self.entries["step"]["phase"] != "done" or self._process.poll() is not None:
            return None
        assert self._process.stdin is not None
        self._process.stdin.write("turn\n")
        self._process.stdin.flush()
        line = self._answer()
        return float(line) if line else None

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate(timeout=TIMEOUT_S)


@contextlib.contextmanager
def running(name: str, environment: Path, case: Path, out: Path) -> Iterator[Process]:
    """A process that ends with the block."""
    process = Process(name, environment, case, out)
    try:
        yield process
    finally:
        process.close()
