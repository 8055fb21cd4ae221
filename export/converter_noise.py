"""Converters of other packages print progress, log and warn about their own parts: nothing a user can act on."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from causalrn.errors import CausalRNError, ConfigError
from causalrn.library_output import silenced_libraries

_LONGEST_REASON = 160


@contextlib.contextmanager
def quiet_converter(title: str, remedy: str = "choose another `target`") -> Iterator[None]:
    """A context without output, logs or warnings.

    Args:
        title: of the package, for people.
        remedy: what to do where it fails.

    Raises:
        ConfigError: whatever the package raises, except for want of memory: there is a model that it cannot convert.
    """
    with _silence():
        try:
            yield
        except (CausalRNError, MemoryError, OSError):
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_REASON]
            raise ConfigError(f"{title} cannot convert this model ({reason}): {remedy}") from None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
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
