"""Which part of a model suffers most from a scheme: one block or weight quantized at a time, all else in float32."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalrn.calibration.evaluation import Baseline, sqnr_db
from causalrn.calibration.products import unit_of
from causalrn.calibration.schemes import Scheme, weight_names, write_quantized
from causalrn.files import finite
from causalrn.manifest import Bundle
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.parity.comparison import compare_distributions
from causalrn.runtimes.parity.reference import run_in_chunks

POOLS = "pools"
"""The unit that stands for all pools of a `pool8` scheme."""


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one part alone does to the logits.

    Attributes:
        unit: "blocks.3", "blocks.3.w12", "head", or :data:`POOLS`.
        weights: names of the weights that were quantized.
        kl_divergence: mean KL(exact || said), in nats.
        argmax_changes: share of positions whose most likely token changes, ties not counted.
        sqnr_db: of the logits, in decibel.
    """

    unit: str
    weights: tuple[str, ...]
    kl_divergence: float
    argmax_changes: float
    sqnr_db: float

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {**self.__dict__, "weights": list(self.weights), "sqnr_db": finite(self.sqnr_db)}


def units_of(bundle: Bundle, scheme: Scheme, granularity: str) -> dict[str, tuple[str, ...]]:
    """The parts that can be quantized alone, by name, and their weights.

    Args:
        granularity: "block" or "tensor".
    """
    units: dict[str, tuple[str, ...]] = {}
    for weight in weight_names(bundle) if scheme.name != "float32" else ():
        if weight in scheme.keep:
            continue
        unit = unit_of(weight) if granularity == "block" else weight
        units[unit] = (*units.get(unit, ()), weight)
    return {**units, POOLS: ()} if scheme.pool8 else units


def rank_sensitivity(
    source: Bundle,
    scheme: Scheme,
    baseline: Baseline,
    granularity: str,
    on_unit: Callable[[int], object] = lambda count: None,
) -> list[Sensitivity]:
    """Quantize one part at a time and compare logits, step by step; the most sensitive part first."""
    everything, found = frozenset(weight_names(source)), []
    for unit, weights in units_of(source, scheme, granularity).items():
        if unit == POOLS:
            alone = Scheme("float32", pool8=True)
        else:
            alone = dataclasses.replace(scheme, pool8=False, keep=everything - set(weights))
        found.append(_measure(source, alone, unit, weights, baseline))
        on_unit(1)
    return sorted(found, key=lambda sensitivity: -sensitivity.kl_divergence)


def _measure(source: Bundle, scheme: Scheme, unit: str, weights: tuple[str, ...], baseline: Baseline) -> Sensitivity:
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_quantized(source, Path(folder), scheme, golden=False)
        with open_bundle(bundle) as session:
            said = run_in_chunks(session, baseline.tokens, [1] * baseline.tokens.shape[1]).logits
    agreement = compare_distributions(said, baseline.own_logits)
    return Sensitivity(
        unit, weights, agreement.kl_divergence, agreement.argmax_changes, sqnr_db(baseline.own_logits, said)
    )
