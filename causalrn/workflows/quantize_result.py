"""What a quantization gives: the bundle, and the report of what it lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.files import as_path, written_file
from causalrn.bundle.json_values import json_text
from causalrn.calibration.report import QuantizeReport
from causalrn.workflows.arguments import (
    PathLike,
)

OnReport = Callable[[QuantizeReport], object]


def ignore_report(report: QuantizeReport) -> None:
    """Do nothing with a report."""


@dataclass(frozen=True)
class QuantizeResult:
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

    def save_json(self, path: PathLike) -> None:
        """Write the report as JSON, whole or not at all."""
        with written_file(as_path(path, "path")) as partial:
            partial.write_text(json_text(self.to_json()), encoding="utf-8")

    def save_plot(self, path: PathLike) -> None:
        """Draw the report, .png, .svg or .pdf; needs matplotlib."""
        from causalrn.workflows.pages.quantize_plot import save_plot

        save_plot(as_path(path, "path"), self.report)
