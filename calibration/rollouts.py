"""Rollouts: a session run through prompts and on, its state really carried; and what calibration sees on the way.

Ranges of a step that is run from a zero state are not those of a step in the middle of a sequence (issue of many
recurrent exports: one right token, then garbage), so nothing here ever makes a state up.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization import CalibrationDataReader

from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.runtimes.ort_session import OnnxRuntimeSession
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import Array, IntArray, Snapshot
from causalrn.runtimes.token_choice import choose_tokens
from causalrn.training.tasks import IGNORE, Task

LEAST_SEQUENCES = 8
"""Fewer sequences than this are warned about: ranges would rest on too few trajectories."""
BATCH = 64
"""Sequences of one rollout, run in lockstep."""
_MOST_STEPS, _MOST_SAMPLED = 256, 64


@dataclass(frozen=True)
class Prompts:
    """What rollouts are given, and where they go on by themselves.

    Attributes:
        tokens: int64 [N, T].
        given: bool [N, T]: where `tokens` go in; elsewhere the session's own last choice does.
        temperature: of its choices; 0 is greedy.
        source: where the tokens come from, for people.
    """

    tokens: IntArray
    given: npt.NDArray[np.bool_]
    temperature: float
    source: str

    @property
    def sequences(self) -> int:
        """How many sequences there are."""
        return len(self.tokens)

    @property
    def batches(self) -> int:
        """How many rollouts there will be."""
        return -(-len(self.tokens) // BATCH)

    @classmethod
    def of_task(cls, task: Task, count: int, seed: int, capacity: int | None) -> Prompts:
        """Whole sequences of a task: prompts, then greedy answers fed back.

        A text has no answers: the first half of each window is given, the rest drawn from the model's distribution.
        Shorter strings of mixed lengths are padded, as in training, and the padding is seen, too.
        """
        examples = task.draw("calibrate", count, seed)
        steps = min(examples.inputs.shape[1], capacity or examples.inputs.shape[1])
        tokens = examples.inputs[:, :steps]
        if task.feeds_back:
            counts = examples.targets[:, :steps] != IGNORE
            given = np.concatenate([np.ones((count, 1), bool), ~counts[:, :-1]], axis=1)
        else:
            given = np.broadcast_to(np.arange(steps) < max(1, steps // 2), tokens.shape)
        return cls(
            tokens, given, 0.0 if task.feeds_back else 1.0, f"{_sequences(count)} of {task.describe()}, seed {seed}"
        )

    @classmethod
    def of_tokens(cls, ids: IntArray, capacity: int | None, source: str) -> Prompts:
        """A user's sequences [N, P] as prompts, and as many tokens again drawn from the model's distribution."""
        count, length = ids.shape
        steps = min(2 * length, capacity or 2 * length, max(length, _MOST_STEPS))
        tokens = np.zeros((count, steps), np.int64)
        tokens[:, :length] = ids
        given = np.broadcast_to(np.arange(steps) < length, tokens.shape)
        return cls(tokens, given, 1.0, f"{_sequences(count)} of {length} tokens from {source}")


def _sequences(count: int) -> str:
    return "1 sequence" if count == 1 else f"{count} sequences"


@dataclass(frozen=True)
class RolloutStep:
    """One step of a rollout, just taken.

    Attributes:
        rollout: number of the rollout; each begins with a reset.
        position: of the token.
        tokens: int64 [B], what went in.
        sampled: whether calibration looks at the values of this step; ranges are taken of every step.
        before: the state before the step, where it was asked for and the step is sampled.
    """

    rollout: int
    position: int
    tokens: IntArray
    sampled: bool
    before: Snapshot | None = None


def roll_out(session: Session, prompts: Prompts, seed: int, *, keep_states: bool = False) -> Iterator[RolloutStep]:
    """Run a session through all prompts, a batch at a time, token by token.

    Args:
        seed: of draws, and of which steps are sampled: all of them up to 64, else 64, a random one in each stretch.
        keep_states: also give the state before every sampled step.
    """
    for rollout, start in enumerate(range(0, len(prompts.tokens), BATCH)):
        tokens, given = (array[start : start + BATCH] for array in (prompts.tokens, prompts.given))
        sampled = _sampled_positions(np.random.default_rng([seed, rollout]), tokens.shape[1])
        options = GenerationOptions(temperature=prompts.temperature, seed=seed + rollout)
        session.reset(len(tokens))
        own = tokens[:, 0]
        for position in range(tokens.shape[1]):
            ids = np.where(given[:, position], tokens[:, position], own)
            before = session.snapshot() if keep_states and position in sampled else None
            own = choose_tokens(session.step(ids), options, session.position)
            yield RolloutStep(rollout, position, ids, position in sampled, before)
    session.reset(1)


def _sampled_positions(rng: np.random.Generator, steps: int) -> frozenset[int]:
    """Positions to look at: the first, the last, and one from each of equal stretches between."""
    if steps <= _MOST_SAMPLED:
        return frozenset(range(steps))
    edges = np.linspace(1, steps - 1, _MOST_SAMPLED - 1).astype(int)
    drawn = (int(rng.integers(low, max(high, low + 1))) for low, high in itertools.pairwise(edges))
    return frozenset({0, steps - 1, *drawn})


class RolloutDataReader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Sampled steps of rollouts as inputs of the step graph, for onnxruntime's own calibrators and quantizers.

    Example:
        quantize_static(bundle / "step.onnx", out, RolloutDataReader(session, prompts), ...)
    """

    def __init__(self, session: OnnxRuntimeSession, prompts: Prompts, seed: int = 0) -> None:
        self._session, self._prompts, self._seed = session, prompts, seed
        self.rewind()

    def rewind(self) -> None:
        """Begin again, with the same steps."""
        steps = roll_out(self._session, self._prompts, self._seed, keep_states=True)
        self._feeds = (self._feed(step) for step in steps if step.before is not None)

    def get_next(self) -> dict[str, Array] | None:
        """The next step's inputs; None at the end."""
        return next(self._feeds, None)

    def _feed(self, step: RolloutStep) -> dict[str, Array]:
        assert step.before is not None
        index = self._session.index_dtype
        feed = {"tokens": step.tokens[:, None].astype(index), "position": np.array(step.position, index)}
        spec, before = self._session.spec, step.before
        for tensor in spec.tensors:
            value = before.tensors[tensor.name]
            if tensor.is_pool:  # a snapshot has the rows that exist
                shape = tensor.sized(batch=before.batch, rows=step.position + self._session.pad_rows(1))
                whole = np.zeros(shape, value.dtype)
                whole[: len(value)] = value
                value = whole
            feed[tensor.input] = value
        return feed
