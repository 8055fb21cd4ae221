"""Levels over any session that carries a state: each row of a batch alone, rows in another order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.comparison import Deviation, compare_run, merged
from causalrn.runtimes.parity.figures import Figures
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.reference import Bounds, Reference, Run, compared_tensors, rows_of, run_in_chunks
from causalrn.runtimes.parity.reference import batch_axes as axes_of
from causalrn.runtimes.parity.results import Level, LevelResult
from causalrn.runtimes.snapshot import Snapshot

_TWO_FORMS = 2.0
"""Two runs may each be off by a bound, in opposite directions."""


def check_rows(runtime: str, session: CellSession, case: Case) -> LevelResult:
    """Each row of a batch against the row alone, logits and state."""
    reference, found = case.reference, []
    lengths, axes = [1] * reference.steps, axes_of(session.spec)
    together = run_in_chunks(session, reference.tokens, lengths, reference.states)
    for row in range(len(reference.tokens)):
        part = slice(row, row + 1)
        alone = run_in_chunks(session, reference.tokens[part], lengths, reference.states)
        expected = _as_reference(reference.rows(part), _rows(together, axes, part))
        found.append(compare_run(alone, expected, compared_tensors(session)))
    session.reset(1)
    words = f"{len(reference.tokens)} rows, each alone and in the batch"
    return _result("rows", runtime, merged(found, reference.places), words)


def check_reorder(runtime: str, session: CellSession, case: Case) -> LevelResult:
    """A state whose rows are put in another order half-way, one of them twice: what a beam search does."""
    reference, middle = case.reference, max(1, case.reference.steps // 2)
    count, rest = len(reference.tokens), case.reference.steps - middle
    order = np.roll(np.arange(count), 1)
    order[-1] = order[0]
    run_in_chunks(session, reference.tokens[:, :middle], [1] * middle)
    snapshot, axes = session.snapshot(), axes_of(session.spec)
    tensors = {name: rows_of(value, axes[name], order).copy() for name, value in snapshot.tensors.items()}
    assert snapshot.logits is not None
    start = Snapshot(middle, count, tensors, snapshot.logits[order], snapshot.owner)
    window = reference.rows(order).window(middle, rest)
    run = run_in_chunks(session, window.tokens, [1] * rest, reference.states, start=start)
    session.reset(1)
    found = compare_run(run, window, compared_tensors(session))
    return _result("reorder", runtime, found, f"rows {', '.join(map(str, order))} from position {middle} on")


def _rows(run: Run, axes: Mapping[str, int], part: slice) -> Run:
    states = {
        position: {name: rows_of(value, axes[name], part) for name, value in tensors.items()}
        for position, tensors in run.states.items()
    }
    return Run(run.logits[part], states, [])


def _as_reference(reference: Reference, run: Run) -> Reference:
    """A run of the same form in place of the reference's values."""
    bounds = reference.bounds
    wider = Bounds(
        _TWO_FORMS * bounds.logits,
        bounds.streams,
        {name: _TWO_FORMS * bound for name, bound in bounds.states.items()},
    )
    return replace(reference, logits=run.logits, states=run.states, bounds=wider)


def _result(level: Level, runtime: str, found: list[Deviation], words: str) -> LevelResult:
    return LevelResult.from_deviations(level, runtime, found, Figures(), summary=words)
