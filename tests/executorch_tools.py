"""ExecuTorch in tests: whether it is here, and the models that are taken through it."""

from __future__ import annotations

from typing import Any

import pytest

from causalrn.bundle.conversions import CONVERSIONS

ROW = CONVERSIONS["executorch"]

needs_executorch = pytest.mark.skipif(
    not ROW.is_installed, reason="needs ExecuTorch: pip install torch==2.13.0 executorch==1.5.1"
)

MODELS: dict[str, dict[str, Any]] = {
    "exact": {"readout": "exact"},
    "exact_2_heads": {"readout": "exact", "heads": 2},
    "exact_rms": {"readout": "exact", "norm": "rms"},
    "linear": {"readout": "linear"},
    "plain": {"readout": "plain"},
    "transformer": {"attention": "softmax", "heads": 2},
    "linear_transformer": {"attention": "linear", "heads": 2},
}

CASES = [
    ("exact", "portable", "growing", 1),
    ("exact", "portable", "fixed", 1),
    ("exact", "xnnpack", "growing", 1),
    ("exact", "xnnpack", "fixed", 1),
    ("exact_2_heads", "xnnpack", "growing", 1),
    ("exact_2_heads", "portable", "fixed", 1),
    ("exact_rms", "xnnpack", "growing", 1),
    ("linear", "xnnpack", "growing", 1),
    ("linear", "portable", "growing", 3),
    ("exact", "portable", "growing", 3),
    ("plain", "xnnpack", "growing", 1),
    ("transformer", "xnnpack", "growing", 1),
    ("transformer", "portable", "fixed", 1),
    ("linear_transformer", "xnnpack", "growing", 1),
    ("linear_transformer", "portable", "growing", 1),
]
"""Model, backend, pool and most sequences."""
