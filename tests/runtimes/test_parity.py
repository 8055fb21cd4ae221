"""Parity: the good pass, and every kind of damage is caught at the right step."""

import dataclasses

import numpy as np
import pytest
import torch

from causalrn.card import ModelCard
from causalrn.cell import RecurrentCell
from causalrn.checkpoint import load_checkpoint
from causalrn.errors import CheckpointError
from causalrn.export.cli.convert_run import convert
from causalrn.export.cli.export_run import export_bundle
from causalrn.export.cli.options import ModelOptions
from causalrn.runtimes import open_session
from causalrn.runtimes.parity import (
    against_recorded,
    compare_parallel,
    compare_prefill,
    compare_resumed,
    compare_steps,
)
from causalrn.runtimes.reference import GOLDEN_NAME, load_golden, make_reference, recorded_snapshot, sample_tokens
from causalrn.runtimes.task_accuracy import free_running_accuracy, teacher_forced_accuracy
from causalrn.runtimes.torch_sessions import ParallelSession, RecurrentSession
from tests.builders import GOLDEN, random_model


@pytest.fixture(scope="module", params=["exact", "linear", "plain"])
def case(request):
    """A model, its card, and a reference of 3 sequences of 20 tokens."""
    model = random_model(readout=request.param)
    card = ModelCard(model.config)
    tokens = sample_tokens(card, np.random.default_rng(0), 3, 20)
    return model, card, make_reference(model, card, tokens)


@pytest.fixture
def session(case):
    model, card, _ = case
    return RecurrentSession(RecurrentCell.from_model(model), card)


def test_good_forms_pass(case, session):
    model, card, reference = case
    rows = [
        compare_parallel(ParallelSession(model, card), reference),
        compare_steps(session, reference),
        compare_prefill(session, reference),
    ]
    assert all(row.passed for row in rows)
    assert all(0 < row.max_abs <= row.bound for row in rows)
    assert [row.state_relative is None for row in rows] == [True, False, False]


def test_reference_vouches_for_its_states(case):
    assert 0 < case[2].recurrent_error < 1e-11


def test_references_whose_recurrent_form_disagrees_are_refused(case, monkeypatch):
    model, card, reference = case
    forward = RecurrentCell.forward

    def biased(self, *args):
        logits, *state = forward(self, *args)
        return logits + 1e-6, *state

    monkeypatch.setattr(RecurrentCell, "forward", biased)
    with pytest.raises(CheckpointError, match="no recurrent state can be vouched for"):
        make_reference(model, card, reference.tokens)


def _wrong_weight(session):
    session._cell.blocks[1].w12[40, 0] += 1e-3


def _lost_bias(session):
    session._cell.blocks[0].b12.zero_()


def _swapped_states(session):
    per_block = len(session.spec.tensors) // 2
    run = session._run

    def swapped(tokens, position, state):
        return run(tokens, position, [*state[per_block:], *state[:per_block]])

    session._run = swapped


def _position_off_by_one(session):
    run = session._run
    session._run = lambda tokens, position, state: run(tokens, max(position - 1, 0), state)


def _stale_state(session):
    update = session._buffers.update
    session._buffers.update = lambda position, outputs: update(position, outputs) if position != 10 else None


@pytest.mark.parametrize(
    ("damage", "first"),
    [(_wrong_weight, 0), (_lost_bias, 0), (_swapped_states, 1), (_position_off_by_one, 1), (_stale_state, 11)],
)
def test_damage_is_caught_at_its_first_step(session, case, damage, first):
    damage(session)
    row = compare_steps(session, case[2])
    assert not row.passed
    assert row.first_bad_step is not None
    assert first <= row.first_bad_step <= first + 1
    assert not compare_prefill(session, case[2]).passed


def test_wrong_state_alone_is_caught(session, case):
    """Right logits, wrong state: the next user of the snapshot would pay for it."""
    copies = session._buffers.copies
    session._buffers.copies = lambda position: {name: 1.001 * tensor for name, tensor in copies(position).items()}
    row = compare_steps(session, case[2])
    assert row.first_bad_step is None
    assert not row.passed


def test_nan_never_passes(session, case):
    row = compare_steps(session, case[2])
    broken = dataclasses.replace(case[2], logits=np.full_like(case[2].logits, np.nan))
    assert row.passed
    assert not compare_steps(session, broken).passed
    assert not dataclasses.replace(row, state_relative=float("nan")).passed
    assert not dataclasses.replace(row, recorded_relative=float("nan")).passed


@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
def test_bundle_checks_itself_from_its_golden_vectors(bundles, readout):
    golden = load_golden(bundles[readout] / GOLDEN_NAME)
    with open_session(bundles[readout]) as session:
        row = against_recorded(compare_steps(session, golden.reference), session, golden)
        assert row.passed
        assert row.recorded_relative == 0.0  # the same machine: bit for bit
        assert compare_prefill(session, golden.reference).passed
        assert compare_resumed(session, golden).passed


def test_resumed_row_notices_a_wrong_recorded_state(exact_bundle):
    golden = load_golden(exact_bundle / GOLDEN_NAME)
    with open_session(exact_bundle) as session:
        snapshot = recorded_snapshot(golden, session.owner)
        snapshot.tensors["01.pool"][3] = 0
        row = compare_resumed(session, golden)
    assert not row.passed
    assert row.first_bad_step == snapshot.position


def test_golden_vectors_hold_the_oracles_logits(runs, exact_bundle):
    golden = load_golden(exact_bundle / GOLDEN_NAME)
    oracle = load_checkpoint(runs["exact"]).model.oracle()
    assert np.allclose(oracle(torch.from_numpy(golden.reference.tokens)).numpy(), golden.reference.logits, rtol=1e-12)


def test_copy_accuracy_counts_strings_and_tokens(runs):
    """A session that always knows the answer, except for one letter of one string."""
    checkpoint = load_checkpoint(runs["exact"])
    task = checkpoint.card.task
    examples = task.sample(np.random.default_rng(0), 300)
    strings = examples.inputs[:, 1 : task.length + 1]
    answers = np.concatenate([examples.inputs, np.full((300, 1), 2)], axis=1)
    answers[7, -3] = answers[7, -3] % 26 + 3

    class Knowing(ParallelSession):
        def _advance(self, tokens, *, single):
            rows = [int(np.flatnonzero((strings == s).all(1))[0]) for s in self._strings(tokens)]
            logits = np.zeros((*tokens.shape, 29), np.float32)
            for i, row in enumerate(rows):
                wanted = answers[row, self.position + 1 : self.position + 1 + tokens.shape[1]]
                logits[i, np.arange(len(wanted)), wanted] = 1
            return logits

        def _strings(self, tokens):
            if tokens.shape[1] > task.length:
                self._known = tokens[:, 1 : task.length + 1]
            return self._known

    session = Knowing(checkpoint.model, checkpoint.card)
    for measure in (free_running_accuracy, teacher_forced_accuracy):
        accuracy = measure(session, task, examples)
        assert (accuracy.right, accuracy.counted) == (299, 300)
        assert (accuracy.tokens_right, accuracy.tokens) == (300 * 20 - 1, 300 * 20)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The authors' linear model: it copies most strings, and not all."""
    folder = tmp_path_factory.mktemp("official")
    asked = ModelOptions(causalrn={"readout": "linear"})
    convert(GOLDEN / "official_linear_copy8.pth", folder / "run", asked, samples=20, seed=0, force=False)
    export_bundle(folder / "run", folder / "bundle", pool="growing", capacity=None, opset=23)
    return folder


@pytest.mark.parametrize("runtime", ["parallel", "recurrent", "onnxruntime"])
def test_free_running_counts_what_teacher_forcing_counts(official, runtime):
    with open_session(official / ("bundle" if runtime == "onnxruntime" else "run"), runtime) as session:
        task = session.card.task
        examples = task.sample(np.random.default_rng(3), 400)
        forced, free, stepped = (
            teacher_forced_accuracy(session, task, examples),
            free_running_accuracy(session, task, examples),
            free_running_accuracy(session, task, examples, by_steps=True),
        )
        assert 200 < forced.right < 400
        assert forced.right == free.right == stepped.right
        assert free.tokens_right == stepped.tokens_right
