"""OpenVINO runs ONNX bundles as onnxruntime does: against the oracle, by states, and with what it is asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.precisions import PRECISIONS
from causalrn.bundle.targets import runtime_row, runtimes_of_target
from causalrn.bundle.tolerances import BUDGETS, TOLERANCES, Budget, wider_budget
from causalrn.errors import BundleError, InputError, NonFiniteError, RuntimeUnavailableError
from causalrn.runtimes import open_session
from causalrn.runtimes.ov import ov_loading
from causalrn.runtimes.ov.compiled_call import Request
from causalrn.workflows.verify import verify
from tests.ov_tools import needs_openvino
from tests.runtimes.ov.conftest import KINDS

pytestmark = needs_openvino


def tokens_of(session, batch, count, seed=0):
    return np.random.default_rng(seed).integers(0, session.card.config.vocabulary, (batch, count))


@pytest.mark.cases(2)
@pytest.mark.parametrize("kind", KINDS)
def test_verify_passes_at_every_level_but_task(ov_bundles, kind):
    bundle, run = ov_bundles[kind]
    levels = ("logits", "state", "split", "layer", "determinism", "guards")
    report = verify(bundle, checkpoint=run, runtime="openvino", level=levels, time_budget=120).report
    assert report.passed, [result.summary for result in report.results if not result.passed] + [*report.problems]
    assert {result.subject for result in report.results} == {"openvino"}
    executed = {file.name for file in report.coverage.files if file.use == "executed"}
    assert {"step.onnx", "prefill.onnx"} <= executed


@pytest.mark.cases(3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_steps_and_prefills_equal_onnxruntime_within_tolerance(ov_bundles, kind, batch):
    with open_session(ov_bundles[kind][0]) as other, open_session(ov_bundles[kind][0], "openvino") as session:
        tolerance = TOLERANCES["float32", "openvino"]
        tokens = tokens_of(session, batch, 18)
        for one in (session, other):
            one.reset(batch)
        expected = np.concatenate([other.prefill(tokens[:, :9]), other.prefill(tokens[:, 9:])], axis=1)
        steps = [session.step(tokens[:, column])[:, None] for column in range(4)]
        outputs = np.concatenate(
            [*steps, session.prefill(tokens[:, 4:17]), session.step(tokens[:, 17])[:, None]], axis=1
        )
        assert np.abs(outputs - expected).max() <= 2 * tolerance.logit_bound(np.abs(expected).max())
        ours, theirs = session.snapshot().tensors, other.snapshot().tensors
        for name, value in theirs.items():
            assert np.abs(ours[name] - value).max() <= 2 * tolerance.state_relative * np.abs(value).max()


@pytest.mark.parametrize("kind", ["exact", "linear", "exact-fixed", "exact-present"])
def test_a_state_file_goes_on_bit_for_bit_and_in_onnxruntime(ov_bundles, kind, tmp_path):
    bundle, state = ov_bundles[kind][0], tmp_path / "state.safetensors"
    with open_session(bundle, "openvino") as session:
        tokens = tokens_of(session, 1, 20)
        session.prefill(tokens[:, :7])
        session.step(tokens[:, 7])
        session.save(state)
        uninterrupted = [session.step(tokens[:, column]) for column in range(8, 20)]
    with open_session(bundle, "openvino") as resumed, open_session(bundle) as other:
        resumed.load(state)
        other.load(state)
        for column, expected in zip(range(8, 20), uninterrupted, strict=True):
            assert np.array_equal(resumed.step(tokens[:, column]), expected)
            assert np.abs(other.step(tokens[:, column]) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["exact", "linear", "exact-fixed"])
def test_a_step_that_fails_leaves_the_state_as_it_was(ov_bundles, kind, monkeypatch):
    bundle = ov_bundles[kind][0]
    with open_session(bundle, "openvino") as session, open_session(bundle, "openvino") as undisturbed:
        tokens = tokens_of(session, 1, 8)[0]
        for token in tokens[:5]:
            session.step([token])
            undisturbed.step([token])
        before, infer = session.snapshot(), Request.infer

        def overflow(self):
            infer(self)
            for array in self._kept:
                array[...] = np.inf

        monkeypatch.setattr(Request, "infer", overflow)
        with pytest.raises(NonFiniteError):
            session.step([tokens[5]])
        monkeypatch.undo()
        assert session.position == 5
        for name, value in session.snapshot().tensors.items():
            assert np.array_equal(value, before.tensors[name])
        for token in tokens[5:]:
            assert np.array_equal(session.step([token]), undisturbed.step([token]))


def test_a_run_that_openvino_refuses_is_one_line(ov_bundles):
    with open_session(ov_bundles["exact"][0], "openvino") as session:
        graph = session._graph("prefill")  # type: ignore[attr-defined]  # a session of OpenVINO's
        with pytest.raises(BundleError, match=r"prefill\.onnx: cannot run: .*export the bundle again"):
            graph.run([np.zeros((1, 3), np.int64), np.zeros((), np.int64), np.zeros((4, 1, 7), np.float32)] * 2)


def test_sessions_of_two_batches_keep_their_buffers(ov_bundles):
    """What is bound belongs to one number of sequences."""
    with open_session(ov_bundles["linear"][0], "openvino") as session:
        tokens = tokens_of(session, 3, 6)
        alone = []
        for row in tokens:
            session.reset(1)
            alone.append([session.step([token])[0] for token in row])
        session.reset(3)
        together = [session.step(column) for column in tokens.T]
        session.reset(1)
        again = [session.step([token])[0] for token in tokens[0]]
        assert np.array_equal(again, alone[0])
        assert np.allclose(np.stack(together, 1), alone, rtol=0, atol=1e-5 * np.abs(alone).max())


# --- what it is asked for ---------------------------------------------------------------------------------------------


def test_openvino_is_a_further_runtime_of_onnx_bundles():
    assert runtimes_of_target("onnx") == ("onnxruntime", "openvino")
    assert runtime_row("openvino").options == ("threads", "precision")


def test_graphs_are_compiled_for_float32_unless_asked_otherwise():
    usual = ov_loading.compile_options("float32", 2)
    assert usual["INFERENCE_PRECISION_HINT"] == "f32"
    assert usual["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == "0"
    assert (usual["INFERENCE_NUM_THREADS"], usual["NUM_STREAMS"]) == ("2", "1")
    assert ov_loading.compile_options("bf16", 1)["INFERENCE_PRECISION_HINT"] == "bf16"
    assert ov_loading.compile_options("int8-activations", 1)["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == "32"
    assert set(PRECISIONS) - {"float32"} <= set(BUDGETS)


def test_precisions_that_would_silently_be_float32_are_refused(ov_bundles, monkeypatch):
    bundle = Bundle.open(ov_bundles["linear"][0])

    class Poor:
        def get_property(self, device, name):
            return ["FP32"]

    monkeypatch.setattr(ov_loading, "_core", Poor)
    with pytest.raises(RuntimeUnavailableError, match="`precision` bf16: OpenVINO has no bfloat16 on this processor"):
        ov_loading.check_precision(bundle, "bf16")
    with pytest.raises(InputError, match="`precision` int8-activations is for weights of 8 or 4 bits"):
        ov_loading.check_precision(bundle, "int8-activations")


def test_activations_of_8_bits_need_a_processor_that_multiplies_them(ov_bundles, quantize, tmp_path, monkeypatch):
    assert quantize("--scheme", "w8")[0] == 0
    bundle = Bundle.open(tmp_path / "out")
    monkeypatch.setattr(ov_loading, "processor_family", lambda: "x86-64 AVX2")
    with pytest.raises(RuntimeUnavailableError, match="int8-activations: OpenVINO rounds activations on processors"):
        ov_loading.check_precision(bundle, "int8-activations")
    monkeypatch.setattr(ov_loading, "processor_family", lambda: "x86-64 AVX-512 VNNI")
    ov_loading.check_precision(bundle, "int8-activations")


@pytest.mark.cases(1)
@pytest.mark.parametrize("scheme", ["w8", "w4", "fp16", "w8a8-dynamic"])
def test_a_quantized_bundle_keeps_its_budget(ov_bundles, quantize, scheme, tmp_path):
    assert quantize("--scheme", scheme)[0] == 0
    run = ov_bundles["exact"][1]
    report = verify(tmp_path / "out", checkpoint=run, runtime="openvino", level=("logits", "state", "split")).report
    assert report.passed, [result.summary for result in report.results if not result.passed]


def test_a_precision_is_judged_by_its_budget_and_named_in_the_report(ov_bundles, monkeypatch):
    bundle, run = ov_bundles["linear"]
    monkeypatch.setattr(ov_loading, "check_precision", lambda bundle, precision: None)
    monkeypatch.setattr("causalrn.runtimes.ov.ov_session.check_precision", lambda bundle, precision: None)
    report = verify(bundle, checkpoint=run, runtime="openvino", level="logits", precision="bf16").report
    assert report.passed
    assert report.settings.budget == BUDGETS["bf16"]
    assert any(note.startswith("computed in bf16") for note in report.notes)
    assert report.results[0].figures.judged
    usual = verify(bundle, checkpoint=run, runtime="openvino", level="logits").report
    assert usual.settings.budget is None
    assert not any("bf16" in note for note in usual.notes)


def test_two_causes_of_loss_take_the_larger_limit_of_each():
    wide = wider_budget(Budget(kl_divergence=0.5, argmax_changes=0.01), Budget(kl_divergence=0.1, argmax_changes=0.2))
    assert (wide.kl_divergence, wide.argmax_changes) == (0.5, 0.2)
    assert wider_budget(None, BUDGETS["bf16"]) == BUDGETS["bf16"]


def test_options_of_other_runtimes_are_refused(ov_bundles):
    bundle = ov_bundles["linear"][0]
    with pytest.raises(InputError, match=r"`provider` cuda is onnxruntime's, and .* runs in openvino: leave it out"):
        open_session(bundle, "openvino", provider="cuda")
    with pytest.raises(InputError, match=r"`precision` bf16 is openvino's, and .* runs in onnxruntime: leave it out"):
        open_session(bundle, precision="bf16")
    with pytest.raises(InputError, match="`precision` is 'half': choose one of float32, bf16, int8-activations"):
        open_session(bundle, "openvino", precision="half")


def test_two_threads_agree_with_one_within_tolerance(ov_bundles):
    bundle = ov_bundles["exact"][0]
    with open_session(bundle, "openvino") as one, open_session(bundle, "openvino", threads=2) as two:
        tokens = tokens_of(one, 1, 20)
        expected, output = one.prefill(tokens), two.prefill(tokens)
        assert np.abs(output - expected).max() <= TOLERANCES["float32", "openvino"].logit_bound(np.abs(expected).max())


# --- where it is not, or cannot ---------------------------------------------------------------------------------------


def test_without_the_package_one_line_names_what_to_install(ov_bundles, call, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    ov_loading._core.cache_clear()
    code, _, error = call("run", ov_bundles["linear"][0], "--runtime", "openvino", "--prompt", "abc")
    assert code == 2
    assert "this needs openvino, which is not installed: pip install 'causalrn[openvino]'" in error
    assert len(error.strip().splitlines()) == 1


def test_importing_it_reports_nothing_and_leaves_nothing_in_the_home(tmp_path):
    code = (
        "import sys; from causalrn.runtimes.ov.ov_loading import import_openvino; import_openvino();"
        "import openvino.tools.ovc.telemetry_utils as utils; print(utils.tm.__name__);"
        "print('openvino_telemetry' in sys.modules)"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False"]
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_graph_is_one_line(ov_bundles, tmp_path):
    source = Bundle.open(ov_bundles["linear"][0])
    folder = tmp_path / "bundle"
    shutil.copytree(source.path, folder)
    (folder / "step.onnx").write_bytes(b"no graph")
    damaged = Bundle(folder, source.manifest, source.sha256)
    with pytest.raises((BundleError, RuntimeUnavailableError), match=r"step\.onnx") as caught:
        ov_loading.compile_graph(damaged, "step.onnx", ov_loading.compile_options("float32", 1))
    assert "\n" not in str(caught.value)
