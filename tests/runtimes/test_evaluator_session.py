"""The graphs in float64 mean what the oracle means, and intermediate values can be shown without onnx."""

import numpy as np
import onnx
import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.export.onnx_exporter import export_onnx
from causalrn.runtimes import open_session
from causalrn.runtimes.evaluator_session import EvaluatorSession
from causalrn.runtimes.onnx_bytes import with_outputs
from causalrn.runtimes.torch_sessions import forward_with_streams
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import Checkpoint, load_checkpoint
from tests.builders import random_model, random_tokens, relative_error

_ROUNDED_WEIGHTS = 3e-7
"""The graph has float32 weights: that is all that keeps it from the oracle."""


def _mixed(session, tokens):
    session.reset(len(tokens))
    with session.probing():
        logits, streams = [session.prefill(tokens[:, :6])], [session.streams]
        for index in range(6, tokens.shape[1]):
            logits.append(session.step(tokens[:, index])[:, None])
            streams.append(session.streams)
    return np.concatenate(logits, 1), [np.concatenate(parts, 1) for parts in zip(*streams, strict=True)]


@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
@pytest.mark.parametrize("batch", [1, 2])
def test_graph_in_float64_is_the_oracle(bundles, runs, readout, batch):
    model = load_checkpoint(runs[readout]).model.oracle()
    tokens = random_tokens(model.config, batch, 12)
    logits, streams = _mixed(EvaluatorSession(Bundle.open(bundles[readout])), tokens.numpy())
    assert logits.dtype == np.float64
    assert relative_error(logits, model(tokens)) < _ROUNDED_WEIGHTS
    for stream, expected in zip(streams, forward_with_streams(model, tokens.numpy())[1], strict=True):
        assert relative_error(stream, expected) < _ROUNDED_WEIGHTS


@pytest.mark.cases(0)
def test_graphs_of_early_opsets_are_evaluated(tmp_path):
    model = random_model(blocks=1)
    manifest = export_onnx(Checkpoint(model, ModelCard(model.config), "test"), tmp_path, opset=17)
    tokens = random_tokens(model.config, 2, 9)
    logits, _ = _mixed(EvaluatorSession(seal_bundle(tmp_path, manifest)), tokens.numpy())
    assert relative_error(logits, model.oracle()(tokens)) < _ROUNDED_WEIGHTS


@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
@pytest.mark.parametrize("runtime", ["parallel", "recurrent", "onnxruntime"])
def test_every_runtime_shows_the_oracles_streams(bundles, runs, readout, runtime):
    model = load_checkpoint(runs[readout]).model.oracle()
    tokens = random_tokens(model.config, 2, 12).numpy()
    with open_session(bundles[readout] if runtime == "onnxruntime" else runs[readout], runtime) as session:
        _, streams = _mixed(session, tokens)
        plain = session.step([1, 1])
        session.reset(2)
        session.prefill(tokens)
        assert (np.abs(session.step([1, 1]) - plain) < 1e-4).all()  # probing left nothing behind
    _, expected = forward_with_streams(model, tokens)
    assert len(streams) == len(expected) == 3
    for stream, values in zip(streams, expected, strict=True):
        assert relative_error(stream, values) < 2e-6


def test_appended_outputs_are_what_onnx_reads(exact_bundle):
    content = (exact_bundle / "step.onnx").read_bytes()
    before = onnx.load_from_string(content)
    after = onnx.load_from_string(with_outputs(content, ["stream.00", "s" * 300]))
    added = [output.name for output in after.graph.output[len(before.graph.output) :]]
    assert added == ["stream.00", "s" * 300]
    del after.graph.output[len(before.graph.output) :]
    assert after == before
