"""The oracle: reference values in float64, and how far rounding may lead from them. Needs torch."""

from __future__ import annotations

import copy
import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from causalrn.bundle.tolerances import BOUND_FACTOR, FLOAT64_SHARE, LEAST_BOUND, LEAST_LOGIT, TOLERANCES
from causalrn.errors import CheckpointError
from causalrn.model.cell import RecurrentCell
from causalrn.model.folding import FoldedWeights, fold
from causalrn.model.sequence_model import SequenceModel
from causalrn.model.state import derive_state
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.comparison import relative_error
from causalrn.runtimes.parity.drift import LongReference
from causalrn.runtimes.parity.reference import (
    Bounds,
    Reference,
    Run,
    States,
    compared_tensors,
    growing_bound,
    run_in_chunks,
)
from causalrn.runtimes.parity.reference_cache import KeptArrays, KeptLongReference, kept_reference
from causalrn.runtimes.rounding.noise import RoundingNoise
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.runtimes.torch_sessions import RecurrentSession, forward_in_batches, forward_with_streams
from causalrn.training.card import ModelCard

_NOISE_SEEDS = (1, 2)


class Oracle(ABC):
    """A model in float64: the parallel form for logits and streams, the recurrent form for states.

    Args:
        card: of the model.
        recurrent: the recurrent form in float64.
        rounded: the same with weights rounded to float32, for errors to be drawn in.
        rounded_cell: the module that it calls at every step.
    """

    def __init__(self, card: ModelCard, recurrent: CellSession, rounded: CellSession, rounded_cell: nn.Module) -> None:
        self.card = card
        self.recurrent, self.rounded, self.rounded_cell = recurrent, rounded, rounded_cell

    @abstractmethod
    def forward(self, tokens: IntArray) -> FloatArray:
        """The parallel form in float64: int64 [B, T] -> [B, T, V]."""

    @abstractmethod
    def forward_with_streams(self, tokens: IntArray) -> tuple[FloatArray, list[FloatArray]]:
        """The same, and what each block reads, and last the head: [B, T, E] each."""

    def reference(self, tokens: IntArray, positions: Iterable[int]) -> Reference:
        """Reference values and bounds for token sequences.

        Args:
            tokens: int64 [B, T].
            positions: where states are wanted, below T.

        Raises:
            CheckpointError: the float64 recurrent form does not reproduce the oracle: its states are no reference.
        """
        positions = sorted(positions)
        logits, streams = self.forward_with_streams(tokens)
        stepped = self._run(self.recurrent, tokens, positions)
        bounds = self._bounds(tokens, positions, logits, streams, stepped.states)
        largest = float(np.abs(logits).max())
        if not largest >= LEAST_LOGIT:
            raise CheckpointError(
                f"the model's logits are all zero, or nearly (at most {largest:.0e}): weights that were lost or never "
                "trained, with which nothing can be compared; convert or train them again"
            )
        error = float(np.abs(stepped.logits - logits).max())
        self._check_recurrent(error, recurrent_bound(largest, bounds))
        return Reference(
            tokens,
            logits,
            streams,
            stepped.states,
            self.recurrent.spec,
            bounds,
            error / largest if largest else error,
            self._parallel_bounds(tokens, logits, streams),
        )

    def _check_recurrent(self, error: float, bound: float) -> None:
        """Refuse a reference whose states belong to other logits."""
        if not error <= bound:
            raise CheckpointError(
                f"the float64 recurrent form is {error:.1e} from the oracle (allowed {bound:.1e}): these weights are "
                "so ill-conditioned that no recurrent state can be vouched for"
            )

    def states(self, tokens: IntArray, positions: Iterable[int]) -> States:
        """Reference states at further positions: by position and tensor name, float64."""
        return self._run(self.recurrent, tokens, sorted(positions)).states

    def run_rounded(self, chunk: IntArray) -> FloatArray:
        """The recurrent form with rounded weights, further along tokens [B, T]: logits [B, T, V].

        In steps where sums are carried: rounding repeats itself at every step, and so do errors that are drawn. With
        pools a prefill makes the same errors.
        """
        if self.rounded.spec.keeps_rows:
            return self.rounded.prefill(chunk)
        return np.stack([self.rounded.step(token) for token in chunk.T], axis=1)

    def _run(self, session: CellSession, tokens: IntArray, positions: Sequence[int], *, probe: bool = False) -> Run:
        """A recurrent form, in one prefill where there are pools: their rows are kept once, and rows do not mix."""
        steps = tokens.shape[1]
        if not session.spec.keeps_rows:
            return run_in_chunks(session, tokens, [1] * steps, positions, probe=probe)
        last = max(positions, default=steps)
        run = run_in_chunks(session, tokens, filter(None, (last, steps - last)), [last], probe=probe)
        pools = run.states.get(last, {})
        states = {at: {name: pool[:at] for name, pool in pools.items()} for at in positions}
        return Run(run.logits, states, run.streams)

    def _bounds(
        self,
        tokens: IntArray,
        positions: Sequence[int],
        logits: FloatArray,
        streams: Sequence[FloatArray],
        states: States,
    ) -> Bounds:
        """The largest error of a few noise draws, times a factor (docs/parity.md)."""
        runs = []
        for seed in _NOISE_SEEDS:
            with RoundingNoise(seed, self.rounded_cell):
                runs.append(self._run(self.rounded, tokens, positions, probe=True))
        names = [tensor.name for tensor in compared_tensors(self.recurrent)]
        drawn = {
            name: np.max(
                [relative_error(run.states[p][name], states[p][name]) for run in runs for p in positions], initial=0.0
            )
            for name in names
        }
        return Bounds(
            _envelope([run.logits for run in runs], logits),
            _envelopes([run.streams for run in runs], streams, tokens.shape[1]),
            {name: float(np.maximum(BOUND_FACTOR * error, LEAST_BOUND)) for name, error in drawn.items()},
        )

    def _parallel_bounds(self, tokens: IntArray, logits: FloatArray, streams: Sequence[FloatArray]) -> Bounds:
        """The same for the parallel form, as it was trained: not folded."""
        draws = []
        for seed in _NOISE_SEEDS:
            with RoundingNoise(seed):
                draws.append(self.forward_with_streams(tokens))
        return Bounds(
            _envelope([drawn for drawn, _ in draws], logits),
            _envelopes([shown for _, shown in draws], streams, tokens.shape[1]),
            {},
        )


class CheckpointOracle(Oracle):
    """The oracle of a trained CausalRN, or of one of its baselines.

    Args:
        model: as trained, float32.
        card: its card.
        folded: its folded weights, where they are known already.
        sha256: of its weights: references are kept under it (see reference_cache.py); "" computes them anew.
    """

    def __init__(
        self, model: SequenceModel, card: ModelCard, folded: FoldedWeights | None = None, *, sha256: str = ""
    ) -> None:
        self.parallel, self._sha256 = model.oracle(), sha256
        cell = RecurrentCell(folded or fold(model), derive_state(card.block_config), torch.float64)
        rounded = _round_weights(copy.deepcopy(cell)).fuse_reading()
        super().__init__(card, RecurrentSession(cell.fuse_reading(), card), RecurrentSession(rounded, card), rounded)

    def reference(self, tokens: IntArray, positions: Iterable[int]) -> Reference:
        """See :meth:`Oracle.reference`."""
        positions = sorted(positions)
        make = partial(super().reference, tokens, positions)
        if not self._sha256:
            return make()
        return kept_reference(make, self._sha256, self.card, self.recurrent.spec, tokens, positions)

    def long_reference(self, reference: Reference, tokens: IntArray, noise_seconds: float) -> LongReference:
        """As :class:`OracleLongReference`; a whole run is kept."""
        long = OracleLongReference(self, reference, tokens, noise_seconds)
        if not self._sha256:
            return long
        vouched = hashlib.sha256(reference.tokens.tobytes()).hexdigest()
        what = f"long run, {noise_seconds:.0f} s of noise, bounds of {vouched}"
        return KeptLongReference(long, KeptArrays(what, self._sha256, self.card, tokens))

    def forward(self, tokens: IntArray) -> FloatArray:
        """See :meth:`Oracle.forward`."""
        return forward_in_batches(self.parallel, tokens)

    def forward_with_streams(self, tokens: IntArray) -> tuple[FloatArray, list[FloatArray]]:
        """See :meth:`Oracle.forward_with_streams`."""
        return forward_with_streams(self.parallel, tokens)


class OracleLongReference(LongReference):
    """Reference logits of a long sequence from the float64 recurrent form, by chunks: bounded memory, any length.

    Noise is drawn along with it as long as that is affordable; beyond, the bound grows as the root of the steps.

    Args:
        oracle: whose recurrent form runs.
        reference: over shorter sequences: it vouches for the recurrent form, and no bound here is below its own.
        tokens: int64 [1, S].
        noise_seconds: how long errors may be drawn.
    """

    def __init__(self, oracle: Oracle, reference: Reference, tokens: IntArray, noise_seconds: float) -> None:
        self.tokens = tokens
        self._known, self._known_states = reference.bounds.logits, reference.bounds.states
        self._oracle, self._noise_left, self._noise_end = oracle, noise_seconds, 0
        self._worst, self._drawn = 0.0, len(self._known)

    def advance(self, start: int, end: int) -> tuple[FloatArray, FloatArray]:
        """See :meth:`LongReference.advance`."""
        if start == 0:
            self._oracle.recurrent.reset(1)
            self._oracle.rounded.reset(1)
        chunk = self.tokens[:, start:end]
        expected = self._oracle.recurrent.prefill(chunk)
        if self._noise_left > 0:
            began = time.monotonic()
            with RoundingNoise(0, self._oracle.rounded_cell):
                drawn = self._oracle.run_rounded(chunk)
            self._worst = max(self._worst, float(np.abs(drawn - expected).max()))
            self._noise_end, self._drawn = end, max(self._drawn, end)
            self._noise_left -= time.monotonic() - began
        return expected[0], np.array([self._bound(step) for step in range(start, end)])

    def _bound(self, step: int) -> float:
        known = float(self._known[min(step, len(self._known) - 1)])
        return growing_bound(max(known, BOUND_FACTOR * self._worst), self._drawn, step + 1)

    def state(self) -> tuple[Mapping[str, Array], Mapping[str, float]]:
        """See :meth:`LongReference.state`."""
        expected, end = self._oracle.recurrent.snapshot().tensors, self._oracle.recurrent.position
        drawn = self._oracle.rounded.snapshot().tensors if self._noise_end == end else {}
        errors = {name: relative_error(drawn[name], expected[name]) if drawn else 0.0 for name in self._known_states}
        return expected, {
            name: max(growing_bound(known, self._drawn, end), BOUND_FACTOR * errors[name])
            for name, known in self._known_states.items()
        }


def _round_weights(cell: RecurrentCell) -> RecurrentCell:
    """The folded weights as the float32 cell has them, in float64."""
    for buffer in cell.buffers():
        if buffer.dtype == torch.float64:
            buffer.copy_(buffer.float())
    return cell


def recurrent_bound(largest: float, bounds: Bounds) -> float:
    """How far two forms in float64 may be from each other; `largest` is the largest |logit|."""
    return max(TOLERANCES["float64", "recurrent"].logit_bound(largest), FLOAT64_SHARE * float(bounds.logits.max()))


def _envelopes(draws: Sequence[Sequence[FloatArray]], expected: Sequence[FloatArray], steps: int) -> FloatArray:
    """[N + 1, T]: of each stream; [0, T] where there is none."""
    streams = [_envelope([draw[k] for draw in draws], stream) for k, stream in enumerate(expected)]
    return np.stack(streams) if streams else np.zeros((0, steps))


def _envelope(draws: Sequence[FloatArray], expected: FloatArray) -> FloatArray:
    """[T]: the largest error of any draw at each position or before, times the factor; never below a few roundings."""
    worst = np.max([np.abs(draw - expected).max((0, 2)) for draw in draws], axis=0)
    least = LEAST_BOUND * np.abs(expected).max()
    bounds: FloatArray = np.maximum(BOUND_FACTOR * np.maximum.accumulate(worst), least)
    return bounds
