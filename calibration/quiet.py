"""Onnxruntime's quantizers, which log every node to the root logger, and set it up when they are imported."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_quantizer() -> Iterator[None]:
    """A context in which they log nothing, and leave the root logger as it was."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handlers, level = list(root.handlers), root.level
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)
