"""What every kernel has to answer: any prefill at any position, many batches, long states."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from causalrn.errors import CausalRNError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.reference import Reference, current_values, run_in_chunks
from causalrn.runtimes.parity.traces import Trace, trace_in_chunks, trace_in_steps
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray

_MOST_TOKENS = 20_000
"""Of all windows together: every prefill at every position where sequences have up to 48 tokens."""
_FEWER, _WIDE = 10, 256
_SHORT, _EACH = 66, 3
_LONG = (127, 128, 129, 191, 192, 193, 255, 256)
BATCHES = (2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64, 65)
_BATCH_CHUNKS = (2, 1, 3)
_DEPTHS, _TAIL = (520, 1100), 16


class NoTimeError(CausalRNError):
    """The time that a verification may take ended before a kernel had answered everything."""

    def __init__(self) -> None:
        super().__init__("no time was left: give more with `time_budget`")


@dataclass(frozen=True)
class Answer:
    """What one call, or a few, gave; it is compared with the reference and with the same tokens one by one.

    Attributes:
        words: what was called, for people.
        trace: what came out, and the reference for it.
        rows: which sequences of the reference.
        equality: the key of what is claimed: "prefill" or "batch".
        group: those that a budget judges together: "steps", "chunks", "windows", or one batch.
    """

    words: str
    trace: Trace
    rows: IntArray
    equality: str
    group: str


@dataclass(frozen=True)
class Answers:
    """What one kernel answered.

    Attributes:
        alone: logits [B, T, V] of every sequence alone, token by token.
        all: everything, the steps that `alone` is made of among them.
    """

    alone: FloatArray
    all: Sequence[Answer]

    def alone_as(self, answer: Answer) -> FloatArray:
        """The same tokens as an answer's, taken one by one by a single sequence: [B, T, V]."""
        reference = answer.trace.reference
        return self.alone[answer.rows, reference.first : reference.first + reference.steps]


def ask(
    session: CellSession,
    reference: Reference,
    seed: int,
    *,
    few_prefills: bool = False,
    deadline: float = math.inf,
) -> Answers:
    """Run all calls that have a reference, or fewer of the prefills.

    Args:
        deadline: of `time.monotonic`.

    Raises:
        NoTimeError: it came before the end.
    """
    stepped, count = trace_in_steps(session, reference).traces, len(reference.tokens)
    rows = [np.arange(row, row + 1) for row in range(count)] + [np.arange(max(2, count)) % count]
    answers = [
        Answer(f"steps, {_sequences(len(part))}", trace, part, "batch", "steps")
        for trace, part in zip(stepped, rows, strict=True)
    ]
    alone = np.concatenate([trace.run.logits for trace in stepped[:-1]])
    answers += in_time(_chunked(session, reference, seed), deadline)
    most = _MOST_TOKENS // (_FEWER if few_prefills else 1)
    answers += in_time(_windows(session, reference, seed, most), deadline)
    answers += in_time(_batches(session, reference, seed), deadline)
    session.reset(1)
    return Answers(alone, answers)


def in_time(answers: Iterable[Answer], deadline: float) -> Iterator[Answer]:
    """The same, until a time comes."""
    for answer in answers:
        yield answer
        check_time(deadline)


def check_time(deadline: float) -> None:
    """Stop where a time of `time.monotonic` has come."""
    if time.monotonic() > deadline:
        raise NoTimeError


def _sequences(count: int) -> str:
    return "1 sequence" if count == 1 else f"{count} sequences"


def _chunked(session: CellSession, reference: Reference, seed: int) -> Iterator[Answer]:
    """Whole sequences in various splits and batches, their states compared on the way."""
    count = len(reference.tokens)
    for trace in trace_in_chunks(session, reference, seed).traces:
        size = len(trace.run.logits)
        lengths = "+".join(map(str, trace.lengths[:4])) + ("+..." if len(trace.lengths) > 4 else "")
        yield Answer(f"chunks of {lengths}, {_sequences(size)}", trace, np.arange(size) % count, "prefill", "chunks")


def _windows(session: CellSession, reference: Reference, seed: int, most: int) -> Iterator[Answer]:
    """A prefill of every length at every position of one sequence, or as many as there is time for."""
    row = len(reference.tokens) - 1
    whole_pools = session.spec.capacity if session.spec.pool == "fixed" else None  # every call reads all rows
    lengths = window_lengths(reference.steps, seed, most // max(1, (whole_pools or 0) // _WIDE))
    single = reference.rows(slice(row, row + 1))
    session.reset(1)
    for position in range(reference.steps):
        snapshot = session.snapshot()
        for length in lengths[position]:
            window = single.window(position, length)
            end = [position + length] if position + length in window.states else []
            run = run_in_chunks(session, window.tokens, [length], end, start=snapshot)
            what = "step" if length == 1 else f"prefill of {length}"
            trace = Trace(run, window, (length,))
            yield Answer(f"{what} at position {position}", trace, np.array([row]), "prefill", "windows")
        session.restore(snapshot)
        session.step(single.tokens[:, position])


def window_lengths(steps: int, seed: int, most: int = _MOST_TOKENS) -> list[list[int]]:
    """Per position the lengths of prefills there: all of them, or some where they take more tokens than `most`.

    Example:
        >>> window_lengths(3, 0)
        [[1, 2, 3], [1, 2], [1]]
    """
    if steps * (steps + 1) * (steps + 2) // 6 <= most:
        return [list(range(1, steps - position + 1)) for position in range(steps)]
    rng, chosen = np.random.default_rng([seed, steps]), [{1, min(2, steps - place)} for place in range(steps)]
    for length in (*range(3, min(_SHORT, steps) + 1), *(length for length in _LONG if length < steps)):
        places = rng.integers(0, steps - length + 1, _EACH if most == _MOST_TOKENS else 1)
        for place in (*places.tolist(), steps - length):
            chosen[place].add(length)
    chosen[0].add(steps)
    for place in range(steps):
        chosen[place].add(int(rng.integers(1, min(_SHORT, steps - place) + 1)))
    return [sorted(lengths) for lengths in chosen]


def _batches(session: CellSession, reference: Reference, seed: int) -> Iterator[Answer]:
    """Batches of many sizes, different sequences at their ends: none reads the same backwards."""
    rng, count = np.random.default_rng([seed, 1]), len(reference.tokens)
    for size in (size for size in BATCHES if size <= (session.max_batch or size)):
        rows = rng.integers(0, count, size)
        rows[0], rows[-1] = 0, count - 1
        part = reference.rows(rows).window(0, min(sum(_BATCH_CHUNKS), reference.steps))
        lengths = _BATCH_CHUNKS if part.steps == sum(_BATCH_CHUNKS) else (1,) * part.steps
        run = run_in_chunks(session, part.tokens, lengths, [p for p in part.states if p == part.steps])
        words = f"{'+'.join(map(str, lengths))} tokens, {size} sequences"
        yield Answer(words, Trace(run, part, lengths), rows, "batch", words)


@dataclass(frozen=True)
class DeepRun:
    """A run over a long sequence, beyond what has a reference.

    Attributes:
        prefilled: logits of the prefills between the tails.
        stepped, at_once: logits of each tail: token by token, and after going back by a prefill.
        states: at the end.
    """

    prefilled: Sequence[FloatArray]
    stepped: Sequence[FloatArray]
    at_once: Sequence[FloatArray]
    states: Sequence[Array]

    @property
    def logits(self) -> list[FloatArray]:
        """All logits, [B, T, V] each."""
        return [*self.prefilled, *self.stepped, *self.at_once]

    @property
    def values(self) -> list[Array]:
        """Everything."""
        return [*self.logits, *self.states]


def deep_tokens(capacity: int | None, vocabulary: int, seed: int) -> IntArray:
    """Two long sequences [2, S]: to the capacity, at most 1,100 tokens."""
    steps = min(capacity or max(_DEPTHS), max(_DEPTHS))
    return np.random.default_rng([seed, 2]).integers(0, vocabulary, (2, steps))


def run_deep(session: CellSession, tokens: IntArray, deadline: float = math.inf) -> DeepRun:
    """By prefills to a depth; there some steps, and after going back the same tokens at once.

    Raises:
        NoTimeError: the deadline, of `time.monotonic`, came before the end.
    """
    tokens = tokens[: session.max_batch or len(tokens)]
    steps = tokens.shape[1]
    tail = min(_TAIL, max(1, steps // 2))
    prefilled, stepped, at_once = [], [], []
    session.reset(len(tokens))
    for end in sorted({min(depth, steps) for depth in _DEPTHS}):
        if (start := end - tail) > session.position:
            prefilled.append(session.prefill(tokens[:, session.position : start]))
        snapshot, rest = session.snapshot(), tokens[:, session.position : end]
        stepped.append(np.stack([session.step(column) for column in rest.T], axis=1))
        session.restore(snapshot)
        at_once.append(session.prefill(rest))
        check_time(deadline)
    states = list(current_values(session).values())
    session.reset(1)
    return DeepRun(prefilled, stepped, at_once, states)
