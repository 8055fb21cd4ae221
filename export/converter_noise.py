"""Converters of other packages print progress, log and warn about their own parts: nothing a user can act on."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator

_STANDARD_ERROR = 2


@contextlib.contextmanager
def quiet_converter() -> Iterator[None]:
    """A context without output, logs or warnings; what is raised comes through."""
    level, silence = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence), _quiet_libraries():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
    finally:
        logging.disable(level)


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Standard error of libraries in C++, which write to its descriptor."""
    sys.stderr.flush()
    kept = os.dup(_STANDARD_ERROR)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), _STANDARD_ERROR)
        yield
    finally:
        os.dup2(kept, _STANDARD_ERROR)
        os.close(kept)
