"""Runs of a session that are compared with their reference: in steps, whole, in chunks, resumed.

Each level has its own way of running a session through the tokens; what comes out is a :class:`Traces`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.comparison import (
    Agreement,
    Deviation,
    compare_run,
    compare_runs,
    merged,
)
from causalrn.runtimes.parity.golden import Golden
from causalrn.runtimes.parity.reference import Reference, Run, compared_tensors, run_in_chunks
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import FloatArray

_CHUNKINGS = 3
BATCHES = (1, 2, 3, 5)
"""Numbers of sequences that are taken at once in chunks."""


@dataclass(frozen=True)
class Trace:
    """One run over (a stretch of) the reference's sequences.

    Attributes:
        run: the session's outputs.
        reference: the expected ones; its `first` tells where the run began.
        lengths: of the chunks in which it took the tokens.
    """

    run: Run
    reference: Reference
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Traces:
    """Several runs that are judged together."""

    traces: tuple[Trace, ...]

    def deviations(self, session: Session) -> list[Deviation]:
        """Per tensor the worst of all runs."""
        tensors, places = compared_tensors(session), self.traces[0].reference.places
        return merged([compare_run(trace.run, trace.reference, tensors) for trace in self.traces], places)

    def agreement(self) -> Agreement:
        """The distributions of all runs, and their scale and offset."""
        return compare_runs([(trace.run.logits, trace.reference.logits) for trace in self.traces])

    def last_logits(self) -> FloatArray:
        """Output of the last run: [B, T, V]."""
        return self.traces[-1].run.logits


def trace_in_steps(session: Session, reference: Reference, *, probe: bool = False) -> Traces:
    """Every single sequence, and all as a batch (other graphs may serve it), token by token from a fresh state."""
    return _trace(session, _single_and_together(reference), [(1,) * reference.steps], probe=probe)


def trace_whole(session: Session, reference: Reference, *, probe: bool = False) -> Traces:
    """All sequences as one batch, in one call: how the parallel form computes."""
    return _trace(session, [reference], [(reference.steps,)], probe=probe)


def trace_in_chunks(session: Session, reference: Reference, seed: int) -> Traces:
    """Prefills of all lengths onto fresh and other states, ending at every kind of place, in batches of several sizes.

    Everything at once, as most prompts are taken, in each batch size; in two halves; and in random chunks, single steps
    and prefills onto a state that is not empty among them.
    """
    rng, steps = np.random.default_rng([seed, reference.steps]), reference.steps
    middle = max(1, steps // 2)
    sizes = [_of_size(reference, size) for size in BATCHES]
    chunkings = [(middle, steps - middle), *(_random_chunks(rng, steps) for _ in range(_CHUNKINGS))]
    groups = [_trace(session, [part], [(steps,)]) for part in sizes]
    groups += [_trace(session, [part], [lengths]) for part, lengths in zip(sizes, chunkings, strict=True)]
    groups.append(_trace(session, [reference], chunkings))
    return Traces(tuple(trace for group in groups for trace in group.traces))


def _of_size(reference: Reference, size: int) -> Reference:
    """So many sequences; repeated where there are too few."""
    return reference.rows(np.arange(size) % len(reference.tokens))


def trace_together(session: Session, reference: Reference) -> Traces:
    """All sequences as one batch, step by step."""
    return _trace(session, [reference], [(1,) * reference.steps])


def _trace(
    session: Session, parts: Sequence[Reference], chunkings: Sequence[tuple[int, ...]], *, probe: bool = False
) -> Traces:
    traces = [
        Trace(run_in_chunks(session, part.tokens, lengths, part.states, probe=probe), part, lengths)
        for lengths in chunkings
        for part in parts
    ]
    session.reset(1)
    return Traces(tuple(traces))


def _single_and_together(reference: Reference) -> list[Reference]:
    """Each single sequence, and all as a batch; an only one twice, so that what serves batches is run, too."""
    rows = [reference.rows(slice(row, row + 1)) for row in range(len(reference.tokens))]
    return [*rows, _of_size(reference, max(2, len(rows)))]


def trace_from_reference_states(session: CellSession, reference: Reference, *, to_end: bool = False) -> Traces:
    """One step from each reference state whose next state is known, too: only a local error can show.

    Args:
        to_end: go on to the end of the sequences: what a budget judges is a mean, and needs more than a few positions.
    """
    starts = [position for position in sorted(reference.states) if position + 1 in reference.states]
    traces = []
    for part in _single_and_together(reference)[-2:]:
        for start in starts:
            length = reference.steps - start if to_end else 1
            window, snapshot = part.window(start, length), part.snapshot(start, session)
            lengths = (1,) * length
            run = run_in_chunks(session, window.tokens, lengths, [start + 1], start=snapshot)
            traces.append(Trace(run, window, lengths))
    session.reset(1)
    return Traces(tuple(traces))


def _random_chunks(rng: np.random.Generator, steps: int) -> tuple[int, ...]:
    """Chunk lengths: from a few long ones to many short ones."""
    cuts = {0, steps} | set(rng.integers(1, steps, size=int(rng.integers(1, max(2, steps // 4) + 1))).tolist())
    return tuple(np.diff(sorted(cuts)).tolist())


def trace_resumed(session: CellSession, golden: Golden) -> Traces:
    """All sequences as a batch, resumed from the recorded mid-sequence state."""
    snapshot, reference = golden.recorded_snapshot(session.owner), golden.reference
    start = snapshot.position
    window = reference.window(start, reference.steps - start)
    lengths = (1,) * window.steps
    run = run_in_chunks(session, window.tokens, lengths, reference.states, start=snapshot)
    session.reset(1)
    return Traces((Trace(run, window, lengths),))
