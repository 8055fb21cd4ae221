"""Graphs for the widest use: opset 17, standard operators, no arithmetic on shapes; 32-bit indices; whole pools."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import causalrn
from causalrn.model.cell import RecurrentCell
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import load_checkpoint, save_checkpoint
from tests.builders import random_model

VARIANTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({}, {"pool": "fixed"}),
    ({}, {"pool": "fixed", "present": True, "index_type": "int32"}),
    ({"heads": 2, "norm": "rms"}, {"index_type": "int32"}),
    ({"readout": "linear"}, {}),
    ({"readout": "plain"}, {}),
    ({"attention": "softmax"}, {}),
    ({"attention": "softmax"}, {"pool": "fixed", "present": True}),
    ({"attention": "linear"}, {"index_type": "int32"}),
]
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Neg", "Range", "ConstantOfShape", "Cast", "Where"}


@pytest.fixture
def export(tmp_path):
    """Export a random model: (its options, those of the export) -> (RUN, bundle)."""

    def _export(options: dict[str, Any], how: dict[str, Any]):
        model = random_model(**options)
        save_checkpoint(tmp_path / "run", model, ModelCard(model.config), {})
        return tmp_path / "run", causalrn.export(tmp_path / "run", output=tmp_path / "bundle", **how).bundle

    return _export


def _sizes(graph: onnx.GraphProto) -> set[str]:
    """Names of values that are sizes, or were made of sizes alone."""
    sizes: set[str] = set()
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or (node.op_type != "Slice" and sizes & set(node.input[:1])):
            sizes |= set(node.output)
    return sizes


@pytest.mark.slow
@pytest.mark.cases(1)
@pytest.mark.parametrize(("options", "how"), VARIANTS, ids=str)
def test_portable_graphs_hold_standard_operators_and_no_arithmetic_on_shapes(export, options, how) -> None:
    run, bundle = export(options, {"profile": "portable", **how})
    assert bundle.manifest.opset == 17
    for graph in bundle.manifest.graphs.values():
        model = onnx.load(bundle.path / graph.file)
        onnx.checker.check_model(model, full_check=True)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
        assert not any(node.domain for node in model.graph.node)
        sizes = _sizes(model.graph)
        computed = {node.op_type for node in model.graph.node if sizes & set(node.input)} & ARITHMETIC
        assert computed <= {"Neg"}  # of a number of rows, for a slice from the end
    assert causalrn.verify(bundle, checkpoint=run, samples=20, level=["logits", "state", "split"]).passed


def test_weights_of_quantized_portable_graphs_are_dequantized_by_standard_operators(runs, tmp_path) -> None:
    bundle = causalrn.export(runs["exact"], output=tmp_path / "b", profile="portable", scheme="w8").bundle
    for graph in bundle.manifest.graphs.values():
        model = onnx.load(bundle.path / graph.file, load_external_data=False)
        kinds = {(node.domain, node.op_type) for node in model.graph.node}
        assert ("", "DequantizeLinear") in kinds
        assert not any(domain for domain, _ in kinds)


@pytest.mark.cases(0)
def test_int32_graphs_take_int32_and_nothing_else(export) -> None:
    bundle = export({}, {"index_type": "int32"})[1]
    assert bundle.manifest.index_type == "int32"
    for graph in bundle.manifest.graphs.values():
        inputs = onnx.load(bundle.path / graph.file, load_external_data=False).graph.input
        kinds = {value.name: value.type.tensor_type.elem_type for value in inputs}
        assert {kinds["tokens"], kinds["position"]} == {onnx.TensorProto.INT32}


@pytest.mark.cases(0)
def test_int32_and_int64_graphs_give_the_same_bits(runs, tmp_path) -> None:
    tokens = np.random.default_rng(0).integers(0, 29, (2, 12))
    logits = []
    for kind in ("int64", "int32"):
        bundle = causalrn.export(runs["exact"], output=tmp_path / kind, index_type=kind)
        with causalrn.open_session(bundle) as session:
            session.reset(2)
            logits.append([session.prefill(tokens[:, :5]), *(session.step(tokens[:, t]) for t in range(5, 12))])
    for one, other in zip(*logits, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("options", [{}, {"heads": 2}, {"attention": "softmax", "heads": 2}], ids=str)
def test_whole_pools_are_rows_in_their_places(options) -> None:
    """What a runtime that keeps the state itself gets is what a caller would have written: every split, to the end."""
    import torch

    model = random_model(**options)
    rows = RecurrentCell.from_model(model, pool="fixed")
    whole = RecurrentCell.from_model(model, pool="fixed", present=True)
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 29, (2, 11)))
    pools = [torch.zeros(tensor.given(batch=2, rows=rows.spec.capacity)) for tensor in rows.spec.tensors]
    kept, position = [pool.clone() for pool in pools], 0
    for time in (1, 4, 1, 1, 3, 1):
        part, at = tokens[:, position : position + time], torch.tensor(position)
        expected, *new = rows(part, at, *pools)
        logits, *kept = whole(part, at, *kept)
        for pool, row in zip(pools, new, strict=True):
            pool[position : position + time] = row
        position += time
        assert torch.equal(logits, expected)
        for pool, present in zip(pools, kept, strict=True):
            assert torch.equal(pool, present)


def test_states_of_whole_pools_are_saved_and_resumed_bit_for_bit(runs, tmp_path) -> None:
    bundle = causalrn.export(runs["exact"], output=tmp_path / "b", pool="fixed", present=True)
    tokens = np.random.default_rng(2).integers(0, 29, (1, 10))
    with causalrn.open_session(bundle) as session, causalrn.open_session(bundle) as other:
        session.prefill(tokens[:, :6])
        session.save(tmp_path / "state.safetensors")
        other.load(tmp_path / "state.safetensors")
        for t in range(6, 10):
            assert np.array_equal(session.step(tokens[:, t]), other.step(tokens[:, t]))


def test_present_is_refused_where_no_fixed_pool_is(runs, tmp_path) -> None:
    for how in ({}, {"pool": "concat"}):
        with pytest.raises(causalrn.CausalRNError, match="present"):
            causalrn.export(runs["exact"], output=tmp_path / "b", present=True, **how)
    with pytest.raises(causalrn.CausalRNError, match="present"):
        causalrn.export(runs["linear"], output=tmp_path / "b", pool="fixed", present=True)
    with pytest.raises(causalrn.InputError, match="opset"):
        causalrn.export(runs["exact"], output=tmp_path / "b", profile="portable", opset=20)
    with pytest.raises(causalrn.InputError, match="cortex-m"):
        causalrn.export(runs["exact"], output=tmp_path / "b", profile="cortex-m")
    assert not (tmp_path / "b").exists()


def test_pool8_of_whole_pools_is_refused(runs, tmp_path) -> None:
    bundle = causalrn.export(runs["exact"], output=tmp_path / "b", pool="fixed", present=True)
    with pytest.raises(causalrn.InputError, match="whole pools"):
        causalrn.quantize(bundle, output=tmp_path / "small", scheme="w8", pool8=True)


def test_checkpoints_load_as_before(runs) -> None:
    """Constants that masks are cut from are no weights: they are in no checkpoint."""
    model = load_checkpoint(runs["exact"]).model
    assert not any("index" in name for name in model.state_dict())


def test_onnxruntimes_own_format_comes_with_the_operators_that_reduced_builds_need(runs, tmp_path) -> None:
    bundle = causalrn.export(runs["exact"], output=tmp_path / "b", ort_format=True).bundle
    files = {path.name for path in bundle.path.iterdir()}
    graphs = {"step.ort", "step_single.ort", "prefill.ort"}
    assert files == graphs | {"required_operators.config", "manifest.json", "MODEL_CARD.md", "golden.safetensors"}
    text = (bundle.path / "required_operators.config").read_text()
    assert str(tmp_path) not in text
    assert "RMSNormalization" in text
    assert 'MatMul{"inputs": {"0": ["float"]}}' in text
    assert causalrn.verify(bundle, checkpoint=runs["exact"], samples=20).passed
    plain = causalrn.export(runs["exact"], output=tmp_path / "plain")
    tokens = np.random.default_rng(0).integers(0, 29, (1, 9))
    with causalrn.open_session(bundle) as session, causalrn.open_session(plain) as other:
        assert np.array_equal(session.prefill(tokens), other.prefill(tokens))
        assert np.array_equal(session.step([3]), other.step([3]))


def test_onnxruntimes_own_format_is_refused_where_graphs_are_still_changed(runs, tmp_path) -> None:
    with pytest.raises(causalrn.InputError, match="convert_onnx_models_to_ort"):
        causalrn.export(runs["exact"], output=tmp_path / "b", ort_format=True, scheme="w8")
    bundle = causalrn.export(runs["exact"], output=tmp_path / "b", ort_format=True, pool="fixed").bundle
    with pytest.raises(causalrn.InputError, match="onnxruntime's own format"):
        causalrn.quantize(bundle, output=tmp_path / "small", scheme="w8")
    with pytest.raises(causalrn.CausalRNError, match="only onnxruntime reads its graphs"):
        causalrn.compile(bundle, output=tmp_path / "engine")
