"""Converters of other packages print progress, log and warn about their own parts: nothing a user can act on."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from causalrn.library_output import silenced_libraries


@contextlib.contextmanager
def quiet_converter() -> Iterator[None]:
    """A context without output, logs or warnings; what is raised comes through."""
    level, silence = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
            silenced_libraries(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
