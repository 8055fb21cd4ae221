"""Golden vectors: the oracle's numbers in a bundle, and the check that a device makes of them."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.compiling.processor import processor_family
from causalrn.errors import BundleError
from causalrn.runtimes import open_session
from causalrn.runtimes.parity.golden import GOLDEN_NAME, load_golden
from causalrn.runtimes.parity.levels import Case, check_recorded, check_resumed
from causalrn.runtimes.parity.oracle import CheckpointOracle
from causalrn.runtimes.parity.traces import trace_resumed
from causalrn.training.checkpoint import load_checkpoint
from causalrn.workflows import verify_result

READOUTS = ("exact", "linear", "plain")


@pytest.mark.parametrize("readout", READOUTS)
def test_golden_vectors_are_the_oracles(runs, bundles, readout):
    golden = load_golden(Bundle.open(bundles[readout])).reference
    checkpoint = load_checkpoint(runs[readout])
    logits = checkpoint.model.oracle()(torch.from_numpy(golden.tokens)).numpy()
    assert np.allclose(logits, golden.logits, rtol=1e-12)
    made = CheckpointOracle(checkpoint.model, checkpoint.card).reference(golden.tokens, golden.states)
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
    golden = load_golden(Bundle.open(bundles[readout]))
    with open_session(bundles[readout]) as session:
        recorded = check_recorded(session, golden, None)
        assert recorded.passed
        assert recorded.error == 0.0  # the same machine: bit for bit
        assert check_resumed(trace_resumed(session, golden), Case(golden.reference), session).passed


def test_wrong_recorded_values_are_noticed(exact_bundle):
    golden = load_golden(Bundle.open(exact_bundle))
    with open_session(exact_bundle) as session:
        golden.recorded_logits[1, 30, 5] += 1e-3
        assert not check_recorded(session, golden, None).passed
        (position,) = golden.recorded_states
        golden.recorded_states[position]["01.pool"][3] = 0
        result = check_resumed(trace_resumed(session, golden), Case(golden.reference), session)
    assert not result.passed
    assert result.step == position


def _damaged(bundle, tmp_path, change):
    """A bundle whose golden vectors were changed, sealed again."""
    target = shutil.copytree(bundle, tmp_path / "bundle")
    tensors = load_file(target / GOLDEN_NAME)
    change(tensors)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, target / GOLDEN_NAME)
    return seal_bundle(target, Bundle.open(bundle).manifest)


def _set(name, value):
    def change(tensors):
        tensors[name] = value(tensors[name])

    return change


def _drop(name):
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop("bound.logits"), "another version"),
        (_drop("bound.state.01.pool"), "another version"),
        (_drop("recorded.logits"), "another version"),
        (_set("bound.logits", lambda a: a * np.inf), "bounds of logits"),
        (_set("bound.logits", lambda a: -a), "bounds of logits"),
        (_set("bound.streams", lambda a: a[:1]), "bounds of streams"),
        (_set("bound.state.00.pool", lambda a: a + np.inf), "bounds of states"),
        (_set("tokens", lambda a: a[0]), "malformed"),
        (_set("tokens", lambda a: a + 29), "outside the vocabulary"),
        (_set("tokens", lambda a: a[:, :1]), "tokens int64"),
        (_set("oracle.logits", lambda a: a * np.nan), "logits"),
        (_set("oracle.logits", lambda a: a * 0), "all zero"),
        (_set("oracle.logits", lambda a: a[:, 1:]), "logits"),
        (_set("oracle.streams", lambda a: a[..., :5]), "streams"),
        (_set("oracle.positions", lambda a: a * 0), "positions"),
        (_set("oracle.positions", lambda a: a + 99), "positions"),
        (_set("oracle.recurrent_error", lambda a: a - 1), "negative"),
        (_set("recorded.logits", lambda a: a[..., :3]), "recorded logits"),
    ],
)
def test_damaged_golden_vectors_are_refused_in_one_line(exact_bundle, tmp_path, change, words):
    with pytest.raises(BundleError, match=words) as raised:
        load_golden(_damaged(exact_bundle, tmp_path, change))
    assert "golden.safetensors" in str(raised.value)
    assert "export the bundle again" in str(raised.value)


def test_junk_is_no_golden_file(exact_bundle, tmp_path):
    target = shutil.copytree(exact_bundle, tmp_path / "bundle")
    (target / GOLDEN_NAME).write_bytes(b"nothing")
    with pytest.raises(BundleError, match="corrupt file of golden vectors"):
        load_golden(seal_bundle(target, Bundle.open(exact_bundle).manifest))


def test_family_of_processors_is_recorded_and_another_one_is_named(call, exact_bundle, tmp_path, monkeypatch):
    assert load_golden(Bundle.open(exact_bundle)).recorded_on == processor_family()
    assert "another family" not in call("verify", exact_bundle, "--level", "logits")[1]
    monkeypatch.setattr(verify_result, "processor_family", lambda: "x86-64 SSE")
    code, out, _ = call("verify", exact_bundle, "--level", "logits")
    assert code == 0
    assert "this processor is of another family (x86-64 SSE)" in " ".join(out.split())
    assert f"recorded on ({processor_family()})" in " ".join(out.split())


def test_bundle_of_a_version_that_recorded_no_family_is_verified(call, exact_bundle, tmp_path):
    folder = shutil.copytree(exact_bundle, tmp_path / "b")
    tensors = load_file(folder / GOLDEN_NAME)
    del tensors["recorded.processor_family"]
    save_file(tensors, folder / GOLDEN_NAME)
    bundle = seal_bundle(folder, Bundle.open(exact_bundle).manifest)
    assert load_golden(bundle).recorded_on is None
    code, out, _ = call("verify", folder, "--level", "logits")
    assert code == 0
    assert "family" not in out


@pytest.mark.parametrize("codes", [np.array([-1, 70], np.int8), np.zeros((0,), np.int8), np.zeros(100, np.int8)])
def test_family_of_nonsense_is_refused(exact_bundle, tmp_path, codes):
    folder = shutil.copytree(exact_bundle, tmp_path / "b")
    save_file(load_file(folder / GOLDEN_NAME) | {"recorded.processor_family": codes}, folder / GOLDEN_NAME)
    bundle = seal_bundle(folder, Bundle.open(exact_bundle).manifest)
    with pytest.raises(BundleError, match="malformed golden vectors"):
        load_golden(bundle)
