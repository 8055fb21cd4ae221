"""What exporter and runtime of model folders for the Triton Inference Server both know: names."""

from __future__ import annotations

BUNDLE_FOLDER = "1/bundle"
"""In a model folder, version 1: the bundle that the server's Python model runs."""

TOKENS, LOGITS, NEXT_TOKEN = "TOKENS", "LOGITS", "NEXT_TOKEN"
START, END, READY, CORRELATION = "START", "END", "READY", "CORRID"
