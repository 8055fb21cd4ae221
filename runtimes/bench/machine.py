"""What a machine can do, in a few constants, and the least time that a call can take there.

Constants are measured by :mod:`causalrn.runtimes.bench.measuring`, never fitted to what they explain, or come from
data sheets for a few devices that people name.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalrn.bundle.json_values import parse_json_object
from causalrn.errors import InputError
from causalrn.runtimes.bench.cost import FLOAT, INTEGER, WIDENED, Call, StepCost

MACHINE_VERSION = 1
_FORMAT = "causalrn-machine"

Curve = tuple[tuple[float, float], ...]
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

    call_s: float
    tensor_s: float
    node_s: float
    weight_bytes_per_s: Curve
    pairs_per_s: Curve


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
    """

    name: str
    source: str
    bytes_per_s: Curve
    exps_per_s: float
    products_per_s: float
    int8_products_per_s: float
    memory_bytes: int | None = None
    flash_bytes: int | None = None
    flash_bytes_per_s: float | None = None
    threads: int = 1
    isa: str = ""
    onnxruntime: OrtRates | None = None

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

    def to_json(self) -> dict[str, Any]:
        """The machine as JSON values: what `--device FILE` reads."""
        return {"report": _FORMAT, "version": MACHINE_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], source: str) -> Machine:
        """Read :meth:`to_json`'s form back; `source` is named in errors.

        Raises:
            InputError: something else, or numbers that are not positive.
        """
        if not isinstance(data, Mapping) or data.get("report") != _FORMAT or data.get("version") != MACHINE_VERSION:
            raise InputError(f"{source}: no machine of this version: write one with `causalrn-export doctor --measure`")
        values = {name: value for name, value in data.items() if name not in ("report", "version")}
        try:
            rates = values.get("onnxruntime")
            if rates is not None:
                values["onnxruntime"] = OrtRates(**_checked(rates, OrtRates))
            return cls(**_checked(values, cls))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"{source}: a malformed machine ({error}): measure it again") from None

    @classmethod
    def load(cls, path: Path) -> Machine:
        """Read what `doctor --measure --json` wrote.

        Raises:
            InputError: a missing or malformed file.
            ConfigError: no JSON.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise InputError(f"{path}: no file that can be read: name a device or a file of doctor --measure") from None
        data = parse_json_object(text, str(path))
        return cls.from_json(data.get("machine", data), str(path))


_LEAST, _MOST = 1e-12, 1e18
"""No constant of a machine lies outside, in seconds, bytes or per second."""


def _checked(values: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Values of fields, each of its field's type; curves as tuples.

    Raises:
        TypeError, ValueError: another type, or a number out of range.
    """
    checked = dict(values)
    for field in dataclasses.fields(kind):
        value: Any = checked.get(field.name)
        wanted = str(field.type)
        if wanted == "Curve":
            checked[field.name] = _curve(value)
        elif wanted == "str":
            if field.name in checked and not (isinstance(value, str) and value.isprintable()):
                raise TypeError(f"{field.name} is no text of a line")
        elif wanted.startswith(("int", "float")) and (value is not None or "None" not in wanted):
            whole = wanted.startswith("int")
            if field.name in checked and (type(value) is not int if whole else type(value) not in (int, float)):
                raise TypeError(f"{field.name} is {value!r}, not a {'whole ' if whole else ''}number")
            if field.name in checked and not _LEAST <= value <= _MOST:
                raise ValueError(f"{field.name} is {value!r}, not a positive number that a machine could have")
    return checked


def _curve(points: Any) -> Curve:
    curve = tuple((float(size), float(rate)) for size, rate in points)
    if not curve or any(low[0] >= high[0] for low, high in itertools.pairwise(curve)):
        raise ValueError("a curve without points in ascending order")
    if not all(_LEAST <= number <= _MOST for point in curve for number in point):
        raise ValueError("a curve with numbers that are not positive, or that no machine could have")
    return curve
