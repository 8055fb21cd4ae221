"""Core ML bundles where Core ML does not run, and its session on a Mac that is pretended."""

import json
import platform
import shutil
import sys
import types

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.errors import BundleError, NotExecutedError, RuntimeUnavailableError
from causalrn.export.coreml.coreml_exporter import MODEL_FILE
from causalrn.runtimes.coreml.coreml_session import CoreMLSession
from causalrn.runtimes.coreml.evaluator_session import ProgramSession, evaluate
from causalrn.runtimes.coreml.program import WEIGHTS_FILE, read_program
from causalrn.runtimes.opening import open_session
from tests.converted_tools import names_swapped, needs, one_weight_off, reseal_changed

pytestmark = [
    needs("coreml"),
    pytest.mark.skipif(platform.system() == "Darwin", reason="here Core ML runs: `verify` tests it"),
]
VERDICT = "converted, not executed here"
TOKENS = np.random.default_rng(5).integers(3, 29, (2, 30))


@pytest.fixture
def copied(coreml_bundles, tmp_path):
    """A copy of the exact bundle, for changes."""
    shutil.copytree(coreml_bundles["exact"], tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_verify_evaluates_the_programs_and_says_that_they_were_not_run(readout, coreml_bundles, runs, call, tmp_path):
    report = tmp_path / "report.json"
    code, out, err = call(
        *("verify", coreml_bundles[readout], "--checkpoint", runs[readout], "--samples", 20, "--json", report)
    )
    assert (code, out.splitlines()[-1]) == (3, VERDICT), out + err
    data = json.loads(report.read_text())
    evaluated = {result["level"] for result in data["results"] if result["form"].startswith("coreml-program")}
    assert evaluated >= {"logits", "state", "split", "calls", "drift", "guards"}
    assert "Core ML runs on Apple's systems only" in data["not_executed"]
    assert not data["passed"]


def test_verify_with_golden_vectors_ends_the_same_way(coreml_bundles, call):
    code, out, err = call("verify", coreml_bundles["exact"])
    assert (code, out.splitlines()[-1]) == (3, VERDICT), out + err


def test_without_coremltools_hashes_alone_are_checked(coreml_bundles, call, monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools.proto", None)
    code, out, err = call("verify", coreml_bundles["exact"])
    assert (code, out.splitlines()[-1]) == (3, VERDICT), out + err
    assert "nor were its graphs evaluated" in " ".join(out.split())


MUTANTS = {
    "one weight off by 1e-3": (f"step.mlpackage/{WEIGHTS_FILE}", one_weight_off),
    "two states swapped": (
        f"prefill.mlpackage/{MODEL_FILE}",
        lambda content, run: names_swapped(content, b"present_00_pool", b"present_01_pool"),
    ),
}


@pytest.mark.parametrize(("file", "mutate"), MUTANTS.values(), ids=MUTANTS)
def test_a_changed_package_fails(file, mutate, copied, runs, call):
    reseal_changed(copied, file, lambda content: mutate(content, runs["exact"]))
    for source in ([], ["--checkpoint", runs["exact"]]):
        code, out, _ = call("verify", copied, *source, "--level", "logits", "--level", "state", "--level", "split")
        assert (code, out.splitlines()[-1]) == (1, "FAIL")


def test_a_file_of_a_package_that_changed_is_named(copied, call):
    place = copied / "step.mlpackage" / WEIGHTS_FILE
    place.write_bytes(place.read_bytes()[:-1])
    code, _, err = call("verify", copied)
    assert code == 2
    assert "step.mlpackage/Data/com.apple.CoreML/weights/weight.bin" in err


def test_running_says_where_it_runs(coreml_bundles, call):
    with pytest.raises(NotExecutedError, match="Apple's systems"):
        open_session(coreml_bundles["exact"])
    code, _, err = call("run", coreml_bundles["exact"], "--prompt", "abc")
    assert code == 3
    assert "Core ML runs on Apple's systems only: verify the bundle on a Mac" in err


def test_another_bundle_is_refused(exact_bundle):
    for session in (CoreMLSession, ProgramSession):
        with pytest.raises(BundleError, match="not for Core ML"):
            session(Bundle.open(exact_bundle))


def test_other_names_than_the_manifest_are_refused(copied):
    file = f"step.mlpackage/{MODEL_FILE}"
    reseal_changed(copied, file, lambda content: content.replace(b"past_00_pool", b"past_00_tank"))
    with pytest.raises(BundleError, match="not the inputs and outputs of the manifest"):
        ProgramSession(Bundle.open(copied))


class PretendedModel:
    """Stands in for Core ML's: evaluates the package, and gives arrays by name as `predict` does."""

    def __init__(self, path, compute_units):
        assert compute_units == "cpu"
        self._program = read_program(path)

    def predict(self, feed):
        assert {name: (value.shape, value.dtype) for name, value in feed.items()} == dict(self._program.inputs)
        return evaluate(self._program, feed)


@pytest.fixture
def pretended_mac(monkeypatch):
    """A machine on which coremltools runs models."""
    from pathlib import Path

    def load(path, compute_units):
        return PretendedModel(Path(path), compute_units)

    module = types.SimpleNamespace(
        ComputeUnit=types.SimpleNamespace(CPU_ONLY="cpu"), models=types.SimpleNamespace(MLModel=load)
    )
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setitem(sys.modules, "coremltools", module)
    return module


@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_the_session_gives_what_the_programs_compute(readout, coreml_bundles, pretended_mac):
    with CoreMLSession(Bundle.open(coreml_bundles[readout])) as session:
        evaluated = ProgramSession(Bundle.open(coreml_bundles[readout]))
        for one in (session, evaluated):
            one.reset(2)
        np.testing.assert_array_equal(session.prefill(TOKENS[:, :20]), evaluated.prefill(TOKENS[:, :20]))
        kept = session.snapshot()
        first = session.step(TOKENS[:, 20])
        session.restore(kept)
        np.testing.assert_array_equal(session.step(TOKENS[:, 20]), first)
        np.testing.assert_array_equal(first, evaluated.step(TOKENS[:, 20]))


def test_a_package_that_core_ml_cannot_load_is_refused(coreml_bundles, pretended_mac):
    def fail(path, compute_units):
        raise RuntimeError("Error compiling model")

    pretended_mac.models.MLModel = fail
    with pytest.raises(BundleError, match=r"step\.mlpackage: Core ML cannot load it \(Error compiling model\)"):
        CoreMLSession(Bundle.open(coreml_bundles["exact"]))


def test_a_mac_without_coremltools_says_what_to_install(coreml_bundles, monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(RuntimeUnavailableError, match=r"pip install 'causalrn\[coreml\]'"):
        CoreMLSession(Bundle.open(coreml_bundles["exact"]))
