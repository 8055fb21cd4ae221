"""What is summed over pairs, and over which."""

from __future__ import annotations

from typing import NamedTuple


class PairFunction(NamedTuple):
    """F(q_i + k_j) = activation(LN0(q_i + k_j)), or without the norm.

    Attributes:
        activation: "exp", "relu", "elu" or "gelu".
        normalized: whether the root mean square of a pair is taken out of it; pairs come centred.
        eps: of that norm, beside the root; 0 for none.
    """

    activation: str
    normalized: bool
    eps: float = 0.0
