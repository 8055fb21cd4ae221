"""Damaged bundles and runtimes: every one is caught, and the report names what is wrong.

A mutant that no level noticed would be a hole in `verify`; one that is blamed on the wrong block sends somebody to the
wrong place.
"""

import pytest

from causalrn.runtimes.parity.results import LEVELS, Level
from causalrn.workflows import verify_backends as verify_backends
from causalrn.workflows.verify import verify_with_checkpoint, verify_with_golden
from causalrn.workflows.verify_options import VerifyOptions
from tests.runtimes.parity.mutants import GRAPHS, SESSIONS, damaged_copy


def _verify(bundle, run, levels, seed=0):
    options = VerifyOptions(runtime=("onnxruntime",), level=levels, seed=seed)
    return verify_with_checkpoint(bundle, run, options).report


def _assert_named(report, mutant):
    assert not report.passed
    if mutant.tensor is not None:
        attribution = report.attributions[0]
        assert attribution.tensor == mutant.tensor
        assert mutant.tensor in attribution.verdict
        assert mutant.cause in (None, attribution.cause)


@pytest.mark.cases(6)
@pytest.mark.parametrize("mutant", GRAPHS, ids=lambda mutant: mutant.name)
def test_damaged_graph_is_caught_and_named(bundles, runs, tmp_path, mutant):
    damaged = damaged_copy(bundles[mutant.readout], tmp_path / "bundle", mutant.damage)
    _assert_named(_verify(damaged, runs[mutant.readout], mutant.levels), mutant)


@pytest.mark.cases(6)
@pytest.mark.parametrize("mutant", SESSIONS, ids=lambda mutant: mutant.name)
def test_damaged_runtime_is_caught_and_named(bundles, runs, monkeypatch, mutant):
    opened = verify_backends.BackendOpener.open

    def open_damaged(self, name, threads=None):
        session = opened(self, name, threads)
        if name == "onnxruntime":
            mutant.damage(session)
        return session

    monkeypatch.setattr(verify_backends.BackendOpener, "open", open_damaged)
    _assert_named(_verify(bundles[mutant.readout], runs[mutant.readout], mutant.levels), mutant)


@pytest.mark.cases(2)
@pytest.mark.parametrize("mutant", GRAPHS[::3], ids=lambda mutant: mutant.name)
def test_damaged_graph_is_caught_and_named_on_a_device(bundles, tmp_path, mutant):
    damaged = damaged_copy(bundles[mutant.readout], tmp_path / "bundle", mutant.damage)
    report = verify_with_golden(damaged, VerifyOptions(level=mutant.levels)).report
    assert not report.passed
    assert report.attributions[0].tensor == mutant.tensor


SAMPLED: tuple[Level, ...] = ("logits", "split", "drift", "task")
"""Levels at which much depends on the seed."""


TWENTY = [("exact", seed) for seed in range(20)] + [(name, seed) for name in ("linear", "plain") for seed in range(5)]


@pytest.mark.slow
@pytest.mark.cases(0)
@pytest.mark.parametrize(("readout", "seed"), TWENTY)
def test_good_bundle_passes_on_twenty_seeds(bundles, runs, readout, seed):
    options = VerifyOptions(seed=seed, samples=20, level=LEVELS if seed == 0 else SAMPLED)
    report = verify_with_checkpoint(bundles[readout], runs[readout], options).report
    assert report.passed, [result for result in report.results if not result.passed]
    assert not report.attributions
