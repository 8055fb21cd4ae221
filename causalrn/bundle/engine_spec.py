"""What the manifest of an engine bundle says of its TensorRT engines. Needs neither torch nor TensorRT."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from causalrn.bundle import trt_flavors
from causalrn.bundle.state_spec import StateSpec

FLAVORS = tuple(trt_flavors.FLAVORS)
"""Names that a manifest may hold."""

Range = tuple[int, int, int]
"""Smallest, most likely and largest size of a dimension."""


@dataclass(frozen=True)
class Profile:
    """Sizes that an engine was compiled for: an optimization profile of TensorRT, by the dimensions of the contract.

    Attributes:
        batch: B, number of sequences.
        time: T, tokens per call.
        rows: of the pools that are handed in, a step's zero slot included; (0, 0, 0) where the state has none.
    """

    batch: Range
    time: Range
    rows: Range

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("time", 1), ("rows", 0)):
            sizes = getattr(self, name)
            if len(sizes) != 3 or not all(type(size) is int for size in sizes):
                raise ValueError(f"a profile's {name} is {sizes!r}, not three integers")
            if not least <= sizes[0] <= sizes[1] <= sizes[2]:
                raise ValueError(f"a profile's {name} is {'/'.join(map(str, sizes))}: not in ascending order")

    def holds(self, *, batch: int, time: int, rows: int) -> bool:
        """Whether a call of these sizes fits."""
        sizes = ((self.batch, batch), (self.time, time), (self.rows, rows))
        return all(low <= size <= high for (low, _, high), size in sizes)

    def input_shapes(self, spec: StateSpec, which: int) -> dict[str, tuple[int, ...]]:
        """Shapes of a graph's inputs, for the smallest (0), most likely (1) or largest (2) sizes."""
        batch, time, rows = (sizes[which] for sizes in (self.batch, self.time, self.rows))
        state = {tensor.input: tensor.given(batch=batch, rows=rows) for tensor in spec.tensors}
        return {"tokens": (batch, time), "position": (), **state}

    def describe(self) -> str:
        """The sizes in words, e.g. "1 sequence, 1 token, 1 to 128 rows (best 64)"."""
        counted = {"sequence": self.batch, "token": self.time, "row": self.rows}
        return ", ".join(_words(name, sizes) for name, sizes in counted.items() if sizes[2])


@dataclass(frozen=True)
class EngineSpec:
    """How a bundle's engines were compiled.

    Attributes:
        flavor: one of :data:`FLAVORS`.
        version: of TensorRT: another one cannot read the engines.
        source_sha256: hash of the ONNX bundle.
        onnx_sha256: of each graph's ONNX file, by the graph's name.
        profiles: of each graph's engine, by the graph's name, in the order of the engine's optimization profiles.
        tf32: whether float32 products may be rounded to TF32 (10 bits of mantissa instead of 23).
        compute_capabilities: that the engines run on; none means what the flavor targets by default.
        options: further builder options that were not left to their defaults.
    """

    flavor: str
    version: str
    source_sha256: str
    onnx_sha256: Mapping[str, str]
    profiles: Mapping[str, tuple[Profile, ...]]
    tf32: bool = False
    compute_capabilities: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.flavor not in FLAVORS:
            raise ValueError(f"engine flavor {self.flavor!r} is unknown")
        if self.profiles.keys() != self.onnx_sha256.keys() or not all(self.profiles.values()):
            raise ValueError("an engine without profiles")

    def check_fits(self, state: StateSpec, graphs: Iterable[str]) -> None:
        """Check the profiles against the graphs and the state that they are for.

        Raises:
            ValueError: they belong to others.
        """
        if self.profiles.keys() != set(graphs):
            raise ValueError("profiles of other graphs")
        capacity = state.capacity
        for name, profiles in self.profiles.items():
            for profile in profiles:
                if name == "step" and profile.time != (1, 1, 1):
                    raise ValueError("a step's profile for several tokens")
                if not state.has_pool and profile.rows != (0, 0, 0):
                    raise ValueError("a profile with rows of a pool that there is not")
                if state.has_pool and (capacity is None or not profile.rows[2] <= capacity):
                    raise ValueError(f"a profile for {profile.rows[2]} rows, and a pool of {capacity}")

    @property
    def max_batch(self) -> int:
        """Largest number of sequences that every graph takes."""
        return min(max(profile.batch[2] for profile in profiles) for profiles in self.profiles.values())

    def choose(self, graph: str, *, batch: int, time: int, rows: int, exact: bool) -> tuple[int, int] | None:
        """The profile for a call, and the rows to hand in.

        Args:
            rows: that the call needs.
            exact: whether it has to be that many, as for a growing pool; a fixed one may be handed in with more.

        Returns:
            Index and rows; None where there is no profile for it. Where several fit, the one with fewest rows, then
            the one for fewest sequences.
        """
        fitting = []
        for index, profile in enumerate(self.profiles[graph]):
            given = rows if exact else max(rows, profile.rows[0])
            if profile.holds(batch=batch, time=time, rows=given):
                fitting.append((given, profile.rows[2], profile.batch[2], index))
        if not fitting:
            return None
        given, _, _, index = min(fitting)
        return index, given

    def describe(self) -> str:
        """A few words for people."""
        title = trt_flavors.FLAVORS[self.flavor].title
        words = [f"{title} {self.version}", "TF32" if self.tf32 else "no TF32"]
        words += [f"compute capability {', '.join(self.compute_capabilities)}"] if self.compute_capabilities else []
        return ", ".join(words)


def _words(name: str, sizes: Range) -> str:
    low, likely, high = sizes
    shown = f"{low}" if low == high else f"{low} to {high}"
    best = "" if likely == high else f" (best {likely})"
    return f"{shown} {name}{'s' * (high > 1)}{best}"
