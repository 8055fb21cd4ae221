"""The JSON Schemas of all reports that `--json` writes, by the name of the file in docs/ that publishes them."""

from __future__ import annotations

from typing import Any

from causalrn.cli import bench_shapes, report_shapes
from causalrn.runtimes.parity.report import report_schema, schema_of
from causalrn.workflows.reports import ConvertReport, ExportReport, RunReport, TrainReport

_REPORTS = {
    "train": (TrainReport, "train"),
    "convert": (ConvertReport, "convert"),
    "export": (ExportReport, "export"),
    "run": (RunReport, "run"),
    "inspect": (report_shapes.InspectJson, "inspect"),
    "reseal": (report_shapes.ResealJson, "reseal"),
    "quantize": (report_shapes.QuantizeJson, "quantize"),
    "compile": (report_shapes.CompileJson, "compile"),
    "bench": (bench_shapes.BenchJson, "bench"),
    "predict": (bench_shapes.PredictJson, "bench --predict"),
    "profile": (bench_shapes.ProfileJson, "bench --profile"),
    "generate-file": (report_shapes.GenerateFileJson, "generate-file"),
    "doctor": (report_shapes.DoctorJson, "doctor"),
}
"""By what a report's entry "report" has behind "causalrn-": its type, and the command that writes it."""


def report_schemas() -> dict[str, dict[str, Any]]:
    """Schemas by name: "verify" (of `verify` and `verify-model`), "train", ...; docs/NAME-report.schema.json each."""
    schemas = {
        name: schema_of(kind, f"report of causalrn-export {command}") for name, (kind, command) in _REPORTS.items()
    }
    return {"verify": report_schema(), **schemas}
