"""Generation as a call: against what the table says is most likely, and against steps with the same tokens."""

from __future__ import annotations

import numpy as np

from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.generation import GeneratedStep
from causalrn.runtimes.parity.calls.call import Call, Course
from causalrn.runtimes.parity.calls.failures import Problem, WrongCallError
from causalrn.runtimes.parity.calls.table import CallTable
from causalrn.runtimes.snapshot import FloatArray, IntArray


def check_generation(
    session: CellSession, table: CallTable, course: Course, call: Call, prompt: IntArray | None
) -> None:
    """Generate greedily from where the session is; its state is put back afterwards.

    Raises:
        WrongCallError: another number of tokens, one that is not the most likely, another state than steps leave, or
            no end after a stop token.
    """
    before, start, name = session.snapshot(), course.position + call.prompt, call.describe()
    room = call.count if course.limits.capacity is None else course.limits.capacity - start
    steps = list(session.generate(prompt, max_new_tokens=call.count, stop_ids=()))
    if len(steps) != min(call.count, room + 1):
        raise WrongCallError(Problem(f"{name} gave {len(steps)} tokens, expected {min(call.count, room + 1)}"))
    offsets, expected, allowed = table.look_up(course.rows, start - 1, 1)
    if len(offsets) and not _is_greedy(expected[:, 0], steps[0].tokens, 2 * float(allowed[0])):
        raise WrongCallError(Problem(f"{name}: the first token is not the most likely one", position=start))
    position, last = session.position, session.last_logits
    session.restore(before)
    logits = session.last_logits if prompt is None else session.prefill(prompt)[:, -1]
    slack = _slack(table, start)
    logits = _follow(session, steps, logits, slack, start + room, name)
    near = (logits is None) == (last is None)
    if logits is not None and last is not None:
        near = logits.shape == last.shape and bool(np.abs(logits - last).max() <= slack)
    if session.position != position or not near:
        raise WrongCallError(Problem(f"{name} leaves another state than the same tokens step by step", position=start))
    if logits is not None:
        every = tuple(range(session.card.config.vocabulary))
        ended = list(session.generate(None, max_new_tokens=2, stop_ids=every))
        if len(ended) != 1 or not ended[0].finished.all():
            raise WrongCallError(Problem("generation went on after a stop token", position=start))
    session.restore(before)


def _follow(
    session: CellSession, steps: list[GeneratedStep], logits: FloatArray | None, slack: float, end: int, name: str
) -> FloatArray | None:
    """Take the tokens one by one, each of which has to be the most likely; the last logits, None at the capacity."""
    for step in steps:
        if logits is None or not _is_greedy(logits, step.tokens, slack):
            words = f"{name}: token {session.position} is not the most likely one"
            raise WrongCallError(Problem(words, position=session.position))
        logits = session.step(step.tokens) if session.position < end else None
    return logits


def _slack(table: CallTable, position: int) -> float:
    """What two runs of one model may differ by, in units of a logit."""
    place = min(int(np.searchsorted(table.known, position)), len(table.bounds) - 1)
    return 2 * float(table.bounds[place])


def _is_greedy(logits: FloatArray, tokens: IntArray, slack: float) -> bool:
    """Whether tokens [B] are the most likely by logits [B, V], as far as so small a difference can tell."""
    chosen = np.take_along_axis(logits, tokens[:, None], -1)[:, 0]
    return bool((chosen >= logits.max(-1) - slack).all())
