"""Making calls on a session, and comparing everything that comes out with what is expected of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from causalrn.errors import CausalRNError, GpuFailureError, NotExecutedError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.calls.call import Call, Course, Limits
from causalrn.runtimes.parity.calls.failures import Problem, WrongCallError, refused_call
from causalrn.runtimes.parity.calls.generation import check_generation
from causalrn.runtimes.parity.calls.table import CallTable
from causalrn.runtimes.parity.comparison import relative_error, same_bits, same_tensors
from causalrn.runtimes.parity.reference import compared_tensors, current_values
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray, Snapshot

_MOST_WATCHED = 8


@dataclass
class _Kept:
    """A snapshot or file, and what the session showed when it was taken."""

    snapshot: Snapshot | None
    copies: Mapping[str, Array]
    last: FloatArray | None


@dataclass
class Replay:
    """A session that makes calls, and a course that knows where it has to be.

    Args:
        session: any runtime's; it is reset.
        table: what is expected.
        limits: what the session can take.
        folder: for state files.
        peer: another session of the same runtime, to compare states with where none is known; None compares none.
        allowed_state: largest relative error of states of a quantized form; None takes the table's bounds.

    Attributes:
        errors: of the logits at each position, relative to the largest |logit|.
        taken: the calls that were made.
        furthest: position that they reached.
        broken_off: prefills that an error ended; others had fewer parts.
        worst: (error, allowed) of the logits that came nearest to their bound.
    """

    session: CellSession
    table: CallTable
    limits: Limits
    folder: Path
    peer: Callable[[], CellSession] | None = None
    allowed_state: float | None = None
    errors: list[float] = field(default_factory=list)
    worst: tuple[float, float] = (0.0, 1.0)
    taken: list[Call] = field(default_factory=list)
    furthest: int = 0
    broken_off: int = 0
    course: Course = field(init=False)
    _last: FloatArray | None = None
    _snapshots: dict[int, _Kept] = field(default_factory=dict)
    _files: dict[int, _Kept] = field(default_factory=dict)
    _given: list[tuple[Array, Array]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.course = Course(self.limits)
        self.session.reset(1)

    def run(self, call: Call) -> None:
        """Make a call that fits.

        Raises:
            WrongCallError: something came out wrong.
        """
        try:
            self.taken.append(call)
            self._make(call)
            self.course.take(call)
            self.furthest = max(self.furthest, self.course.position)
            self._check_shown(call)
        except (WrongCallError, GpuFailureError, NotExecutedError):
            raise
        except Exception as error:  # whatever a wrong session raises
            raise WrongCallError(Problem(f"{call.describe()} raised {type(error).__name__}: {error}")) from error

    def run_all(self, calls: Sequence[Call]) -> Problem | None:
        """Make calls, those that fit; the first problem, or None."""
        for call in calls:
            if self.course.fits(call):
                try:
                    self.run(call)
                except WrongCallError as wrong:
                    return wrong.problem
        return None

    def _make(self, call: Call) -> None:
        session = self.session
        match call.kind:
            case "reset":
                session.reset(len(call.rows))
                self._last = None
            case "step" | "prefill":
                self._advance(call)
            case "snapshot":
                snapshot = session.snapshot()
                self._snapshots[call.count] = _Kept(snapshot, _copied(snapshot), self._last)
            case "restore":
                self._restore(self._snapshots[call.count])
            case "save":
                session.save(self._file(call.count))
                self._files[call.count] = _Kept(None, {}, self._last)
            case "load":
                session.load(self._file(call.count))
                self._last = self._files[call.count].last
            case "refuse":
                self._refuse(call)
            case "break off":
                self._break_off(call)
            case "generate":
                prompt = self._tokens(call.prompt) if call.prompt else None
                check_generation(self.session, self.table, self.course, call, prompt)
            case "state":
                self._compare_state()

    def _file(self, number: int) -> Path:
        return self.folder / f"state_{number}.safetensors"

    def _tokens(self, count: int) -> IntArray:
        start = self.course.position
        return self.table.tokens[list(self.course.rows), start : start + count]

    def _advance(self, call: Call) -> None:
        count = 1 if call.kind == "step" else call.count
        tokens = self._tokens(count)
        given = tokens.copy()
        logits = self.session.step(given[:, 0])[:, None] if call.kind == "step" else self.session.prefill(given)
        if given.tobytes() != tokens.tobytes():
            raise WrongCallError(Problem("the tokens that were given have changed"))
        self._judge(logits, count, self.course.position)
        self._last = logits[:, -1].copy()
        self._given = [*self._given[-_MOST_WATCHED:], (logits, logits.copy())]

    def _judge(self, logits: FloatArray, count: int, start: int) -> None:
        """Compare logits [B, T, V] of so many tokens from position `start` on with the table."""
        rows, largest = self.course.rows, self.table.largest
        offsets, expected, allowed = self.table.look_up(rows, start, count)
        if logits.shape != (len(rows), count, expected.shape[-1]):
            raise WrongCallError(
                Problem(f"logits of shape {list(logits.shape)} for {len(rows)} rows of {count} tokens")
            )
        if not np.isfinite(logits).all():
            raise WrongCallError(Problem("NaN or infinity came out", float("nan"), None, start, "logits"))
        if not len(offsets):
            return
        errors = np.abs(logits[:, offsets].astype(np.float64) - expected).max(2)  # [B, k]
        self.errors += (errors.max(0) / largest).tolist()
        ratios = errors / allowed
        place = int(ratios.max(0).argmax())
        worst, bound = float(errors[:, place].max()) / largest, float(allowed[place]) / largest
        if worst * self.worst[1] > self.worst[0] * bound:
            self.worst = worst, bound
        if ratios[:, place].max() > 1:
            place = int(np.flatnonzero((ratios > 1).any(0))[0])  # the first, not the worst
            row, position = int(ratios[:, place].argmax()), start + int(offsets[place])
            error, bound = float(errors[row, place]) / largest, float(allowed[place]) / largest
            words = f"position {position}: logits of sequence {row} off by {error:.0e}, allowed {bound:.0e}"
            raise WrongCallError(Problem(words, error, bound, position, "logits"))

    def _check_shown(self, call: Call) -> None:
        """What the session shows beside logits: position, batch, last logits; and nothing given before may change."""
        session, course, name = self.session, self.course, call.describe()
        if session.position != course.position or session.batch != len(course.rows):
            shown = f"position {session.position}, {session.batch} sequences"
            wanted = f"position {course.position}, {len(course.rows)}"
            raise WrongCallError(Problem(f"after {name} the session shows {shown}, expected {wanted}"))
        if not same_bits(session.last_logits, self._last):
            raise WrongCallError(Problem(f"after {name} last_logits are not those of the last token"))
        for now, before in self._given:
            if now.tobytes() != before.tobytes():
                raise WrongCallError(Problem(f"{name} changed logits that an earlier call had given"))

    def _restore(self, kept: _Kept) -> None:
        assert kept.snapshot is not None
        if not same_tensors(kept.snapshot.tensors, kept.copies) or not same_bits(kept.snapshot.logits, kept.last):
            raise WrongCallError(Problem("a snapshot changed after it was taken"))
        self.session.restore(kept.snapshot)
        self._last = kept.last

    def _refuse(self, call: Call) -> None:
        try:
            refused_call(self.session, call)
        except CausalRNError:
            return
        raise WrongCallError(Problem(f"{call.describe()}: the call was not refused"))

    def _break_off(self, call: Call) -> None:
        """A prefill that ends by an error after some parts; where it has fewer parts, an ordinary one."""
        run, done = self.session._run, 0

        def run_or_fail(tokens: IntArray, position: int, state: Sequence[Array]) -> object:
            nonlocal done
            if done == call.count:
                raise InterruptedError
            done += 1
            return run(tokens, position, state)

        vars(self.session)["_run"] = run_or_fail
        try:
            whole = self.session.prefill(self._tokens(call.prompt))
        except InterruptedError:
            self.broken_off += 1
            return
        finally:
            vars(self.session)["_run"] = run
        self._judge(whole, call.prompt, self.course.position)
        self._go_back()

    def _go_back(self) -> None:
        """To where the course is, from a fresh state by one prefill."""
        rows, position = list(self.course.rows), self.course.position
        self.session.reset(len(rows))
        self._last = None
        if position:
            logits = self.session.prefill(self.table.tokens[rows, :position])
            self._judge(logits, position, 0)
            self._last = logits[:, -1].copy()

    def _compare_state(self) -> None:
        rows, position = self.course.rows, self.course.position
        expected, factor = self.table.state(rows, position), 1.0
        if expected is None:
            if self.peer is None:
                return
            other, factor = self.peer(), 2.0  # both may be off
            other.reset(len(rows))
            other.prefill(self.table.tokens[list(rows), :position])
            expected = current_values(other)
        values = current_values(self.session)
        for tensor in compared_tensors(self.session):
            allowed = self.allowed_state or factor * self.table.state_bound(tensor.name, position)
            error = relative_error(values[tensor.name], expected[tensor.name])
            if not error <= allowed:
                words = f"position {position}: state tensor {tensor.name} off by {error:.0e}, allowed {allowed:.0e}"
                raise WrongCallError(Problem(words, error, allowed, position, tensor.name))


def _copied(snapshot: Snapshot) -> dict[str, Array]:
    return {name: value.copy() for name, value in snapshot.tensors.items()}
