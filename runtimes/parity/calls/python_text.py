"""A failing walk as Python that anyone can run: it needs the bundle, this package and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from causalrn.runtimes.parity.calls.call import Call, Course, Limits, tokens_read
from causalrn.runtimes.parity.calls.table import CallTable
from causalrn.runtimes.snapshot import IntArray

_BREAKING = '''\
def break_off(session, tokens, parts):
    """A prefill that an error ends after so many parts."""
    run, done = session._run, []

    def run_or_fail(*arguments):
        if len(done) == parts:
            raise InterruptedError
        done.append(1)
        return run(*arguments)

    session._run = run_or_fail
    with contextlib.suppress(InterruptedError):
        session.prefill(tokens)
    session._run = run
'''
_REFUSED = {
    "token": "session.step(np.full(session.batch, session.card.config.vocabulary))",
    "negative": "session.prefill(np.full((session.batch, 3), -1))",
    "rows": "session.step(np.zeros(session.batch + 1, int))",
    "dtype": "session.prefill(np.zeros((session.batch, 2)))",
    "reset": "session.reset(0)",
    "foreign state": 'session.restore(dataclasses.replace(session.snapshot(), owner="another", checkpoint="another"))',
    "no file": 'session.load("no such file")',
}


def python_of(calls: Sequence[Call], table: CallTable, limits: Limits, opening: str, remark: str) -> str:
    """A script that makes the calls.

    Args:
        opening: how the session is opened, e.g. `open_session("bundle", threads=3)`.
        remark: what is wrong, for a comment behind the last call.
    """
    rows, steps = tokens_read(calls, limits)
    course, lines = Course(limits), []
    for call in calls:
        lines += _lines(call, course, rows)
        course.take(call)
    head = ["import numpy as np", "", f"from causalrn import {opening.partition('(')[0]}"]
    if any(call.kind in ("refuse", "break off") for call in calls):
        head.insert(0, "import contextlib")
    if any(call.what == "foreign state" and call.kind == "refuse" for call in calls):
        head.insert(1, "import dataclasses")
    if any(call.kind == "refuse" for call in calls):
        head.append("from causalrn.errors import CausalRNError")
    head += ["", f"rows = {_array(table.tokens[list(rows), :steps])}"]
    if any(call.kind == "break off" for call in calls):
        head += ["", "", *_BREAKING.splitlines(), "", ""]
    body = [f"with {opening} as session:", "    tokens = rows[[0]]", *(f"    {line}" for line in lines)]
    return "\n".join([*head, *body, f"    # {remark}"]) + "\n"


def _array(tokens: IntArray) -> str:
    if not tokens.any():
        return f"np.zeros({tokens.shape}, int)"
    return f"np.array({tokens.tolist()})"


def _lines(call: Call, course: Course, rows: tuple[int, ...]) -> list[str]:
    start = course.position
    match call.kind:
        case "reset":
            chosen = [rows.index(row) for row in call.rows]
            return [f"tokens = rows[{chosen}]", f"session.reset({len(chosen)})"]
        case "step":
            return [f"logits = session.step(tokens[:, {start}])"]
        case "prefill":
            return [f"logits = session.prefill(tokens[:, {start}:{start + call.count}])"]
        case "break off":
            return [f"break_off(session, tokens[:, {start}:{start + call.prompt}], {call.count})"]
        case "snapshot":
            return [f"snapshot_{call.count} = session.snapshot()"]
        case "restore":
            back = [rows.index(row) for row in course.snapshots[call.count][0]]
            return [f"session.restore(snapshot_{call.count})", f"tokens = rows[{back}]"]
        case "save":
            return [f'session.save("state_{call.count}.safetensors")']
        case "load":
            back = [rows.index(row) for row in course.files[call.count][0]]
            return [f'session.load("state_{call.count}.safetensors")', f"tokens = rows[{back}]"]
        case "refuse":
            return ["with contextlib.suppress(CausalRNError):", f"    {_refused(call, course)}"]
        case "generate":
            prompt = f"tokens[:, {start}:{start + call.prompt}]" if call.prompt else "None"
            asked = f"session.generate({prompt}, max_new_tokens={call.count}, stop_ids=())"
            return [
                "before = session.snapshot()",
                f"new = [step.tokens for step in {asked}]",
                "session.restore(before)",
            ]
        case "state":
            return ["state = session.snapshot().tensors"]


def _refused(call: Call, course: Course) -> str:
    if call.what != "capacity":
        return _REFUSED[call.what]
    over = (course.limits.capacity or 0) - course.position + 1
    return f"session.prefill(np.zeros((session.batch, {over}), int))"
