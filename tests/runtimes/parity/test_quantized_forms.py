"""Quantized forms: intact ones pass the budget of their scheme, damaged ones do not, and the report says why."""

from __future__ import annotations

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.graph_files import load_graphs, save_graphs
from causalrn.bundle.tolerances import BUDGETS
from causalrn.calibration.graph_edits import append_node, array_of, constant, set_array
from causalrn.calibration.schemes import Scheme, write_quantized
from causalrn.workflows.verify import verify_with_golden
from causalrn.workflows.verify_options import VerifyOptions
from tests.calibration.test_schemes import SCHEMES, scheme_for

LEVELS = ("logits", "state", "split", "layer", "determinism")
LOOSE = {"kl_divergence": 5.0, "argmax_changes": 1.0, "accuracy_drop": 1.0, "scale": 1.0, "offset": 1.0}
"""Random weights agree less than trained ones: here the form is compared with itself."""


def failed(bundle: Bundle) -> set[str]:
    report = verify_with_golden(bundle.path, VerifyOptions(level=LEVELS, limits=LOOSE)).report
    return {f"{result.level}, {result.runtime.partition(', ')[2]}" for result in report.results if not result.passed}


@pytest.mark.cases(8)
@pytest.mark.parametrize("readout", ["exact", "linear"])
@pytest.mark.parametrize("name", SCHEMES)
def test_intact_forms_repeat_themselves(name, readout, bundles, tmp_path):
    if SCHEMES[name].pool != "float32" and readout == "linear":
        return  # it has no pool
    source = Bundle.open(bundles[readout])
    assert failed(write_quantized(source, tmp_path, scheme_for(source, name))) == set()


def change_output(model, name, op, **constants):
    """Put one more node behind what gives an output; nodes that read it inside the graph are left as they are."""
    graph, names = model.graph, [value.name for value in model.graph.outputs]
    right = graph.outputs[names.index(name)]
    right.name = f"{name}.right"
    inputs = [constant(graph, f"damage.{key}", np.array(value)) for key, value in constants.items()]
    wrong = append_node(graph, op, [right, *inputs], name)
    wrong.type, wrong.shape = right.type, right.shape
    graph.outputs[names.index(name)] = wrong


def scale_logits(factor):
    return lambda model: change_output(model, "logits", "Mul", factor=np.float32(factor))


def scale_rows(factor):
    """New rows of block 1's pool, as they are stored."""

    def damage(model):
        outputs = {value.name: value for value in model.graph.outputs}
        name = "row.01.scale" if "row.01.scale" in outputs else "row.01.pool"
        change_output(model, name, "Mul", factor=outputs[name].dtype.numpy().type(factor))

    return damage


def drop_bias(model):
    bias = model.graph.initializers["blocks.1.b12"]
    set_array(bias, 0 * array_of(bias))


@pytest.mark.cases(10)
@pytest.mark.parametrize("name", ["w8", "w4", "w8a8", "fp16", "pool8", "pool16"])
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
def test_damaged_forms_are_caught_by_their_own_outputs(name, graphs, damage, level, exact_bundle, tmp_path):
    source = Bundle.open(exact_bundle)
    bundle = write_quantized(source, tmp_path, scheme_for(source, name))
    models = load_graphs(bundle)
    for graph in graphs:
        damage(models[bundle.manifest.graphs[graph].file])
    save_graphs(models, tmp_path, checked=False)
    assert level in failed(seal_bundle(tmp_path, bundle.manifest))


def test_rows_in_other_places_are_no_rounding(exact_bundle, tmp_path):
    """The exact readout adds rows up, whatever their order: only the state shows it."""

    bundle = write_quantized(Bundle.open(exact_bundle), tmp_path, Scheme("w8", "nbits"))
    models = load_graphs(bundle)
    change_output(models["prefill.onnx"], "row.01.pool", "Slice", start=[-1], end=[-(2**31)], axis=[0], stride=[-1])
    save_graphs(models, tmp_path, checked=False)
    assert "split, " in failed(seal_bundle(tmp_path, bundle.manifest))


def test_budgets_are_ordered_by_how_much_a_scheme_rounds():
    assert BUDGETS["fp16"].kl_divergence < BUDGETS["w8"].kl_divergence < BUDGETS["w8a8"].kl_divergence
    assert BUDGETS["w8a8"].kl_divergence < BUDGETS["w4"].kl_divergence
    assert all(budget.typical <= budget.repeat for budget in BUDGETS.values())
