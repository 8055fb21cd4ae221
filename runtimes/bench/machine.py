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

from causalrn.errors import InputError
from causalrn.files import parse_json_object
from causalrn.runtimes.bench.cost import Call, StepCost

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
        weight_bytes_per_s: of matrix products with a single row, in float32.
        pairs_per_s: of an exact readout (pair sum, norm, exp, sum over rows), by the number of elements of a pair sum.
    """

    call_s: float
    tensor_s: float
    node_s: float
    weight_bytes_per_s: float
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
    threads: int = 1
    isa: str = ""
    onnxruntime: OrtRates | None = None

    def parts_s(self, cost: StepCost, call: Call) -> CallParts:
        """Seconds that each part of a call takes by itself."""
        reading = rate_at(self.bytes_per_s, cost.working_set(call))
        multiplying = self.int8_products_per_s if cost.widens else self.products_per_s
        return CallParts(
            weights=cost.weight_bytes / reading,
            products=call.batch * call.tokens * cost.products / multiplying,
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
        if data.get("report") != _FORMAT or data.get("version") != MACHINE_VERSION:
            raise InputError(f"{source}: no machine of this version: write one with `causalrn-export doctor --measure`")
        values = {name: value for name, value in data.items() if name not in ("report", "version")}
        try:
            values["bytes_per_s"] = _curve(values["bytes_per_s"])
            rates = values.get("onnxruntime")
            if rates is not None:
                curve = _curve(rates["pairs_per_s"])
                values["onnxruntime"] = OrtRates(**{**rates, "pairs_per_s": curve})
                _check_positive(dataclasses.asdict(values["onnxruntime"]))
            machine = cls(**values)
            _check_positive(dataclasses.asdict(machine))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{source}: a malformed machine ({error}): measure it again") from None
        return machine

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


def _curve(points: Any) -> Curve:
    curve = tuple((float(size), float(rate)) for size, rate in points)
    if not curve or any(low[0] >= high[0] for low, high in itertools.pairwise(curve)):
        raise ValueError("a curve without points in ascending order")
    if not all(math.isfinite(number) and number > 0 for point in curve for number in point):
        raise ValueError("a curve with numbers that are not positive")
    return curve


def _check_positive(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name in ("name", "source", "isa"):
            if not isinstance(value, str):
                raise TypeError(f"{name} is no text")
        elif isinstance(value, bool) or (isinstance(value, (int, float)) and not (math.isfinite(value) and value > 0)):
            raise ValueError(f"{name} is {value!r}, not a positive number")
