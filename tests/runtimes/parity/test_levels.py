"""Judging: what counts as a difference, what as a tie, and that NaN never passes."""

import dataclasses

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.targets import EQUALITIES, all_targets
from causalrn.bundle.tolerances import Budget
from causalrn.errors import CheckpointError
from causalrn.model.cell import RecurrentCell
from causalrn.runtimes.ort_session import OnnxRuntimeSession
from causalrn.runtimes.parity.comparison import compare_distributions, compare_run
from causalrn.runtimes.parity.determinism import check_determinism
from causalrn.runtimes.parity.levels import (
    Case,
    check_layer,
    check_logits,
    check_split,
    check_state,
)
from causalrn.runtimes.parity.oracle import CheckpointOracle
from causalrn.runtimes.parity.reference import compared_tensors, run_in_chunks, sample_tokens, state_positions
from causalrn.runtimes.parity.task_level import judge_task
from causalrn.runtimes.parity.traces import (
    trace_from_reference_states,
    trace_in_chunks,
    trace_in_steps,
    trace_whole,
)
from causalrn.runtimes.task_accuracy import TaskAccuracy
from causalrn.runtimes.torch_sessions import ParallelSession, RecurrentSession
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import load_checkpoint
from tests.builders import ROOT, random_model


@pytest.fixture(scope="module", params=["exact", "linear", "plain"])
def case(request):
    """A model, its card, and a case of 3 sequences of 20 tokens."""
    model = random_model(readout=request.param)
    card = ModelCard(model.config)
    tokens = sample_tokens(card, np.random.default_rng(0), 3, 20)
    return model, card, Case(CheckpointOracle(model, card).reference(tokens, state_positions(20)))


@pytest.fixture
def session(case):
    model, card, _ = case
    return RecurrentSession(RecurrentCell.from_model(model), card)


def test_good_runtimes_pass_every_level(case, session):
    model, card, checked = case
    stepped = trace_in_steps(session, checked.reference, probe=True)
    whole = trace_whole(ParallelSession(model, card), checked.reference, probe=True)
    chunked = trace_in_chunks(session, checked.reference, 0)
    results = [
        check_logits("recurrent", stepped, checked, session),
        check_logits("parallel", whole, checked, session),
        check_state("recurrent", stepped, trace_from_reference_states(session, checked.reference), checked, session),
        check_split("recurrent", chunked, checked, session, stepped),
        check_layer("recurrent", stepped, checked, session),
    ]
    for result in results:
        assert result.passed, result
        assert 0 < result.error < result.allowed
        assert (result.step, result.block, result.tensor) == (None, None, None)


def test_reference_vouches_for_its_states(case):
    assert 0 < case[2].reference.recurrent_error < 1e-11


def test_references_whose_recurrent_form_disagrees_are_refused(case, monkeypatch):
    model, card, checked = case
    oracle, forward = CheckpointOracle(model, card), RecurrentCell.forward

    def biased(self, *arguments):
        logits, *state = forward(self, *arguments)
        return logits + 1e-6, *state

    monkeypatch.setattr(RecurrentCell, "forward", biased)
    with pytest.raises(CheckpointError, match="no recurrent state can be vouched for"):
        oracle.reference(checked.reference.tokens, (1, 10))


def test_chunks_are_of_all_kinds_in_batches_of_all_sizes(case, session):
    traces = trace_in_chunks(session, case[2].reference, 0).traces
    assert {len(trace.reference.tokens) for trace in traces if trace.lengths == (20,)} == {1, 2, 3, 5}
    chunkings = {trace.lengths for trace in traces}
    assert (10, 10) in chunkings
    assert all(sum(lengths) == 20 for lengths in chunkings)
    assert any(1 in lengths for lengths in chunkings)
    assert any(len(trace.run.states) for trace in traces)
    assert chunkings != {trace.lengths for trace in trace_in_chunks(session, case[2].reference, 1).traces}


def test_nan_never_passes(case, session):
    reference = case[2].reference
    run = run_in_chunks(session, reference.tokens, [1] * 20, reference.states, probe=True)
    names = compared_tensors(session)
    assert all(deviation.passed for deviation in compare_run(run, reference, names))
    broken = dataclasses.replace(run, logits=run.logits.copy())
    broken.logits[1, 7, 3] = np.nan
    (bad,) = [d for d in compare_run(broken, reference, names) if not d.passed]
    assert (bad.tensor, bad.first_bad_step, bad.place) == ("logits", 7, "head")
    nan = dataclasses.replace(reference, bounds=dataclasses.replace(reference.bounds, logits=np.full(20, np.nan)))
    assert not next(d for d in compare_run(run, nan, names) if d.tensor == "logits").passed


def test_session_that_gives_up_is_bad_from_that_step(case, session):
    reference = case[2].reference
    run_cell = session._run

    def run(tokens, position, state):
        logits, outputs = run_cell(tokens, position, state)
        return (np.full_like(logits, np.inf) if position == 5 else logits), outputs

    session._run = run
    outputs = run_in_chunks(session, reference.tokens, [1] * 20, reference.states, probe=True)
    bad = [d for d in compare_run(outputs, reference, ()) if not d.passed]
    assert {d.tensor: d.first_bad_step for d in bad}["logits"] == 5
    assert np.isnan(outputs.logits[:, 5:]).all()
    assert not np.isnan(outputs.streams[0][:, :6]).any()  # what went in was still right


def test_ties_of_probability_are_ambiguous_and_not_changes():
    tie = np.log([0.40, 0.44, 0.16])  # 4 points apart
    clear = np.log([0.40, 0.46, 0.14])
    agreement = compare_distributions(np.array([[[1.0, 0.0, 0.0], clear]]), np.array([[tie, clear]]))
    assert (agreement.argmax_agreement, agreement.argmax_changes, agreement.ambiguous) == (0.5, 0.0, 0.5)
    agreement = compare_distributions(np.array([[[1.0, 0.0, 0.0], clear]]), np.array([[clear, clear]]))
    assert (agreement.argmax_changes, agreement.ambiguous) == (0.5, 0.0)


def test_kl_divergence_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    expected, output = rng.standard_normal((2, 3, 5)), rng.standard_normal((2, 3, 5))
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (expected, output))
    assert compare_distributions(output, expected).kl_divergence == pytest.approx((p * np.log(p / q)).sum(-1).mean())
    assert compare_distributions(expected + 7.0, expected).kl_divergence == pytest.approx(0, abs=1e-12)


def _accuracy(right, counted=1000):
    return TaskAccuracy("strings", counted, right, counted, right)


@pytest.mark.parametrize(
    ("after", "budget", "least", "passed"),
    [
        (998, None, None, True),
        (997, None, None, False),
        (1001 - 1, None, None, True),
        (996, Budget(accuracy_drop=0.005), None, True),
        (994, Budget(accuracy_drop=0.005), None, False),
        (1000, None, 0.999, True),
        (998, None, 0.999, False),
    ],
)
def test_accuracy_may_differ_by_ties_or_by_its_budget(after, budget, least, passed):
    result = judge_task("onnxruntime", _accuracy(after), _accuracy(1000), budget=budget, least=least)
    assert result.passed == passed
    assert ("< 99.9% asked for" in result.summary) == (not passed and least is not None)


def test_determinism_claims_stand_in_the_docs():
    text = (ROOT / "docs" / "parity.md").read_text()
    for name, meaning in EQUALITIES.items():
        assert f"`{name}`" in text
        assert meaning in text
    for row in all_targets():
        claims = ", ".join(row.equalities)
        assert not claims or f"| {row.runtime} | {claims} |" in text


@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
def test_every_claimed_equality_holds_in_onnxruntime(bundles, runs, readout):
    checkpoint = load_checkpoint(runs[readout])
    tokens = sample_tokens(checkpoint.card, np.random.default_rng(1), 2, 40)
    reference = CheckpointOracle(checkpoint.model, checkpoint.card).reference(tokens, (1, 20))
    bundle = Bundle.open(bundles[readout])

    def again(threads):
        return OnnxRuntimeSession(bundle, threads=threads or 1)

    with again(None) as session:
        result = check_determinism("onnxruntime", session, reference, again)
    assert result.passed
    assert list(result.figures.claimed) == list(EQUALITIES)
    assert result.error == 0


def test_other_providers_are_measured_and_nothing_is_claimed(case, session):
    model, card, checked = case

    def again(threads):
        return RecurrentSession(RecurrentCell.from_model(model), card, threads=threads)

    result = check_determinism("recurrent", session, checked.reference, again, provider="cuda")
    assert result.passed
    assert result.figures.claimed == ()
    assert set(result.figures.differences) == set(EQUALITIES)
