"""What the manifest says of graphs that were converted for a runtime of phones and boards. Needs none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ConvertedSpec:
    """How a bundle's graphs were converted.

    Attributes:
        backend: what computes them, by the runtime's own name: "xnnpack", "portable", ...
        precision: of weights and activations: "float32", or the name of a quantized form.
        max_batch: most sequences that its graphs take; None without a bound.
        not_delegated: per graph, by operator, how many nodes the backend leaves to the runtime's own kernels.
    """

    backend: str
    precision: str = "float32"
    max_batch: int | None = None
    not_delegated: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.backend or not self.precision:
            raise ValueError("a converted bundle without backend or precision")
        if self.max_batch is not None and self.max_batch < 1:
            raise ValueError(f"max_batch is {self.max_batch!r}")
        if any(count < 1 for operators in self.not_delegated.values() for count in operators.values()):
            raise ValueError("a number of operators below 1")

    def describe(self) -> str:
        """A few words for people: "xnnpack, float32; 6 operators not delegated"."""
        left = sum(sum(operators.values()) for operators in self.not_delegated.values())
        return f"{self.backend}, {self.precision}" + (f"; {left} operators not delegated" if left else "")


def plain_name(name: str) -> str:
    """The name of an input or output in runtimes whose names are identifiers: "past_00_pool" for "past.00.pool"."""
    return name.replace(".", "_")
