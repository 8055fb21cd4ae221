"""What a machine can do, in a few constants, and the least time that a call can take there.

Constants are measured by :mod:`causalrn.runtimes.bench.measuring`, never fitted to what they explain, or come from
data sheets for a few devices that people name.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from causalrn.bundle.disk.reading import read_json_object
from causalrn.bundle.json_values import from_json
from causalrn.errors import InputError
from causalrn.runtimes.bench.cost import FLOAT, INTEGER, WIDENED, Call, StepCost

MACHINE_VERSION = 1
_FORMAT = "causalrn-machine"

Constant = Annotated[float, msgspec.Meta(ge=1e-12, le=1e18)]
"""In seconds, bytes or per second: no constant of a machine lies outside this range, which is checked in files."""
Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 60)]
Curve = tuple[tuple[Constant, Constant], ...]
"""A rate over a size: (size, rate) in ascending order of sizes."""


def rate_at(curve: Curve, size: float) -> float:
    """A curve's rate at a size: between two points straight in the logarithm of size, outside as at the end."""
    if size <= curve[0][0]:
        return curve[0][1]
    for (low, below), (high, above) in itertools.pairwise(curve):
        if size <= high:
            part = math.log(size / low) / math.log(high / low)
            return below + part * (above - below)
    return curve[-1][1]


@dataclass(frozen=True)
class OrtRates:
    """What onnxruntime takes for the parts of a step, on graphs that hold nothing else.

    Attributes:
        call_s: of a call with a single node.
        tensor_s: of every state tensor that goes in and comes out, on top of that.
        node_s: of a node with next to nothing to do.
        weight_bytes_per_s: of matrix products with a single row, in float32, by the size of all weights.
        pairs_per_s: of an exact readout (pair sum, norm, exp, sum over rows), by the number of elements of a pair sum.
    """

    call_s: Constant
    tensor_s: Constant
    node_s: Constant
    weight_bytes_per_s: Curve
    pairs_per_s: Curve

    def __post_init__(self) -> None:
        """Check the curves.

        Raises:
            ValueError: one whose points do not ascend.
        """
        _check_curve(self.weight_bytes_per_s)
        _check_curve(self.pairs_per_s)


@dataclass(frozen=True)
class CallParts:
    """Seconds of the parts of a call: reading weights, multiplying with them; reading rows, their exps and products."""

    weights: float
    products: float
    rows: float
    row_exps: float
    row_products: float
    exps: float

    @property
    def floor(self) -> float:
        """The least: everything that can go on at once does."""
        return max(self.weights, self.products) + max(self.rows, self.row_exps, self.row_products) + self.exps

    @property
    def expected(self) -> float:
        """What the C cell does: products hide behind their weights; rows are read, then computed with."""
        return max(self.weights, self.products) + self.rows + self.row_exps + self.row_products + self.exps


@dataclass(frozen=True)
class Machine:
    """Constants of a machine, for so many threads.

    Attributes:
        name: what people call it.
        source: where the constants come from.
        bytes_per_s: of reading memory, by the size of what is read again and again.
        exps_per_s: exp(x) in float32 as the C cell computes it.
        products_per_s: multiply-accumulates in float32.
        int8_products_per_s: the same with weights of 8 bits that become floats first.
        memory_bytes: there is; None where that is not known.
        flash_bytes: where weights lie instead of in memory; None where they lie in memory.
        flash_bytes_per_s: of reading them there.
        threads: that were at work.
        isa: vector instructions in use.
        onnxruntime: None where it has not been measured.
        report, version: of the file format: a machine's JSON values are what files hold.
    """

    name: str
    source: str
    bytes_per_s: Curve
    exps_per_s: Constant
    products_per_s: Constant
    int8_products_per_s: Constant
    memory_bytes: Count | None = None
    flash_bytes: Count | None = None
    flash_bytes_per_s: Constant | None = None
    threads: Count = 1
    isa: str = ""
    onnxruntime: OrtRates | None = None
    report: str = _FORMAT
    version: int = MACHINE_VERSION

    def parts_s(self, cost: StepCost, call: Call) -> CallParts:
        """Seconds that each part of a call takes by itself."""
        reading = rate_at(self.bytes_per_s, cost.working_set(call))
        # how fast integers multiply has not been measured: reading them is the bound then
        multiplying = {FLOAT: self.products_per_s, WIDENED: self.int8_products_per_s, INTEGER: math.inf}
        return CallParts(
            weights=cost.weight_bytes / (self.flash_bytes_per_s or reading),
            products=call.batch * call.tokens * cost.products / multiplying[cost.multiplies],
            rows=call.batch * call.rows * cost.row_bytes / reading,
            row_exps=call.batch * call.pairs * cost.row_exps / self.exps_per_s,
            row_products=call.batch * call.pairs * cost.row_products / self.products_per_s,
            exps=call.batch * call.tokens * cost.exps / self.exps_per_s,
        )

    def merged(self, other: Machine) -> Machine:
        """The better of each rate: what was measured twice was slowed down once."""
        curve = dict(self.bytes_per_s)
        for size, rate in other.bytes_per_s:
            curve[size] = max(rate, curve.get(size, 0.0))
        names = ("exps_per_s", "products_per_s", "int8_products_per_s")
        best = {name: max(getattr(self, name), getattr(other, name)) for name in names}
        return dataclasses.replace(self, bytes_per_s=tuple(sorted(curve.items())), **best)

    def __post_init__(self) -> None:
        """Check what a file could get wrong beside types and ranges.

        Raises:
            ValueError: a text of several lines, or a curve whose points do not ascend.
        """
        if not (self.name.isprintable() and self.source.isprintable() and self.isa.isprintable()):
            raise ValueError("a text that is no single line")
        _check_curve(self.bytes_per_s)

    @classmethod
    def load(cls, path: Path) -> Machine:
        """Read a machine from a file: its JSON values, or a report of doctor that holds them.

        Raises:
            InputError: a missing or malformed file, or one of another version.
        """
        data = read_json_object(path, "name a device, or a file that doctor wrote")
        data = data.get("machine", data)
        if not isinstance(data, dict) or (data.get("report"), data.get("version")) != (_FORMAT, MACHINE_VERSION):
            raise InputError(f"{path}: no machine of this version: measure it with doctor")
        return from_json(data, cls, f"{path}: a malformed machine, measure it again", InputError)


def _check_curve(curve: Curve) -> None:
    if not curve or any(low[0] >= high[0] for low, high in itertools.pairwise(curve)):
        raise ValueError("a curve without points in ascending order")
