"""The machine that a report was made on: versions and processor, nothing that names machine or user."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import re
from pathlib import Path
from typing import Any

import psutil

from causalrn.compiling.processor import processor_family

_PACKAGES = ["causalrn", "numpy", "safetensors", "onnxruntime", "onnxruntime-gpu", "click", "rich", "torch", "onnx"]
_PACKAGES += ["onnxscript", "tensorrt", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "cuda-bindings", "openvino"]


def describe_environment() -> dict[str, Any]:
    """Python, system, processor, its family, logical processors, package versions (None: not installed), as JSON."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor_name(),
        "processor_family": processor_family(),
        "cpu_count": psutil.cpu_count(),
        "packages": {name: package_version(name) for name in _PACKAGES},
    }


def processor_name() -> str:
    """The processor's name as Linux gives it, for psutil has none; elsewhere what Python knows."""
    with contextlib.suppress(OSError):
        content = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        entry = re.search(r"^model name\s*:\s*(.+)$", content, re.MULTILINE)
        if entry is not None:
            return entry[1].strip()
    return platform.processor() or platform.machine()


def package_version(package: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
