"""Which part of a model suffers most from a scheme: one block or weight quantized at a time, all else in float32."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.calibration.evaluation import Baseline, sqnr_db
from causalrn.calibration.products import unit_of
from causalrn.calibration.schemes import Scheme, quantizable_parts, write_quantized
from causalrn.errors import NonFiniteError
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.parity.comparison import compare_distributions
from causalrn.runtimes.parity.reference import run_in_chunks


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one part alone does to the logits.

    Attributes:
        unit: "blocks.3", "blocks.3.w12", "head", "wte", "pools".
        parts: what was quantized: weights, embedding tables, or the pools.
        kl_divergence: mean KL(float32 || quantized), in nats.
        argmax_changes: share of positions whose most likely token changes, ties not counted.
        sqnr_db: of the logits, in decibel.
    """

    unit: str
    parts: tuple[str, ...]
    kl_divergence: float
    argmax_changes: float
    sqnr_db: float


def units_of(bundle: Bundle, scheme: Scheme, granularity: str) -> dict[str, tuple[str, ...]]:
    """What can be quantized alone, by name, and the parts that it consists of.

    Args:
        granularity: "block" or "tensor".
    """
    units: dict[str, tuple[str, ...]] = {}
    for part in quantizable_parts(bundle, scheme):
        if part not in scheme.keep:
            unit = unit_of(part) if granularity == "block" else part
            units[unit] = (*units.get(unit, ()), part)
    return units


def rank_sensitivity(
    source: Bundle,
    scheme: Scheme,
    baseline: Baseline,
    granularity: str,
    on_unit: Callable[[int], object] = lambda count: None,
) -> list[Sensitivity]:
    """Quantize one part at a time and compare logits, step by step; the most sensitive part first, NaN before all."""
    everything, found = frozenset(quantizable_parts(source, scheme)), []
    for unit, parts in units_of(source, scheme, granularity).items():
        alone = dataclasses.replace(scheme, keep=everything - set(parts))
        found.append(_measure(source, alone, unit, parts, baseline))
        on_unit(1)
    return sorted(found, key=_harm, reverse=True)


def _harm(sensitivity: Sensitivity) -> float:
    kl = sensitivity.kl_divergence
    return kl if math.isfinite(kl) else math.inf


def _measure(source: Bundle, scheme: Scheme, unit: str, parts: tuple[str, ...], baseline: Baseline) -> Sensitivity:
    logits = np.full_like(baseline.own_logits, np.nan)
    with temporary_folder() as folder, contextlib.suppress(NonFiniteError):
        bundle = write_quantized(source, folder, scheme, golden=False)
        with open_bundle(bundle) as session:
            logits = run_in_chunks(session, baseline.tokens, [1] * baseline.tokens.shape[1]).logits
    agreement = compare_distributions(logits, baseline.own_logits)
    return Sensitivity(
        unit, parts, agreement.kl_divergence, agreement.argmax_changes, sqnr_db(baseline.own_logits, logits)
    )
