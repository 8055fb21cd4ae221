"""The levels that compare values: logits, state, split, layer. Each drives a session its own way through the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.comparison import (
    Agreement,
    Deviation,
    compare_distributions,
    compare_run,
    merged,
    step_errors,
)
from causalrn.runtimes.parity.golden import Golden
from causalrn.runtimes.parity.reference import LOGITS, Reference, Run, compared_tensors, run_in_chunks
from causalrn.runtimes.parity.results import LevelResult, finite
from causalrn.runtimes.session import FloatArray, Session
from causalrn.tolerances import REGRESSION_RELATIVE, Budget

_CHUNKINGS = 3
_HEAT_COLUMNS = 48


@dataclass(frozen=True)
class Case:
    """What the levels compare with, and how they judge.

    Attributes:
        reference: tokens and exact values.
        budget: what a quantized form may lose; None judges by rounding.
        seed: of random chunkings.
    """

    reference: Reference
    budget: Budget | None = None
    seed: int = 0


@dataclass(frozen=True)
class Driven:
    """Runs over the reference's sequences, each with its part of the reference and the lengths of its chunks."""

    runs: tuple[tuple[Run, Reference, tuple[int, ...]], ...]

    def deviations(self, session: Session) -> list[Deviation]:
        """Per tensor the worst of all runs."""
        names = compared_tensors(session) if isinstance(session, CellSession) else ()
        return merged([compare_run(run, reference, names) for run, reference, _ in self.runs])

    @property
    def logits(self) -> FloatArray:
        """What all runs said, one after the other: [rows, T, V]."""
        return np.concatenate([run.logits for run, _, _ in self.runs])

    @property
    def exact_logits(self) -> FloatArray:
        """What they should have said."""
        return np.concatenate([reference.logits for _, reference, _ in self.runs])


def drive_in_steps(session: Session, reference: Reference, *, probe: bool = False) -> Driven:
    """Every sequence alone, and all as a batch (other graphs may serve it), token by token from a fresh state."""
    return _drive(session, _alone_and_together(reference), [(1,) * reference.steps], probe=probe)


def drive_whole(session: Session, reference: Reference, *, probe: bool = False) -> Driven:
    """All sequences as one batch, in one call: how the parallel form computes."""
    return _drive(session, [reference], [(reference.steps,)], probe=probe)


def drive_in_random_chunks(session: Session, reference: Reference, seed: int) -> Driven:
    """In random chunks, prefills onto a state that is not empty among them; alone and as a batch."""
    rng = np.random.default_rng([seed, reference.steps])
    chunkings = [_random_chunks(rng, reference) for _ in range(_CHUNKINGS)]
    parts = [reference.rows(slice(0, 1)), *([reference] if len(reference.tokens) > 1 else [])]
    return _drive(session, parts, chunkings)


def _drive(
    session: Session, parts: Sequence[Reference], chunkings: Sequence[tuple[int, ...]], *, probe: bool = False
) -> Driven:
    runs = [
        (run_in_chunks(session, part.tokens, lengths, part.states, probe=probe), part, lengths)
        for lengths in chunkings
        for part in parts
    ]
    session.reset(1)
    return Driven(tuple(runs))


def _alone_and_together(reference: Reference) -> list[Reference]:
    rows = [reference.rows(slice(row, row + 1)) for row in range(len(reference.tokens))]
    return [*rows, reference] if len(rows) > 1 else rows


def _random_chunks(rng: np.random.Generator, reference: Reference) -> tuple[int, ...]:
    """Chunk lengths with ends where states are compared."""
    cuts = {0, reference.steps, *reference.states}
    cuts |= set(rng.integers(1, reference.steps, size=max(2, reference.steps // 8)).tolist())
    return tuple(np.diff(sorted(cuts)).tolist())


def check_logits(form: str, driven: Driven, case: Case, session: Session) -> LevelResult:
    """Logits against the oracle, and as distributions."""
    agreement = _agreement(driven, case)
    deviations = [deviation for deviation in driven.deviations(session) if deviation.tensor == LOGITS]
    errors = step_errors(driven.logits, driven.exact_logits) / case.reference.largest_logit
    allowed = case.reference.bounds.logits / case.reference.largest_logit
    return _judged(
        "logits",
        form,
        deviations,
        case,
        agreement,
        summary=f"argmax {100 * agreement.argmax_agreement:.4g}%",
        errors=[finite(float(error)) for error in errors],
        allowed_errors=[finite(float(error)) for error in allowed],
    )


def check_state(form: str, driven: Driven, case: Case, session: CellSession) -> LevelResult:
    """Every state tensor: on the way from a fresh state, and one step after an exact state was fed in."""
    stepped = [_step_from_exact(session, part) for part in _alone_and_together(case.reference)[-2:]]
    session.reset(1)
    names = compared_tensors(session)
    deviations = merged([driven.deviations(session), *stepped])
    return _judged(
        "state",
        form,
        [deviation for deviation in deviations if deviation.tensor in names],
        case,
        _agreement(driven, case),
        summary=f"{len(names)} tensors at {len(case.reference.states)} positions",
    )


def _step_from_exact(session: CellSession, reference: Reference) -> list[Deviation]:
    """From each exact state whose next is known, too, one step."""
    found: list[list[Deviation]] = []
    for position in sorted(reference.states):
        if position + 1 in reference.states:
            token = reference.tokens[:, position : position + 1]
            run = run_in_chunks(session, token, [1], [position + 1], start=reference.snapshot(position, session))
            states = Run(np.full(reference.logits.shape, np.nan), run.states)
            found.append([d for d in compare_run(states, reference, compared_tensors(session)) if d.tensor != LOGITS])
    return merged(found)


def check_split(form: str, driven: Driven, case: Case, session: CellSession) -> LevelResult:
    """Logits and states after other splits of the same tokens."""
    return _judged(
        "split",
        form,
        driven.deviations(session),
        case,
        _agreement(driven, case),
        summary=f"{len({lengths for _, _, lengths in driven.runs})} random splits",
        chunks=[list(lengths) for _, _, lengths in driven.runs],
    )


def check_layer(form: str, driven: Driven, case: Case, session: Session) -> LevelResult:
    """The residual stream between blocks, step by step."""
    deviations = [d for d in driven.deviations(session) if d.tensor.startswith("stream.")]
    return _judged(
        "layer",
        form,
        deviations,
        case,
        _agreement(driven, case),
        summary=f"{len(deviations)} streams",
        heat=_heat(driven, case.reference),
    )


def _heat(driven: Driven, reference: Reference) -> list[list[float | None]]:
    """[N + 1][columns]: error over what is allowed, by stream and step; the largest where steps share a column."""
    rows = []
    for k, allowed in enumerate(reference.bounds.streams):
        ratios = (
            np.max([step_errors(run.streams[k], part.streams[k]) for run, part, _ in driven.runs], axis=0) / allowed
        )
        columns = np.array_split(ratios, min(_HEAT_COLUMNS, len(ratios)))
        rows.append([finite(float(column.max())) for column in columns])
    return rows


def check_recorded(session: CellSession, golden: Golden) -> LevelResult:
    """Step by step against what the runtime that wrote the bundle said: the same runtime on another machine."""
    reference = golden.reference
    run = run_in_chunks(session, reference.tokens, [1] * reference.steps)
    session.reset(1)
    error = float(step_errors(run.logits, golden.recorded_logits).max()) / reference.largest_logit
    passed = error <= REGRESSION_RELATIVE
    words = "as when it was exported" if passed else "another answer than when it was exported"
    return LevelResult("logits", f"{session.runtime}, recorded", passed, words, error, REGRESSION_RELATIVE)


def check_resumed(session: CellSession, golden: Golden, case: Case) -> LevelResult:
    """All sequences as a batch, resumed from the recorded mid-sequence state."""
    snapshot, reference = golden.recorded_snapshot(session.owner), golden.reference
    rest = reference.tokens[:, snapshot.position :]
    run = run_in_chunks(session, rest, [1] * rest.shape[1], reference.states, start=snapshot)
    session.reset(1)
    known = reference.logits[:, : snapshot.position]
    whole = Run(np.concatenate([known, run.logits], axis=1), run.states)
    driven = Driven(((whole, reference, ()),))
    return _judged(
        "state",
        f"{session.runtime}, resumed",
        driven.deviations(session),
        case,
        _agreement(driven, case),
        summary=f"from the recorded state at {snapshot.position}",
    )


def _agreement(driven: Driven, case: Case) -> Agreement:
    return compare_distributions(driven.logits, driven.exact_logits, case.reference.bounds.logits)


def _judged(
    level: str,
    form: str,
    deviations: Sequence[Deviation],
    case: Case,
    agreement: Agreement,
    *,
    summary: str,
    **figures: Any,
) -> LevelResult:
    """By rounding; or with a budget by what the distributions lost, the deviations being shown and not judged."""
    figures["distribution"] = agreement.to_json()
    if case.budget is None:
        return LevelResult.from_deviations(level, form, deviations, summary=summary, **figures)
    shown = [Deviation(d.tensor, d.error, d.allowed) for d in deviations]
    passed = (
        agreement.kl_divergence <= case.budget.kl_divergence and agreement.argmax_changes <= case.budget.argmax_changes
    )
    words = f"KL {agreement.kl_divergence:.0e}, {100 * agreement.argmax_changes:.2g}% changed"
    return LevelResult.from_deviations(level, form, shown, summary=words, passed=passed, **figures)
