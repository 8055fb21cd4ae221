"""What coverage says: it counts what was compared, and nothing else."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.files import CERTIFICATE_NAME
from causalrn.bundle.known_by import TRAINED_HERE, KnownBy
from causalrn.bundle.manifest import Manifest
from causalrn.errors import InputError
from causalrn.runtimes.parity.coverage import coverage_of, longest_run
from causalrn.runtimes.parity.figures import CallsFigures, Figures
from causalrn.runtimes.parity.results import LevelResult
from causalrn.training.card import card_of
from causalrn.workflows.verify import verify
from causalrn.workflows.verify_result import architecture_notes
from tests.runtimes.parity.mutants import with_wrong_logits


def uses(result):
    return {file.name: file.use for file in result.report.coverage.files}


@pytest.mark.parametrize("level", ["guards", "determinism"])
def test_what_compares_no_values_executes_no_file_and_is_not_certified(exact_bundle, tmp_path, level):
    result = verify(exact_bundle, level=level)
    assert result.passed
    assert {"executed", "executed, failed"}.isdisjoint(uses(result).values())
    assert "executed, not compared" in uses(result).values()
    words = result.report.coverage.not_covered
    assert "what comes out: nothing was compared with the reference" in words
    assert not any(line.startswith(("positions", "batches")) for line in words)
    assert not any("compared over" in note for note in result.report.notes)
    with pytest.raises(InputError, match="was not compared"):
        result.certify(tmp_path / CERTIFICATE_NAME)


def test_files_that_failed_are_not_said_to_be_hashed_only(exact_bundle, tmp_path):
    folder = with_wrong_logits(exact_bundle, tmp_path / "changed")
    result = verify(folder, level="logits")
    assert not result.passed
    found = uses(result)
    assert found["step.onnx"] == found["weights.bin"] == "executed, failed"
    assert found["prefill.onnx"] == "hashed only"
    assert found["golden.safetensors"] == "read"
    assert "Executed, and failed: " in result.save_html(tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("outcomes", "use"),
    [
        ([("logits", True), ("guards", False)], "executed"),
        ([("logits", False), ("state", True)], "executed"),
        ([("logits", False), ("guards", True)], "executed, failed"),
        ([("guards", True)], "executed, not compared"),
        ([("kernels", True)], "hashed only"),  # what kernels executed they name themselves
    ],
)
def test_use_follows_from_what_was_compared(exact_bundle, outcomes, use):
    verification = verification_of([])
    verification.results += [LevelResult(level, "onnxruntime", passed, "") for level, passed in outcomes]
    (step,) = [file for file in coverage_of(Bundle.open(exact_bundle), verification).files if file.name == "step.onnx"]
    assert (step.use, step.by) == (use, () if use == "hashed only" else ("onnxruntime",))


def test_kernels_that_were_right_stand_before_those_that_failed(exact_bundle):
    noted = {"executed": {"step.onnx": ["SIMD"]}, "failed": {"step.onnx": ["plain"], "prefill.onnx": ["plain"]}}
    kernels = SimpleNamespace(**noted, ran=["SIMD"], missing=(), equalities=frozenset(), depth=0, most_sequences=1)
    coverage = coverage_of(Bundle.open(exact_bundle), verification_of(["kernels"], kernels=kernels))
    found = {file.name: (file.use, file.by) for file in coverage.files}
    assert found["step.onnx"] == ("executed", ("SIMD",))
    assert found["prefill.onnx"] == ("executed, failed", ("plain",))


def verification_of(levels, *, late=None, kernels=None):
    """A verification that has run: results of onnxruntime at some levels, 3 sequences of 24 tokens as the reference."""
    calls = Figures(steps=39, calls=CallsFigures(0, 1, 1, 39, (1, 2, 65), None))
    return SimpleNamespace(
        results=[
            LevelResult(level, "onnxruntime, x", True, "", figures=calls if level == "calls" else Figures())
            for level in levels
        ],
        golden=None if late is None else SimpleNamespace(late=late),
        case=SimpleNamespace(reference=SimpleNamespace(steps=24, tokens=np.zeros((3, 24), np.int64))),
        cells={"onnxruntime": SimpleNamespace(max_batch=None, executed_files=("step.onnx",))},
        kernels=kernels,
        provider="cpu",
    )


def not_covered(bundle, levels, **options):
    return coverage_of(Bundle.open(bundle), verification_of(levels, **options)).not_covered


@pytest.mark.parametrize(
    ("levels", "most"),
    [(["calls"], "65 sequences"), (["logits"], "3 sequences"), (["split"], "5 sequences"), (["drift"], "1 sequence")],
)
def test_batches_are_those_of_the_levels_that_ran(exact_bundle, levels, most):
    assert f"batches of more than {most}" in not_covered(exact_bundle, [*levels, "guards"])


def test_positions_are_those_of_the_levels_that_ran(exact_bundle):
    assert longest_run(verification_of(["guards", "determinism"])) == 0
    assert longest_run(verification_of(["logits"])) == 24
    assert longest_run(verification_of(["calls"])) == 39
    tokens = np.zeros((4, 40), np.int64)
    few, every = (SimpleNamespace(tokens=tokens, positions=np.arange(0, 40, step)) for step in (3, 1))
    words = "most positions from 24 to 39: golden vectors know some of them only"
    assert words in not_covered(exact_bundle, ["logits", "calls"], late=few)
    for late in (every, None):
        assert words not in not_covered(exact_bundle, ["logits", "calls"], late=late)


def test_files_of_a_bundle_in_a_bundle_are_hashed_only(web_bundles):
    bundle = Bundle.open(web_bundles["exact"])
    beside = Bundle.open(web_bundles["exact"] / "beside")
    coverage = coverage_of(bundle, verification_of(["logits"]))
    assert {f"beside/{name}" for name in beside.names} <= set(coverage.files_of("hashed only"))
    assert len(coverage.files) == len(bundle.names) == 2 + len(bundle.manifest.files) + len(beside.manifest.files)


def test_an_assumed_architecture_of_a_bundle_in_a_bundle_is_noted(web_bundles, monkeypatch):
    bundle, notes = Bundle.open(web_bundles["exact"]), []
    trained = dataclasses.replace(card_of(bundle), known_by=TRAINED_HERE)
    for known_by in (KnownBy("assumed", note="it was not tried"), TRAINED_HERE):
        manifest = dataclasses.replace(Manifest.read(bundle.path / "beside"), known_by=known_by)
        monkeypatch.setattr(Manifest, "read", lambda path, manifest=manifest: manifest)
        notes.append(architecture_notes(trained, bundle))
    (assumed,), known = notes
    assert assumed.startswith("of the bundle in beside, the architecture is assumed: it was not tried")
    assert known == []
