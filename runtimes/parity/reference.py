"""Reference values (float64), and how far rounding may lead from them. Needs numpy; see oracle.py and golden.py."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from causalrn.bundle.state_spec import StateSpec, StateTensor
from causalrn.errors import NonFiniteError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.places import Place, tensor_places
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray, Snapshot
from causalrn.runtimes.state_values import state_values, stored_state
from causalrn.training.card import ModelCard

States = Mapping[int, Mapping[str, Array]]
"""By position (tokens seen), the state by tensor name; pools [t, B, ...], the others [B, ...]."""


@dataclass(frozen=True)
class Bounds:
    """How far rounding may lead from the reference values, estimated from noise draws (docs/parity.md).

    Attributes:
        logits: float64 [T], largest |difference| of a logit allowed at each position: absolute, in units of a logit.
        streams: float64 [N + 1, T], the same for each stream.
        states: by tensor, largest |difference| allowed, relative to the tensor's largest |value|.
    """

    logits: FloatArray
    streams: FloatArray
    states: Mapping[str, float]


@dataclass(frozen=True)
class Reference:
    """Token sequences with the outputs expected of a model (float64), and the error allowed of each.

    Attributes:
        tokens: int64 [B, T].
        logits: the oracle's, float64 [B, T, V].
        streams: the oracle's residual stream, N + 1 arrays [B, T, E]: what each block reads, and last the head.
        states: the float64 recurrent form's, by position (tokens seen, 1 to T) and tensor name.
        spec: the state contract that `states` follow.
        bounds: what rounding may do.
        recurrent_error: largest difference of the float64 recurrent form's logits from the oracle's, relative to the
            largest |logit|: what vouches for the states.
        parallel_bounds: what rounding may do in the parallel form, which is not folded; None where it is not there.
        first: position of the first token, for a stretch out of longer sequences; states keep their positions.
    """

    tokens: IntArray
    logits: FloatArray
    streams: Sequence[FloatArray]
    states: States
    spec: StateSpec
    bounds: Bounds
    recurrent_error: float
    parallel_bounds: Bounds | None = None
    first: int = 0

    @property
    def steps(self) -> int:
        """Tokens per sequence, T."""
        return int(self.tokens.shape[1])

    @property
    def largest_logit(self) -> float:
        """Largest |logit|."""
        return float(np.abs(self.logits).max())

    @property
    def places(self) -> Mapping[str, Place]:
        """What can be compared, in the order of computation."""
        return tensor_places(len(self.streams) - 1, self.spec)

    def rows(self, part: slice | IntArray) -> Reference:
        """Some of the sequences, or some of them more than once, with all bounds as they are."""
        axes = batch_axes(self.spec)
        return replace(
            self,
            tokens=self.tokens[part],
            logits=self.logits[part],
            streams=[stream[part] for stream in self.streams],
            states={
                position: {name: rows_of(value, axes[name], part) for name, value in tensors.items()}
                for position, tensors in self.states.items()
            },
        )

    def window(self, start: int, length: int) -> Reference:
        """A stretch of all sequences."""
        end, bounds = start + length, self.bounds
        return replace(
            self,
            tokens=self.tokens[:, start:end],
            logits=self.logits[:, start:end],
            streams=[stream[:, start:end] for stream in self.streams],
            bounds=Bounds(bounds.logits[start:end], bounds.streams[:, start:end], bounds.states),
            first=self.first + start,
        )

    def of_parallel(self) -> Reference:
        """The same with the bounds of the parallel form."""
        return self if self.parallel_bounds is None else replace(self, bounds=self.parallel_bounds)

    def snapshot(self, position: int, session: CellSession) -> Snapshot:
        """The reference state at a position, rounded to what the session stores, for it to go on from."""
        tensors = stored_state(session.spec, self.states[position], session.dtype)
        return Snapshot(position, len(self.tokens), tensors, None, session.owner)


def batch_axes(spec: StateSpec) -> dict[str, int]:
    """By state tensor, which axis is the batch: 1 for pools [t, B, ...], 0 for sums, -1 where rows share it."""
    return {tensor.name: tensor.batch_axis for tensor in spec.tensors}


def rows_of(value: Array, axis: int, part: slice | IntArray | list[int]) -> Array:
    """Some rows of a state tensor, by its axis of the batch; all of it where that is negative: it has none."""
    return value if axis < 0 else value[(slice(None),) * axis + (part,)]


def joined_rows(parts: Sequence[Array], axis: int) -> Array:
    """A state tensor of some sequences after others; the first one where all rows share it (a negative axis)."""
    joined: Array = parts[0] if axis < 0 else np.concatenate(parts, axis=axis)
    return joined


@dataclass(frozen=True)
class Run:
    """A session's outputs for some token sequences.

    Attributes:
        logits: [B, T, V]; NaN from the position on where the session gave up (NaN or infinity came out).
        states: at the positions that were asked for.
        streams: N + 1 arrays [B, T, E]; none where the session was not probed.
    """

    logits: FloatArray
    states: States
    streams: Sequence[FloatArray] = ()


def run_in_chunks(
    session: Session,
    tokens: IntArray,
    lengths: Iterable[int],
    positions: Iterable[int] = (),
    *,
    start: Snapshot | None = None,
    probe: bool = False,
) -> Run:
    """Run a session through tokens [B, T] in chunks: a step where a chunk is one token, else a prefill.

    Args:
        lengths: of the chunks, T in all.
        positions: where to copy the state, counted from the sequence's beginning; ends of chunks only.
        start: a state to go on from; None starts afresh.
        probe: record the residual stream, too.

    More sequences than the session takes at once run in groups; the session is left where the last one ends.

    Raises:
        RuntimeUnavailableError: `probe`, and the session cannot show the stream.
    """
    most, lengths = session.max_batch or len(tokens), list(lengths)
    if len(tokens) > most:
        parts = [slice(first, first + most) for first in range(0, len(tokens), most)]
        starts = [_part_of(session, start, part) for part in parts]
        runs = [
            run_in_chunks(session, tokens[part], lengths, positions, start=begin, probe=probe)
            for part, begin in zip(parts, starts, strict=True)
        ]
        return _stacked(runs, batch_axes_of(session))
    if start is None:
        session.reset(len(tokens))
    else:
        session.restore(start)
    with session.probing() if probe else contextlib.nullcontext():
        return _take_chunks(session, tokens, lengths, set(positions), probe=probe)


def batch_axes_of(session: Session) -> dict[str, int]:
    """The same for what a session carries; nothing where it carries no state."""
    return batch_axes(session.spec) if isinstance(session, CellSession) else {}


def _part_of(session: Session, snapshot: Snapshot | None, part: slice) -> Snapshot | None:
    """Some sequences of a state."""
    if snapshot is None:
        return None
    axes = batch_axes_of(session)
    tensors = {name: rows_of(value, axes[name], part) for name, value in snapshot.tensors.items()}
    logits = None if snapshot.logits is None else snapshot.logits[part]
    batch = len(range(snapshot.batch)[part])
    return Snapshot(snapshot.position, batch, tensors, logits, snapshot.owner)


def _stacked(runs: Sequence[Run], axes: Mapping[str, int]) -> Run:
    """Runs of some sequences each as one; of states, what all of them reached."""
    states: dict[int, dict[str, Array]] = {}
    for position in set.intersection(*(set(run.states) for run in runs)):
        states[position] = {
            name: joined_rows([run.states[position][name] for run in runs], axes[name])
            for name in runs[0].states[position]
        }
    streams = [np.concatenate(parts) for parts in zip(*(run.streams for run in runs), strict=True)]
    return Run(np.concatenate([run.logits for run in runs]), states, streams)


def _take_chunks(session: Session, tokens: IntArray, lengths: Iterable[int], wanted: set[int], *, probe: bool) -> Run:
    first = session.position
    logits: list[FloatArray] = []
    streams: list[Sequence[FloatArray]] = []
    states: dict[int, Mapping[str, Array]] = {}
    for length in lengths:
        chunk = tokens[:, session.position - first : session.position - first + length]
        try:
            logits.append(session.step(chunk[:, 0])[:, None] if length == 1 else session.prefill(chunk))
        except NonFiniteError:
            if probe:
                streams.append(session.streams)
            return Run(_padded(logits, tokens, session), states, _joined(streams, tokens.shape[1]))
        if probe:
            streams.append(session.streams)
        if session.position in wanted:
            states[session.position] = current_values(session)
    return Run(np.concatenate(logits, axis=1), states, _joined(streams, tokens.shape[1]))


def current_values(session: Session) -> Mapping[str, Array]:
    """The numbers that a session's state stands for, whatever it stores; empty where there is no state."""
    tensors = session.snapshot().tensors
    return state_values(session.spec, tensors) if isinstance(session, CellSession) else tensors


def _padded(parts: Sequence[FloatArray], tokens: IntArray, session: Session) -> FloatArray:
    """The logits so far, and NaN for what did not come."""
    logits = np.full((*tokens.shape, session.card.config.vocabulary), np.nan)
    if parts:
        known = np.concatenate(parts, axis=1)
        logits[:, : known.shape[1]] = known
    return logits


def _joined(parts: Sequence[Sequence[FloatArray]], time: int) -> Sequence[FloatArray]:
    """Streams of all chunks, filled up with NaN to T positions."""
    joined = [np.concatenate(chunks, axis=1) for chunks in zip(*parts, strict=True)]
    return [
        np.pad(stream, ((0, 0), (0, time - stream.shape[1]), (0, 0)), constant_values=np.nan)
        if stream.shape[1] < time
        else stream
        for stream in joined
    ]


def sample_tokens(card: ModelCard, rng: np.random.Generator, count: int, steps: int) -> IntArray:
    """Token sequences to compare on, int64 [count, steps]: sequences of the task in half of the rows, else random."""
    tokens = rng.integers(0, card.config.vocabulary, (count, steps), dtype=np.int64)
    if card.task is not None and card.task.has_source:
        rows = (count + 1) // 2
        sequences = card.task.sample(rng, rows, held_out=True).inputs[:, :steps]
        tokens[:rows, : sequences.shape[1]] = sequences
    return tokens


def state_positions(steps: int) -> tuple[int, ...]:
    """Positions at which states are compared: the first, two in the middle, and before the last step.

    Not after the last one: no logits read what it leaves behind, so nothing would vouch for the reference's state.
    Two neighbours, so that a step from the one reference state can be compared with the other.
    """
    middle = max(1, steps // 2)
    return tuple(sorted({1, middle, min(middle + 1, max(1, steps - 1)), max(1, steps - 1)}))


def compared_tensors(session: Session) -> tuple[StateTensor, ...]:
    """State tensors that can be compared: no rounding errors, no scales of other tensors; none without a state."""
    if not isinstance(session, CellSession):
        return ()
    return tuple(tensor for tensor in session.spec.tensors if not tensor.is_remainder and not tensor.is_scale)


def growing_bound(bound: float, known_steps: int, steps: int) -> float:
    """A bound that was computed for some steps, at a later one: the error of a sum of t terms grows as sqrt(t)."""
    return bound * max(1.0, math.sqrt(steps / known_steps))
