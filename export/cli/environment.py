"""What a report says of the machine that it was made on: versions and processor, nothing that names machine or user."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

_PACKAGES = ["numpy", "safetensors", "onnxruntime", "onnxruntime-gpu", "click", "rich", "torch", "onnx", "onnxscript"]
_PACKAGES += ["tensorrt", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "cuda-bindings"]


def describe_environment() -> dict[str, Any]:
    """Python, machine and package versions."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    """The processor's name as Linux gives it; elsewhere what Python knows."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
