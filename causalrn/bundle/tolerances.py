"""How far a form may be from the float64 oracle: every limit stands here. Needs no torch.

`verify` computes how far rounding may lead (docs/parity.md); fixed tolerances are for tests of single parts.

Errors are relative to the largest |logit| (or |state value|) of the sequence. Float32 rounds to 6e-8; twelve blocks
of matrix products, norms and sums of a few hundred terms leave 1e-6 to 2e-6 at the paper's size with weights of
unit gain (docs/numerics.md has the measurements). 5e-6 holds all of that, and is far below what a wrong row, mask or
weight does (1e-3 and more).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Tolerance:
    """Bounds for one form.

    Attributes:
        relative: of the largest |logit|.
        absolute: the bound on logits is never below this.
        state_relative: of the largest |value| of a state tensor.
    """

    relative: float
    absolute: float
    state_relative: float

    def logit_bound(self, largest: float) -> float:
        """Largest error allowed where the largest |logit| is `largest`."""
        return max(self.relative * largest, self.absolute)


TOLERANCES = {
    ("float32", "parallel"): Tolerance(5e-6, 2e-6, 1e-5),
    ("float32", "recurrent"): Tolerance(5e-6, 2e-6, 1e-5),
    ("float32", "onnxruntime"): Tolerance(5e-6, 2e-6, 1e-5),
    ("float32", "openvino"): Tolerance(5e-6, 2e-6, 1e-5),
    ("float32", "native"): Tolerance(5e-6, 2e-6, 1e-5),
    ("float32", "executorch"): Tolerance(5e-6, 2e-6, 1e-5),
    ("float32", "node"): Tolerance(5e-6, 2e-6, 1e-5),
    ("float64", "parallel"): Tolerance(1e-12, 1e-12, 1e-12),
    ("float64", "recurrent"): Tolerance(1e-11, 1e-11, 1e-11),
}
"""By dtype and runtime; the same for every readout."""


@dataclass(frozen=True)
class Budget:
    """What a quantized form may lose: it is not judged by rounding.

    Attributes:
        kl_divergence: largest mean KL(exact || form) over positions, in nats.
        argmax_changes: largest share of positions whose most likely token changes although there was no tie.
        scale, offset: largest |scale - 1| and |offset| of the line that fits a run's logits best, the offset relative
            to the largest |logit|: distributions hide a factor in all logits, and a number that is added to all.
        accuracy_drop: largest loss of accuracy on the task, as a share: 0.005 is half a percentage point.
        repeat: largest |difference| of a logit, relative to the largest |logit|, between the form and itself on another
            machine: a value that rounds to another integer, for a last bit is different, moves the logits by this much.
        split: the same between steps and prefill, one sequence and several: between calls.
        typical: the same for both, for the median over positions: integers that round otherwise are few.
        split_typical: `typical` between calls; the same but for graphs of w8a8-dynamic, where one scale is computed for
            all values in a call, so that every integer depends on it.
        split_changes: `argmax_changes` of prefills and batches, likewise, where it is more.
        elsewhere: what `typical` is on a processor of another family: without AVX2, onnxruntime leaves what it
            multiplies by weights of 8 or 4 bits in float32.
        wrong_value: no bundle of the scheme moves a state tensor or a stream by so much of its largest |value|: it is
            another row, or tensor.
    """

    kl_divergence: float = 0.01
    argmax_changes: float = 0.01
    accuracy_drop: float = 0.005
    scale: float = 0.01
    offset: float = 0.005
    repeat: float = 0.05
    split: float = 0.05
    typical: float = 0.002
    elsewhere: float = 0.002
    split_typical: float = 0.002
    split_changes: float = 0.0
    wrong_value: float = 0.5

    @property
    def between_calls(self) -> Budget:
        """The same with `typical` and `argmax_changes` as they are between calls."""
        changes = max(self.argmax_changes, self.split_changes)
        return replace(self, typical=self.split_typical, argmax_changes=changes)

    def of_rows(self) -> Budget:
        """For kernels that compute a scale for each row of activations: nothing depends on the rest of the call."""
        return replace(self, split=min(self.split, Budget.split), split_typical=self.typical, split_changes=0.0)

    def most_lost(self, counted: int) -> int:
        """How many of so many answers may be lost."""
        return math.floor(self.accuracy_drop * counted + 1e-6)


_FLOAT_BUDGET = Budget(
    0.001,
    0.01,
    0.005,
    scale=0.002,
    offset=0.002,
    repeat=0.005,
    split=0.005,
    typical=1e-4,
    elsewhere=1e-4,
    split_typical=1e-4,
)
BUDGETS = {
    "float32": _FLOAT_BUDGET,
    "fp16": _FLOAT_BUDGET,
    "w8": Budget(0.01, 0.02, 0.005, elsewhere=0.02),
    "w8a8-dynamic": Budget(0.01, 0.05, 0.005, split=0.25, split_typical=0.05, split_changes=0.15),
    "w8a8": Budget(0.02, 0.05, 0.01),
    "w4": Budget(0.1, 0.1, 0.05, scale=0.2, offset=0.03, elsewhere=0.02, wrong_value=0.8),
    "bf16": Budget(0.02, 0.05, 0.01, scale=0.02, offset=0.01, repeat=0.1, split=0.1, typical=0.02, split_typical=0.02),
    "int8-activations": Budget(0.01, 0.05, 0.005, typical=0.005, split_typical=0.005),
}
"""By quantization scheme what a bundle may lose; "float32" is a bundle whose pool alone is quantized. The last two are
precisions that a runtime is asked for (causalrn/bundle/precisions.py), whatever the bundle is.

Limits of scale and offset are five times and more what trained models show, `split` of w8a8-dynamic twice the furthest
of all calls, `split_typical` three times, `split_changes` one and a half times (docs/quantization.md has the
measurements).
"""


def wider_budget(one: Budget | None, other: Budget) -> Budget:
    """What may be lost by two causes at once: of each limit the larger one."""
    if one is None:
        return other
    limits = {field.name: max(getattr(one, field.name), getattr(other, field.name)) for field in fields(Budget)}
    return Budget(**limits)


CHANCE = 3.0
"""Standard errors by which what is measured on a sample may exceed a budget: one good bundle in a thousand does."""

TIE_PROBABILITY = 0.05
"""Two tokens whose exact probabilities differ by no more than this are a tie: any form may prefer either."""

ACCURACY_TIES = 0.002
"""Forms of one model are right on the same strings; a tie between two tokens may tip one in a thousand."""

UNIT_ROUNDOFF = 2.0**-24
"""Largest relative error of rounding once to the nearest float32."""

BOUND_FACTOR = 5.0
"""By how much the error bound of docs/parity.md exceeds the largest rounding error that was drawn."""

LEAST_BOUND = 8 * UNIT_ROUNDOFF
"""A form may always be off by a few roundings of the largest value, however little was drawn."""

LEAST_LOGIT = 1e-20
"""Where no logit is larger, nothing can be compared: relative errors have nothing to refer to."""

LARGEST_BOUND = 0.1
"""Where rounding may move the logits by more, relative to the largest, agreement within the bound says nothing."""

ILL_CONDITIONED_BOUND, ILL_CONDITIONED_JUMP = 1e-4, 30.0
"""A block is ill-conditioned if rounding may move what it writes by more than the first, relative to its largest value,
and by so many times more than what it reads: later blocks only inherit the error."""

FLOAT64_SHARE = 2 * 2.0**-53 / UNIT_ROUNDOFF
"""What float64 rounds away beside float32; twice, for two float64 forms are compared."""

REGRESSION_RELATIVE = 5e-6
"""Same runtime, another machine: instruction sets sum in another order, so golden vectors repeat to this."""
