"""Where a failure begins, and which side is wrong.

The step at which something first leaves its tolerance is computed again in several ways: with the state as it was
carried there, with the reference state fed in (then only a local error can show), by other runtimes, and by the graph
itself in float64. Which of them go wrong names the culprit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from msgspec.structs import replace as replaced

from causalrn.bundle.state_spec import STATE
from causalrn.errors import RuntimeUnavailableError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.comparison import Deviation, compare_run
from causalrn.runtimes.parity.reference import Reference, States, compared_tensors, run_in_chunks
from causalrn.runtimes.parity.results import Attribution, Cause, LevelResult, Side, StartState
from causalrn.runtimes.parity.traces import Trace, Traces
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import IntArray, Snapshot

StateSource = Callable[[IntArray, Iterable[int]], States]
"""Reference states at further positions: (tokens, positions) -> states."""

_MOST_STATE_BYTES = 256 << 20
_SAME_ORDER = 0.1


@dataclass(frozen=True)
class Comparators:
    """What a failing runtime can be compared with.

    Attributes:
        peers: other runtimes, e.g. "parallel" and "recurrent"; compared from the reference state.
        graph: the bundle's graph in float64; None where onnx is not installed.
        states: reference states at any position; None where only the reference's own are known.
    """

    peers: Mapping[str, Session]
    graph: CellSession | None = None
    states: StateSource | None = None


def attribute_failure(result: LevelResult, session: Session, traces: Traces, comparators: Comparators) -> Attribution:
    """Find where a failed level first goes wrong, and why.

    Args:
        result: of the level; it has failed.
        session: the runtime that failed.
        traces: the runs that the level judged.
    """
    trace = _failing_trace(session, traces)
    if trace.reference.first and isinstance(session, CellSession):  # it went wrong right after a state was fed in
        part, own = trace.reference, None
        first = _earliest(_again(session, trace.reference, trace.reference.first, trace.lengths[0]))
        start, length = part.first, trace.lengths[0]
    else:
        part = _with_dense_states(trace.reference, trace.lengths, session, comparators)
        own = Side.of(session.runtime, StartState.OWN, _from_fresh_state(session, part, trace.lengths))
        first = _earliest(own.deviations)
        start, length = _chunk_around(trace.lengths, 0 if first is None else first.first_bad_step or 0)
    if first is None or first.first_bad_step is None:
        sentence = (
            "the failure did not repeat when the run was looked at step by step: it depends on when a state is copied, "
            "or is not deterministic"
        )
        return Attribution(result.level, result.runtime, result.step or 0, "", "", "unknown", sentence, ())
    sides = [*([] if own is None else [own]), *_sides_from_reference(session, part, start, length, comparators)]
    cause, sentence = _judge(session, first, sides, part)
    return Attribution(
        result.level,
        result.runtime,
        first.first_bad_step,
        first.tensor,
        first.place,
        cause,
        f"{_where(first, length)}: {sentence}",
        tuple(sides),
    )


def _failing_trace(session: Session, traces: Traces) -> Trace:
    """The first run that is out of tolerance."""
    for trace in traces.traces:
        deviations = compare_run(trace.run, trace.reference, compared_tensors(session))
        if any(not deviation.passed for deviation in deviations):
            return trace
    return traces.traces[0]


def _with_dense_states(
    part: Reference, lengths: Sequence[int], session: Session, comparators: Comparators
) -> Reference:
    """The reference with states at the ends of chunks: all of them, or as many as memory allows to compare."""
    if comparators.states is None or not isinstance(session, CellSession):
        return part
    ends = list(itertools.accumulate(lengths))[:-1]
    size = session.spec.size_bytes(part.steps, len(part.tokens)) * len(ends)
    every = 1 + size // _MOST_STATE_BYTES
    return replace(part, states={**part.states, **comparators.states(part.tokens, {*ends[::every], *part.states})})


def _from_fresh_state(session: Session, part: Reference, lengths: Sequence[int]) -> list[Deviation]:
    """The whole run again, looked at between blocks where the session can show that."""
    return _probed(session, part, lengths, None)


def _again(session: CellSession, part: Reference, start: int, length: int) -> list[Deviation]:
    """One chunk again, from the reference state before it."""
    window = part if part.first == start and part.steps == length else part.window(start, length)
    return _probed(session, window, [length], part.snapshot(start, session) if start else None)


def _probed(session: Session, part: Reference, lengths: Sequence[int], start: Snapshot | None) -> list[Deviation]:
    positions = [position for position in part.states if position > part.first]
    try:
        run = run_in_chunks(session, part.tokens, lengths, positions, start=start, probe=True)
    except RuntimeUnavailableError:
        run = run_in_chunks(session, part.tokens, lengths, positions, start=start)
    session.reset(1)
    return compare_run(run, part, compared_tensors(session))


def _earliest(deviations: Sequence[Deviation]) -> Deviation | None:
    """What is first out of tolerance: by step, then by the order of computation, in which they are given."""
    bad = [deviation for deviation in deviations if deviation.first_bad_step is not None]
    return min(bad, key=lambda deviation: deviation.first_bad_step or 0, default=None)


def _chunk_around(lengths: Sequence[int], step: int) -> tuple[int, int]:
    """First position and length of the chunk that holds a step."""
    start = 0
    for length in lengths:
        if step < start + length:
            return start, length
        start += length
    return start, 1


def _sides_from_reference(
    session: Session, part: Reference, start: int, length: int, comparators: Comparators
) -> list[Side]:
    """The chunk again, by every runtime, from the reference state before it."""
    runtimes: dict[str, Session] = {session.runtime: session} if isinstance(session, CellSession) else {}
    runtimes |= {name: peer for name, peer in comparators.peers.items() if peer is not session}
    if comparators.graph is not None:
        runtimes[comparators.graph.runtime] = comparators.graph
    sides = []
    for name, peer in runtimes.items():
        cell = isinstance(peer, CellSession)
        if (cell and start and start not in part.states) or (not cell and part.first):
            continue  # no reference state is known there, or not what came before it
        try:
            sides.append(_side(name, peer, part, start, length))
        except RuntimeUnavailableError as error:
            sides.append(Side(name, StartState.REFERENCE, False, str(error), ()))
    return sides


def _side(name: str, peer: Session, part: Reference, start: int, length: int) -> Side:
    if isinstance(peer, CellSession):
        return Side.of(name, StartState.REFERENCE, _again(peer, part, start, length))
    deviations = _from_fresh_state(peer, part.of_parallel(), [part.steps])
    return Side.of(name, StartState.NONE, [_until(deviation, start + length) for deviation in deviations])


def _until(deviation: Deviation, end: int) -> Deviation:
    """What goes wrong after the chunk is no fault of it."""
    late = deviation.first_bad_step is not None and deviation.first_bad_step >= end
    return replaced(deviation, first_bad_step=None) if late else deviation


def _judge(session: Session, first: Deviation, sides: Sequence[Side], part: Reference) -> tuple[Cause, str]:
    """The cause, and a sentence about it."""
    fed_in = (session.runtime, StartState.REFERENCE)
    local = next((side for side in sides if (side.runtime, side.state) == fed_in), None)
    parallel = next((side for side in sides if side.runtime == "parallel"), None)
    if session.runtime == "parallel" or (parallel is not None and _explains(parallel, sides[0])):
        return "weights", (
            "even the trained form in float32 is out of tolerance: the weights are more delicate than the error bound "
            "allows for"
        )
    if local is None:
        return "unknown", "no reference state is known there to tell a local error from a carried one"
    if local.passed:
        return "state handling", (
            "from the reference state this step is right, so the error was carried in: the state is kept, paired or "
            "updated wrongly between steps, or small errors accumulate in it"
        )
    if session.runtime == "recurrent":
        return (
            "cell",
            f"wrong even from the reference state, the parallel form is right: {_hint(local.first or first, part)}",
        )
    graph = next((side for side in sides if side.runtime.startswith("graph")), None)
    if graph is None or graph.problem:
        return "graph or runtime", f"wrong even from the reference state: {_hint(local.first or first, part)}"
    if graph.passed:
        return "runtime", (
            f"wrong even from the reference state, while the same graph in float64 is right: {session.runtime}, its "
            "provider, or what feeds it is at fault, not the bundle"
        )
    return "graph", f"the graph itself is wrong, in float64 too: {_hint(graph.first or first, part)}"


def _explains(parallel: Side, own: Side) -> bool:
    """Whether the trained form is as wrong as the one that failed, within an order of magnitude."""
    if parallel.passed or parallel.worst is None or own.worst is None:
        return False
    return parallel.worst.ratio >= _SAME_ORDER * own.worst.ratio


def _hint(first: Deviation, part: Reference) -> str:
    """What computes a tensor, for someone who has to mend it."""
    kind = part.places[first.tensor].kind
    if any(tensor.role == STATE for tensor in part.spec.tensors):
        return f"block {first.block}" if kind == "stream" else first.tensor
    if kind == "logits":
        return "the head's weights or norm"
    if first.block is None:
        return "the embedding or the positions"
    if kind == "stream":
        return f"block {first.block} reads its state wrongly, or W1, b1, W3 or b3 differ"
    return f"what block {first.block} writes to its state: W2, b2 or its norm"


def _where(first: Deviation, length: int) -> str:
    row = "" if first.bad_row is None else f", row {first.bad_row}"
    chunk = f" (in a prefill of {length} tokens)" if length > 1 else ""
    return f"step {first.first_bad_step}{chunk}, {first.place}, {first.tensor}{row}"
