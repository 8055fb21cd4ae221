"""`--json -` of every command that reports: JSON and nothing else on standard output, as its published schema says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import jsonschema
import onnx
import pytest

from causalrn.cli import COMMANDS, doctor_command, group
from causalrn.cli.report_schemas import report_schemas
from tests.builders import GOLDEN, ROOT
from tests.cli.test_verify_model import MODEL
from tests.runtimes.trt.test_engine import needs_rtx
from tests.schema_files import check_schema_file

SCHEMAS = report_schemas()
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def report(call: Call) -> Callable[..., dict[str, Any]]:
    """Call a command with `--json -`: what it writes, checked by the schema that is published for it."""

    def _report(*words: object, code: int = 0) -> dict[str, Any]:
        found, out, err = call(*words, "--json", "-")
        assert found == code, err
        data: dict[str, Any] = json.loads(out)  # nothing else is there
        jsonschema.validate(data, SCHEMAS[data["report"].removeprefix("causalrn-")])
        return data

    return _report


@pytest.mark.parametrize("name", SCHEMAS)
def test_published_schemas_are_what_the_types_give(name: str) -> None:
    check_schema_file(f"{name}-report.schema.json", SCHEMAS[name])


def test_every_command_that_reports_takes_json() -> None:
    without = set()
    for name in COMMANDS:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if not any("--json" in parameter.opts for parameter in command.params):
            without.add(name)
    assert without == {"demo", "serve"}  # they show something, and make nothing that a program would ask for


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_refuse_entries_that_are_missing_or_unknown(name: str) -> None:
    faults = jsonschema.Draft202012Validator(SCHEMAS[name]).iter_errors({"report": f"causalrn-{name}", "unknown": 1})
    words = " ".join(fault.message for fault in faults)
    assert "'version' is a required property" in words
    assert "Additional properties are not allowed ('unknown' was unexpected)" in words


def test_training_converting_and_exporting(report: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    sizes = ("--embedding", 8, "--hidden", 8, "--blocks", 1, "--batch", 4, "--kernel", "tiles")
    data = report("train", "--length", 3, "--steps", 2, *sizes, "-o", tmp_path / "run")
    assert (data["steps"], data["run"]["path"]) == (2, str(tmp_path / "run"))
    weights = GOLDEN / "official_exact_copy8.pth"
    data = report("convert", weights, "--heads", 1, "--norm", "layer", "--samples", 200, "-o", tmp_path / "converted")
    assert data["settings"][0]["setting"]["readout"] == "exact"
    data = report("export", tmp_path / "run", "-o", tmp_path / "bundle")
    assert set(data["files"]) == {path.name for path in (tmp_path / "bundle").iterdir()} - {"manifest.json"}


def test_an_export_that_loses_too_much_reports_that(
    report: Callable[..., dict[str, Any]], runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from causalrn.calibration import report as calibration_report

    monkeypatch.setattr(calibration_report, "find_faults", lambda *arguments: ["too much"])
    data = report("export", runs["exact"], "-o", tmp_path / "small", "--scheme", "w8", code=1)
    assert (data["passed"], data["files"], data["quantization"]["faults"]) == (False, None, ["too much"])
    assert not (tmp_path / "small").exists()


def test_generating_and_computing_logits(
    report: Callable[..., dict[str, Any]], exact_bundle: Path, tmp_path: Path
) -> None:
    import numpy as np

    data = report("run", exact_bundle, "--prompt", "abc", "--prompt", "de", "--max-new-tokens", 4)
    assert [row["prompt"] for row in data["rows"]] == ["abc", "de"]
    assert max(len(row["tokens"]) for row in data["rows"]) == data["steps"]
    assert data["notes"] == [f"a prompt of {n} letters; trained on 19: what comes may be wrong" for n in (3, 2)]
    np.save(tmp_path / "ids.npy", [[0, 3, 4]])
    data = report("run", exact_bundle, "--input-ids", tmp_path / "ids.npy", "--logits", tmp_path / "out.npy")
    assert (data["rows"], data["shape"], np.load(tmp_path / "out.npy").shape) == ([], [1, 3, 29], (1, 3, 29))


def test_generating_over_a_file(report: Callable[..., dict[str, Any]], exact_bundle: Path, tmp_path: Path) -> None:
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"prompt": "abc"}\n{"prompt": "d"}\n', encoding="utf-8")
    data = report("generate-file", exact_bundle, lines, tmp_path / "out.jsonl", "--max-new-tokens", 3)
    assert (data["lines"], data["errors"]) == (2, 0)


def test_verifying(report: Callable[..., dict[str, Any]], damaged: Path, exact_bundle: Path, tmp_path: Path) -> None:
    assert report("verify", exact_bundle, "--level", "logits")["passed"]
    assert not report("verify", damaged, "--level", "logits", code=1)["passed"]
    (tmp_path / "mine.py").write_text(MODEL)
    few = ("--steps", 8, "--drift-steps", 32, "--level", "logits")
    assert report("verify-model", f"{tmp_path / 'mine.py'}:make", *few)["state"] is not None


def test_inspecting(
    report: Callable[..., dict[str, Any]], call: Call, exact_bundle: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    bundle, certificate = tmp_path / "bundle", tmp_path / "bundle" / "certificate.json"
    shutil.copytree(exact_bundle, bundle)
    assert call("verify", bundle, "--level", "logits", "--certificate", certificate)[0] == 0
    assert report("inspect", bundle)["certificate"]["holds"]
    assert report("inspect", runs["linear"])["about"]["kind"] == "RUN (a checkpoint)"


def test_quantizing_and_its_table(report: Callable[..., dict[str, Any]], exact_bundle: Path, tmp_path: Path) -> None:
    few = ("--samples", 4, "--sequences", 4, "--max-kl", 9, "--max-accuracy-drop", 100)
    table = tmp_path / "table.json"
    options = (*few, "--scheme", "w8a8", "--save-calibration", table)
    assert report("quantize", exact_bundle, "-o", tmp_path / "small", *options)["states"]
    assert report("inspect", table)["limits"]["minmax"]


def test_resealing(
    report: Callable[..., dict[str, Any]], exact_bundle: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exact_bundle, bundle)
    model = onnx.load(bundle / "step.onnx", load_external_data=False)
    model.producer_name = "another tool"
    onnx.save(model, bundle / "step.onnx")
    few = ("--samples", 4, "--time-budget", 30)
    data = report("reseal", bundle, "--checkpoint", runs["exact"], "--tool", "another", *few)
    assert (data["resealed"], data["what"]["files"]) == (True, {"step.onnx": "changed"})


def test_benchmarks_predictions_and_profiles(
    report: Callable[..., dict[str, Any]], exact_bundle: Path, tmp_path: Path
) -> None:
    few = ("-d", "2,4,8", "-n", 2, "-p", 4, "-r", 3, "--turn-ms", 1)
    data = report("bench", exact_bundle, *few)
    (tmp_path / "old.json").write_text(json.dumps(data))
    assert {row["status"] for row in data["rows"]} == {"measured"}
    assert report("bench", exact_bundle, *few, "--against", tmp_path / "old.json")["comparisons"]
    assert report("bench", exact_bundle, "--predict", "--device", "raspberry-pi-5")["models"][0]["predictions"]
    assert report("bench", exact_bundle, "--profile", "-d", 4)["profiles"][0]["nodes"]


def test_diagnosis(report: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {"run bundles": doctor_command.all_checks()["run bundles"][:2]}
    monkeypatch.setattr(doctor_command, "all_checks", lambda: quick)
    assert report("doctor", code=1)["groups"][0]["probes"][0]["status"] == "works"


@needs_rtx
def test_compiling(report: Callable[..., dict[str, Any]], bundles: dict[str, Path], tmp_path: Path) -> None:
    assert report("compile", bundles["linear"], "-o", tmp_path / "engine", "--max-batch", 1)["executed"] is False


def test_documents_name_every_schema() -> None:
    text = (ROOT / "docs" / "json-reports.md").read_text(encoding="utf-8")
    for name in SCHEMAS:
        assert f"({name}-report.schema.json)" in text
