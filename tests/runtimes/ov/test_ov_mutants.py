"""A bundle, or a session, that is wrong in one way at a time does not pass `verify` in OpenVINO."""

from __future__ import annotations

import shutil

import onnx
import pytest
from onnx import numpy_helper

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.runtimes.ov.compiled_call import CompiledGraph
from causalrn.runtimes.ov.ov_session import BoundStep, OpenVINOSession
from causalrn.workflows.verify import verify
from tests.ov_tools import needs_openvino

pytestmark = needs_openvino
LEVELS = ("logits", "state", "split")


def verified(bundle, run):
    return verify(bundle, checkpoint=run, runtime="openvino", level=LEVELS, time_budget=60).report


@pytest.mark.cases(0)
@pytest.mark.parametrize(
    "kind", ["exact", "linear", "exact-fixed", "heads", "rms", "transformer", "linear-transformer"]
)
def test_one_weight_off_by_a_thousandth_is_found(ov_bundles, kind, tmp_path):
    source, run = ov_bundles[kind]
    folder = tmp_path / "bundle"
    shutil.copytree(source, folder)
    manifest = Bundle.open(source).manifest
    for graph in manifest.graphs.values():
        model = onnx.load(folder / graph.file)
        tensor = next(one for one in model.graph.initializer if one.name.startswith("blocks.1.w"))
        values = numpy_helper.to_array(tensor).copy()
        values[3, 4] += 1e-3
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(model, folder / graph.file)
    seal_bundle(folder, manifest)
    assert not verified(folder, run).passed


def states_swapped(patch):
    def swap(run):
        def swapped(self, *arguments):
            logits, states = run(self, *arguments)
            return logits, [*states[1:], states[0]]

        return swapped

    patch.setattr(OpenVINOSession, "_run", swap(OpenVINOSession._run))
    patch.setattr(BoundStep, "run", swap(BoundStep.run))


def states_of_bound_steps_swapped(patch):
    run = BoundStep.run

    def swapped(self, *arguments):
        logits, states = run(self, *arguments)
        return logits, [*states[1:], states[0]]

    patch.setattr(BoundStep, "run", swapped)


def side_that_never_flips(patch):
    patch.setattr(BoundStep, "_side_of", lambda self, state: 0)


def position_that_stays(patch):
    run = BoundStep.run
    patch.setattr(BoundStep, "run", lambda self, tokens, position, state: run(self, tokens, 3, state))


def inputs_of_two_blocks_exchanged(patch):
    initialize = CompiledGraph.__init__

    def exchanged(self, compiled, inputs, outputs, source):
        initialize(self, compiled, [*inputs[:2], inputs[3], inputs[2], *inputs[4:]], outputs, source)

    patch.setattr(CompiledGraph, "__init__", exchanged)


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("exact", states_swapped),
        ("linear", states_swapped),
        ("exact-fixed", states_of_bound_steps_swapped),
        ("linear", states_of_bound_steps_swapped),
        ("linear", side_that_never_flips),
        ("exact", position_that_stays),
        ("linear-transformer", inputs_of_two_blocks_exchanged),
        ("exact", inputs_of_two_blocks_exchanged),
    ],
)
def test_a_session_that_is_wrong_in_one_way_does_not_pass(ov_bundles, kind, damage, monkeypatch):
    assert verified(*ov_bundles[kind]).passed
    damage(monkeypatch)
    assert not verified(*ov_bundles[kind]).passed
