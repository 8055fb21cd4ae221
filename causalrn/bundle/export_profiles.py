"""What an export can be tuned for, by target. Needs no torch."""

from __future__ import annotations

from causalrn.bundle.native_spec import PROFILES

PORTABLE = "portable"
"""ONNX graphs for the widest use: an early opset, and ONNX's own operators only."""
EXPORT_PROFILES = {"onnx": ("default", PORTABLE), "c": PROFILES}
"""By target, the usual one first."""
