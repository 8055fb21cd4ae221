"""Conversion to Core ML: packages read back and evaluated before the bundle is put in place."""

import json

import numpy as np
import pytest
import torch

from causalrn.bundle.alphabet import Alphabet
from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.conversions import Conversion
from causalrn.bundle.converted_spec import plain_name
from causalrn.errors import BundleError, VerificationError
from causalrn.export.coreml import coreml_exporter
from causalrn.export.coreml.coreml_exporter import GRAPHS, MODEL_FILE, package_name
from causalrn.export.static_calls import NamedCell, static_inputs
from causalrn.model.cell import RecurrentCell
from causalrn.runtimes.coreml.evaluator_session import evaluate
from causalrn.runtimes.coreml.program import WEIGHTS_FILE, read_program
from causalrn.runtimes.parity.golden import GOLDEN_NAME
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import load_checkpoint, save_checkpoint
from causalrn.training.tasks import CopyTask
from causalrn.workflows.export import export
from tests.builders import random_model
from tests.converted_tools import names_swapped, needs, one_weight_off

needs_coreml = needs("coreml")


def swapped(first, second):
    return lambda content, run: names_swapped(content, first, second)


MUTANTS = {
    "one weight off by 1e-3": (WEIGHTS_FILE, one_weight_off),
    "two states swapped": (MODEL_FILE, swapped(b"present_00_pool", b"present_01_pool")),
    "two pasts swapped": (MODEL_FILE, swapped(b"past_00_pool", b"past_01_pool")),
}


def converted_before(bundle, change=lambda package: None):
    """Stands in for the conversion of a graph: what was converted before, changed."""

    def copy(cell, graph, time, package, *, half):
        source = bundle / package_name(graph)
        for path in source.rglob("*"):
            if path.is_file():
                target = package / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        change(package)

    return copy


@needs_coreml
@pytest.mark.parametrize(("file", "mutate"), MUTANTS.values(), ids=MUTANTS)
def test_a_wrong_conversion_leaves_nothing(file, mutate, coreml_bundles, runs, tmp_path, monkeypatch):
    def change(package):
        (package / file).write_bytes(mutate((package / file).read_bytes(), runs["exact"]))

    monkeypatch.setattr(coreml_exporter, "convert_graph", converted_before(coreml_bundles["exact"], change))
    with pytest.raises(VerificationError, match="do not compute what was trained"):
        export(runs["exact"], output=tmp_path / "out", target="coreml")
    assert list(tmp_path.iterdir()) == []


@needs_coreml
def test_the_same_conversion_unchanged_is_written_and_replaced(coreml_bundles, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(coreml_exporter, "convert_graph", converted_before(coreml_bundles["exact"]))
    for _ in range(2):  # the second export replaces the first, folders and all
        export(runs["exact"], output=tmp_path / "out", target="coreml")
    names = {
        f"{package_name(graph)}/{name}" for graph in GRAPHS for name in ("Manifest.json", MODEL_FILE, WEIGHTS_FILE)
    }
    assert set(Bundle.open(tmp_path / "out").manifest.files) == {GOLDEN_NAME, "MODEL_CARD.md", *names}


@needs_coreml
def test_the_weights_are_the_cells(coreml_bundles, runs):
    cell = RecurrentCell.from_model(load_checkpoint(runs["exact"]).model)
    for graph in GRAPHS:
        constants = read_program(coreml_bundles["exact"] / package_name(graph)).constants
        for name in ("wte", "wpe", "head", "blocks.0.w12", "blocks.1.w12", "blocks.0.w3", "blocks.1.b3"):
            stored = constants[f"b_cell_{name.replace('.', '_')}"]
            np.testing.assert_array_equal(stored, dict(cell.named_buffers())[name].numpy())


@needs_coreml
def test_packages_describe_their_state(coreml_bundles):
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model()
    model.ParseFromString((coreml_bundles["exact"] / package_name("prefill") / MODEL_FILE).read_bytes())
    entries = model.description.metadata.userDefined
    assert entries["causalrn.graph"] == "prefill"
    assert json.loads(entries["causalrn.state"])["tensors"][1]["name"] == "01.pool"
    assert [value.name for value in model.description.output] == ["logits", "present_00_pool", "present_01_pool"]


@needs_coreml
def test_a_vector_of_zeros_normalizes_to_zeros(tmp_path):
    """coremltools' own form divides by the largest |value|."""
    model = random_model(capacity=9)
    with torch.no_grad():
        model.wte.weight[5] = model.wpe.weight[0] = 0.0
    cell = RecurrentCell.from_model(model, pool="fixed")
    named = NamedCell(cell)
    coreml_exporter.convert_graph(named, "step", 1, tmp_path / "step.mlpackage", half=False)
    inputs = static_inputs(cell.spec, 1, position_shape=(1,))
    inputs["tokens"][0, 0] = 5
    results = evaluate(read_program(tmp_path / "step.mlpackage"), {name: one.numpy() for name, one in inputs.items()})
    with torch.no_grad():
        expected = named(**inputs)["logits"]
    np.testing.assert_allclose(results["logits"], expected, atol=2e-6)


OTHER_MODELS = {
    "plain": {"readout": "plain"},
    "elu": {"activation": "elu"},
    "no post-norm": {"post_norm": False},
    "eps": {"norm_eps": 1e-5},
    "no positions": {"positions": "none", "capacity": None},
}


@needs_coreml
@pytest.mark.cases(2)
@pytest.mark.parametrize("options", OTHER_MODELS.values(), ids=OTHER_MODELS)
def test_other_models_pass_and_have_the_contracts_inputs(options, tmp_path):
    model = random_model(3, **{"embedding": 16, "hidden": 16, "capacity": 12, **options})
    card = ModelCard(model.config, Alphabet("letters"), CopyTask(5))
    save_checkpoint(tmp_path / "run", model, card, {})
    bundle = export(tmp_path / "run", output=tmp_path / "out", target="coreml", capacity=12).bundle
    tensors = bundle.manifest.state.tensors
    for graph in GRAPHS:
        program = read_program(bundle.path / package_name(graph))
        assert set(program.inputs) == {"tokens", "position", *(plain_name(tensor.input) for tensor in tensors)}
        for tensor in tensors:
            assert program.inputs[plain_name(tensor.input)][0] == tensor.sized(batch=1)


@needs_coreml
def test_float16_is_within_its_budget(runs, tmp_path):
    result = export(runs["linear"], output=tmp_path / "out", target="coreml", scheme="fp16")
    assert result.report is not None
    assert result.bundle.manifest.quantization.scheme == "fp16"
    assert result.bundle.manifest.converted.precision == "fp16"
    constants = read_program(tmp_path / "out" / package_name("step")).constants
    weights = {name: value.dtype for name, value in constants.items() if "_w12" in name or "_w3" in name}
    assert set(weights.values()) == {np.dtype(np.float16)}, weights


@needs_coreml
@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07"], ids=["empty", "text", "another kind"])
def test_a_malformed_program_is_refused(content, coreml_bundles, tmp_path):
    converted_before(coreml_bundles["exact"])(None, "step", 1, tmp_path / "p", half=False)
    (tmp_path / "p" / MODEL_FILE).write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.mlmodel"):
        read_program(tmp_path / "p")


@needs_coreml
def test_weights_that_are_cut_short_are_refused(coreml_bundles, tmp_path):
    converted_before(coreml_bundles["exact"])(None, "step", 1, tmp_path / "p", half=False)
    place = tmp_path / "p" / WEIGHTS_FILE
    place.write_bytes(place.read_bytes()[:-4096])
    with pytest.raises(BundleError, match="weights"):
        read_program(tmp_path / "p")


def test_without_the_extra_one_line_says_what_to_install(call, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(Conversion, "is_installed", property(lambda row: False))
    code, _, err = call("export", runs["exact"], "-o", tmp_path / "out", "--target", "coreml")
    assert code == 2
    assert err.strip().endswith("this needs coremltools, which is not installed: pip install 'causalrn[coreml]'")
    assert not (tmp_path / "out").exists()
