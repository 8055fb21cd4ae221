"""What a report says of the machine that it was made on: versions and processor, nothing that names machine or user."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

from causalrn.runtimes.processor import processor_name

_PACKAGES = ["numpy", "safetensors", "onnxruntime", "onnxruntime-gpu", "click", "rich", "torch", "onnx", "onnxscript"]
_PACKAGES += ["tensorrt", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "cuda-bindings"]


def describe_environment() -> dict[str, Any]:
    """Python, machine and package versions."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor_name(),
        "cpu_count": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
