"""Accuracy on a task: what counts as right, whoever answers."""

import numpy as np
import pytest

from causalrn.runtimes import open_session
from causalrn.runtimes.task_accuracy import free_running_accuracy, teacher_forced_accuracy
from causalrn.runtimes.torch_sessions import ParallelSession
from causalrn.training.checkpoint import load_checkpoint
from causalrn.workflows.convert import convert
from causalrn.workflows.export_targets import export_bundle
from tests.builders import GOLDEN


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
        assert accuracy.by_position == (*[(300, 300)] * 17, (300, 299), (300, 300), (300, 300))
        assert accuracy.by_length == {20: (300, 299)}


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The authors' linear model: it copies most strings, and not all."""
    folder = tmp_path_factory.mktemp("official")
    convert(GOLDEN / "official_linear_copy8.pth", output=folder / "run", readout="linear", samples=20)
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


def test_mixed_lengths_are_counted_apart(runs):
    from causalrn.training.tasks import CopyMixedTask

    checkpoint, task = load_checkpoint(runs["exact"]), CopyMixedTask(3)
    examples = task.sample(np.random.default_rng(0), 60)
    accuracy = teacher_forced_accuracy(ParallelSession(checkpoint.model, checkpoint.card), task, examples)
    assert list(accuracy.by_length) == [2, 3, 4]  # 1 to 3 letters and EOS
    assert sum(counted for counted, _ in accuracy.by_length.values()) == 60
    assert accuracy.by_position[0][0] == 60


def test_accuracies_of_parts_add_up(runs):
    checkpoint = load_checkpoint(runs["exact"])
    task = checkpoint.card.task
    examples = task.sample(np.random.default_rng(0), 90)
    session = ParallelSession(checkpoint.model, checkpoint.card)
    whole = teacher_forced_accuracy(session, task, examples)
    parts = [teacher_forced_accuracy(session, task, examples.rows(part)) for part in (slice(0, 31), slice(31, 90))]
    together = parts[0] + parts[1]
    assert together.loss == pytest.approx(whole.loss)
    assert {**together.__dict__, "loss": 0} == {**whole.__dict__, "loss": 0}
