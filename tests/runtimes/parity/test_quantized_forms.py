"""Quantized forms: intact ones pass the budget of their scheme, damaged ones do not, and the report says why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.graph_files import load_graphs, save_graphs
from causalrn.bundle.tolerances import BUDGETS
from causalrn.calibration.schemes import Scheme, write_quantized
from causalrn.workflows.verify import verify_with_golden
from causalrn.workflows.verify_options import VerifyOptions
from tests.calibration.test_schemes import SCHEMES, scheme_for

LEVELS = ("logits", "state", "split", "layer", "determinism")
LOOSE = {"kl_divergence": 5.0, "argmax_changes": 1.0, "accuracy_drop": 1.0}
"""Random weights agree less than trained ones: here the form is compared with itself."""


def failed(bundle: Bundle) -> set[str]:
    report = verify_with_golden(bundle.path, VerifyOptions(level=LEVELS, limits=LOOSE)).report
    return {f"{result.level}, {result.runtime.partition(', ')[2]}" for result in report.results if not result.passed}


@pytest.mark.parametrize("readout", ["exact", "linear"])
@pytest.mark.parametrize("name", SCHEMES)
def test_intact_forms_repeat_themselves(name, readout, bundles, tmp_path):
    if SCHEMES[name].pool8 and readout == "linear":
        return  # it has no pool
    source = Bundle.open(bundles[readout])
    assert failed(write_quantized(source, tmp_path, scheme_for(source, name))) == set()


def scale_logits(factor):
    def damage(model):
        node = next(node for node in model.graph.node if "logits" in node.output)
        node.output[0] = "logits.right"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(factor), "factor"))
        model.graph.node.append(onnx.helper.make_node("Mul", ["logits.right", "factor"], ["logits"]))

    return damage


def scale_rows(factor):
    """New rows of block 1's pool, as they are stored."""

    def damage(model):
        name = "row.01.scale" if any(value.name == "row.01.scale" for value in model.graph.output) else "row.01.pool"
        node = next(node for node in model.graph.node if name in node.output)
        kind = np.float16 if name.endswith("pool") and SCHEMES["fp16"] and node.op_type == "Cast" else np.float32
        node.output[0] = f"{name}.right"
        for other in model.graph.node:
            other.input[:] = [f"{name}.right" if value == name else value for value in other.input]
        model.graph.initializer.append(onnx.numpy_helper.from_array(kind(factor), "factor"))
        model.graph.node.append(onnx.helper.make_node("Mul", [f"{name}.right", "factor"], [name]))

    return damage


def drop_bias(model):
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "blocks.1.b12")
    bias.CopyFrom(onnx.numpy_helper.from_array(0 * onnx.numpy_helper.to_array(bias), bias.name))


@pytest.mark.parametrize("name", ["w8", "w4", "w8a8", "fp16", "pool8"])
@pytest.mark.parametrize(
    ("graphs", "damage", "level"),
    [
        (("prefill",), scale_logits(1.02), "split, "),
        (("step_single",), scale_logits(1.02), "split, "),
        (("prefill",), scale_rows(1.05), "split, "),
        (("step_single",), scale_rows(0.0), "split, "),
        (("step", "prefill", "step_single"), drop_bias, "logits, recorded"),
        (("step", "prefill", "step_single"), scale_logits(1.05), "logits, recorded"),
    ],
    ids=["prefill", "step_single", "prefill's rows", "step_single's rows", "bias", "all logits"],
)
def test_damaged_forms_are_caught_by_what_they_said_themselves(name, graphs, damage, level, exact_bundle, tmp_path):
    source = Bundle.open(exact_bundle)
    bundle = write_quantized(source, tmp_path, scheme_for(source, name))
    models = load_graphs(bundle)
    for graph in graphs:
        damage(models[bundle.manifest.graphs[graph].file])
    save_graphs(models, tmp_path, checked=False)
    assert level in failed(seal_bundle(tmp_path, bundle.manifest))


def test_rows_in_other_places_are_no_rounding(exact_bundle, tmp_path):
    """The exact readout adds rows up, whatever their order: only the state shows it."""

    def reverse(model):
        node = next(node for node in model.graph.node if "row.01.pool" in node.output)
        node.output[0] = "row.01.pool.right"
        for other in model.graph.node:
            other.input[:] = ["row.01.pool.right" if value == "row.01.pool" else value for value in other.input]
        constants = {"start": [-1], "end": [-(2**31)], "axis": [0], "stride": [-1]}
        for key, value in constants.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), f"reverse.{key}"))
        inputs = ["row.01.pool.right", *(f"reverse.{key}" for key in constants)]
        model.graph.node.append(onnx.helper.make_node("Slice", inputs, ["row.01.pool"]))

    bundle = write_quantized(Bundle.open(exact_bundle), tmp_path, Scheme("w8", "nbits"))
    models = load_graphs(bundle)
    reverse(models["prefill.onnx"])
    save_graphs(models, tmp_path, checked=False)
    assert "split, " in failed(seal_bundle(tmp_path, bundle.manifest))


def test_budgets_are_ordered_by_how_much_a_scheme_rounds():
    assert BUDGETS["fp16"].kl_divergence < BUDGETS["w8"].kl_divergence < BUDGETS["w8a8"].kl_divergence
    assert BUDGETS["w8a8"].kl_divergence < BUDGETS["w4"].kl_divergence
    assert all(budget.typical <= budget.repeat for budget in BUDGETS.values())
