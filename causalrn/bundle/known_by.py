"""How it is known that a model's settings are those it was trained with. Needs no torch.

Weights tell their sizes, not how they are meant: readout, heads, norm and so on. Whoever trains here knows; for weights
from elsewhere a conversion finds out, or assumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

How = Literal["trained here", "recorded logits", "likelihood", "assumed"]


@dataclass(frozen=True)
class KnownBy:
    """How the architecture is known.

    Attributes:
        how: "trained here": this toolkit trained it; "recorded logits": it gives the logits that the user's own code
            recorded; "likelihood": it predicts clearly better than every other setting; "assumed": nobody knows.
        data: what settings were compared on, in words; empty where none were.
        strings: how many sequences that were.
        loss: of likelihood, nats per target token.
        runner_up: the best of the other settings, in words.
        margin: by likelihood, by how many nats per target token it is worse; by recorded logits, how far it is from
            them, relative to the largest.
        interval: half width of the confidence interval of a likelihood's margin.
        error: of recorded logits, largest difference from them, relative to the largest.
        note: why it is assumed, or what stays open.
    """

    how: How
    data: str = ""
    strings: int = 0
    loss: float | None = None
    runner_up: str = ""
    margin: float | None = None
    interval: float | None = None
    error: float | None = None
    note: str = ""

    def describe(self) -> str:
        """One line for people.

        Example:
            >>> KnownBy("assumed", note="it was not tried on any task").describe()
            'assumed: it was not tried on any task'
        """
        parts = []
        if self.error is not None:
            parts.append(f"{self.error:.1e} of the largest off on {self.strings:,} sequences")
            parts += [f"{self.runner_up}: {self.margin:.1e}"] * (self.margin is not None)
        elif self.loss is not None:
            parts.append(f"{self.loss:.4g} nats per token on {self.strings:,} sequences of {self.data}")
            if self.margin is not None:
                parts.append(f"{self.runner_up}: {self.margin:.2g} ± {self.interval or 0:.1g} more")
        what = "; ".join(parts + [self.note] * bool(self.note))
        return f"{self.how}: {what}" if what else self.how


TRAINED_HERE = KnownBy("trained here")


def caution(known_by: KnownBy | None) -> str:
    """What whoever reads a verdict has to know about the architecture; empty where it is known."""
    if known_by is None:
        return (
            "how the architecture is known was not recorded (an earlier version wrote this): take it as assumed, "
            "or `convert` the RUN with recorded logits"
        )
    if known_by.how != "assumed":
        return f"the architecture is known by {known_by.how}, but {known_by.note}" if known_by.note else ""
    return (
        f"the architecture is {known_by.describe()}. That it computes what was assumed is verified, not that the "
        "weights were trained so: `convert` with recorded logits settles it"
    )
