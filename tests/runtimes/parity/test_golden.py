"""Golden vectors: the oracle's numbers in a bundle, and the check that a device makes of them."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from causalrn.checkpoint import load_checkpoint
from causalrn.errors import BundleError
from causalrn.runtimes import open_session
from causalrn.runtimes.parity.golden import GOLDEN_NAME, load_golden
from causalrn.runtimes.parity.levels import Case, check_recorded, check_resumed
from causalrn.runtimes.parity.oracle import Oracle

READOUTS = ("exact", "linear", "plain")


@pytest.mark.parametrize("readout", READOUTS)
def test_golden_vectors_are_the_oracles(runs, bundles, readout):
    golden = load_golden(bundles[readout] / GOLDEN_NAME).reference
    checkpoint = load_checkpoint(runs[readout])
    logits = checkpoint.model.oracle()(torch.from_numpy(golden.tokens)).numpy()
    assert np.allclose(logits, golden.logits, rtol=1e-12)
    made = Oracle(checkpoint.model, checkpoint.card).reference(golden.tokens, golden.states)
    assert made.states.keys() == golden.states.keys()
    for position, tensors in made.states.items():
        for name, value in tensors.items():
            assert golden.states[position][name].shape == value.shape
            assert np.allclose(golden.states[position][name], value, rtol=1e-6, atol=1e-7 * np.abs(value).max())
    for stream, expected in zip(golden.streams, made.streams, strict=True):
        assert np.allclose(stream, expected, rtol=1e-6, atol=1e-6)
    assert np.allclose(golden.bounds.logits, made.bounds.logits, rtol=1e-6)
    assert golden.bounds.states == pytest.approx(made.bounds.states)


@pytest.mark.parametrize("readout", READOUTS)
def test_bundle_repeats_what_was_recorded_and_resumes_from_it(bundles, readout):
    golden = load_golden(bundles[readout] / GOLDEN_NAME)
    with open_session(bundles[readout]) as session:
        recorded = check_recorded(session, golden)
        assert recorded.passed
        assert recorded.error == 0.0  # the same machine: bit for bit
        assert check_resumed(session, golden, Case(golden.reference)).passed


def test_wrong_recorded_values_are_noticed(exact_bundle):
    golden = load_golden(exact_bundle / GOLDEN_NAME)
    with open_session(exact_bundle) as session:
        golden.recorded_logits[1, 30, 5] += 1e-3
        assert not check_recorded(session, golden).passed
        (position,) = golden.recorded_states
        golden.recorded_states[position]["01.pool"][3] = 0
        result = check_resumed(session, golden, Case(golden.reference))
    assert not result.passed
    assert result.step == position


def test_golden_vectors_of_another_version_are_refused(exact_bundle, tmp_path):
    tensors = load_file(exact_bundle / GOLDEN_NAME)
    del tensors["bound.logits"]
    save_file(tensors, tmp_path / GOLDEN_NAME)
    with pytest.raises(BundleError, match="another version"):
        load_golden(tmp_path / GOLDEN_NAME)
    (tmp_path / GOLDEN_NAME).write_bytes(b"nothing")
    with pytest.raises(BundleError, match="malformed"):
        load_golden(tmp_path / GOLDEN_NAME)
