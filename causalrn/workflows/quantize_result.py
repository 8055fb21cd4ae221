"""What a quantization gives: the bundle, and the report of what it lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.files import as_path
from causalrn.calibration.report import QuantizeReport
from causalrn.workflows.arguments import (
    PathLike,
)
from causalrn.workflows.saving import JsonReport

OnReport = Callable[[QuantizeReport], object]


def ignore_report(report: QuantizeReport) -> None:
    """Do nothing with a report."""


@dataclass(frozen=True)
class QuantizeResult(JsonReport):
    """A quantization that keeps its budget; it stands for its bundle's folder wherever a path is wanted.

    Attributes:
        bundle: what was written.
        report: sizes, accuracy, distributions and time, before and after.
    """

    bundle: Bundle
    report: QuantizeReport

    def __fspath__(self) -> str:
        """Path of the bundle."""
        return os.fspath(self.bundle.path)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return self.report.entries()

    def save_plot(self, path: PathLike) -> None:
        """Draw the report, .png, .svg or .pdf; needs matplotlib."""
        from causalrn.workflows.pages.quantize_plot import save_plot

        save_plot(as_path(path, "path"), self.report)
