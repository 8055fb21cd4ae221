"""What is summed over pairs, and what a norm is: functions as small values."""

from __future__ import annotations

from typing import NamedTuple

KERNEL_CHOICES = ("auto", "tiles", "c", "triton")
"""What may be asked for: a kernel, or the fastest that works here."""


class PairFunction(NamedTuple):
    """f(q_i + k_j) = activation(LN0(q_i + k_j)), or without the norm.

    Attributes:
        activation: "exp", "relu", "elu" or "gelu".
        norm: "layer", "rms" or None.
        eps: of that norm, beside the root; 0 for none.
    """

    activation: str
    norm: str | None
    eps: float = 0.0


class Norm(NamedTuple):
    """LN0 or its RMS variant.

    Attributes:
        centred: LN0.
        eps: beside the root, or 0.
        rescaled: values are positive, and may be so large that their squares overflow.
    """

    centred: bool
    eps: float = 0.0
    rescaled: bool = False
