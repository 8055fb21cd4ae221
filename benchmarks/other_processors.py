"""Bundles of every scheme on processors that this machine is not, under QEMU user emulation.

    python benchmarks/other_processors.py RUN --json docs/other_processors.json [--aarch64 ROOT]

RUN is a trained checkpoint folder; its ONNX and C bundles are checked by emulated_check.py here and on each processor.
QEMU 7.2 emulates no AVX-512: its Skylake server runs what AVX2 runs. ROOT is a folder with Debian's python3.11 for
arm64, the libraries that it needs, and in ROOT/packages what `pip install causalrn` installs on a device, with
onnxruntime 1.27.0 (later ones do not start under QEMU 7.2); without ROOT aarch64 is left out. C bundles are compiled
here, so they are checked on x86 alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from logit_scale import quantized_bundles
from reporting import write_json

from causalrn.bundle.bundle_folder import Bundle
from causalrn.export.c99.c99_exporter import COptions
from causalrn.runtimes.environment import describe_environment
from causalrn.workflows.export_targets import export_c_bundle

X86 = ("Haswell", "Skylake-Server-noTSX-IBRS", "Nehalem")
ARM = ("cortex-a53", "cortex-a76", "neoverse-n1")
HOUSE = Path(__file__).parents[1]
_TIMEOUT_S = 600


def checked(command: Sequence[str], folder: Path, names: Sequence[str], path: str) -> list[dict[str, Any]]:
    """What emulated_check.py gives for each bundle; nothing, and the reason printed, where it does not run."""
    call = [*command, str(HOUSE / "benchmarks" / "emulated_check.py"), *names]
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    environment |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    result = subprocess.run(
        call, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    )
    if result.returncode != 0:
        print(f"{' '.join(command)}: {result.stderr.strip().splitlines()[-1:]}")
    return [json.loads(line) for line in result.stdout.splitlines()]


def make_bundles(run: Path, folder: Path) -> list[str]:
    """Names of all bundles of a checkpoint folder."""
    names = ["float32", *(name for name, bundle in quantized_bundles(run, folder, golden=True))]
    bundle: Bundle = export_c_bundle(run, folder / "float32 C", COptions())
    return [*names, bundle.path.name]


def emulator_version(program: str) -> str:
    """The first line of what it says of itself."""
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def print_table(rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Per bundle and processor the error of the logits, as a table for docs/quantization.md."""
    bundles = list(next(iter(rows.values())))
    print("| bundle |", " | ".join(rows), "|")
    print("|---" * (len(rows) + 1) + "|")
    for name in bundles:
        cells = (found[name]["error"] if name in found else None for found in rows.values())
        print(f"| {name} |", " | ".join("-" if cell is None else f"{cell:.1e}" for cell in cells), "|")


def main() -> None:
    """Check all bundles everywhere."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--aarch64", type=Path, metavar="ROOT")
    options = parser.parse_args()
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        names = make_bundles(options.run.resolve(), folder)
        machines = {"this machine": [sys.executable]}
        machines |= {processor: ["qemu-x86_64", "-cpu", processor, sys.executable] for processor in X86}
        paths = dict.fromkeys(machines, str(HOUSE))
        if options.aarch64 is not None:
            root = options.aarch64.resolve()
            python = ["-L", str(root), str(root / "usr" / "bin" / "python3.11")]
            machines |= {processor: ["qemu-aarch64", "-cpu", processor, *python] for processor in ARM}
            paths |= dict.fromkeys(ARM, f"{HOUSE}:{root / 'packages'}")
        for processor, command in machines.items():
            own = [name for name in names if processor not in ARM or not name.endswith(" C")]
            rows[processor] = {row["bundle"]: row for row in checked(command, folder, own, paths[processor])}
            print(f"{processor}: {len(rows[processor])} bundles", flush=True)
    print_table(rows)
    emulators = [emulator_version("qemu-x86_64")]
    write_json(options.json, {"environment": describe_environment(), "emulators": emulators, "processors": rows})


if __name__ == "__main__":
    main()
