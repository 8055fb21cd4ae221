"""The calibration table: what rollouts showed of every tensor, written once, used again, and readable by people."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.files import written_file
from causalrn.bundle.disk.reading import read_json_object
from causalrn.bundle.json_values import from_json, json_text, own_hash, to_json
from causalrn.bundle.state_spec import StateSpec
from causalrn.calibration.observers import DEFAULT_PERCENTILE, HistogramObserver, histogram_limits
from causalrn.calibration.rollouts import BATCH, Prompts, RolloutStep, roll_out
from causalrn.calibration.table_entries import Activation, Ranges, Rollout
from causalrn.calibration.watching import opened_for_watching
from causalrn.errors import CalibrationError, NonFiniteError
from causalrn.runtimes.snapshot import Array

TABLE_FORMAT = "causalrn-calibration"
_VERSION, _OWN_HASH = 1, "calibration_sha256"


@dataclass(frozen=True, kw_only=True)
class CalibrationTable:
    """What rollouts showed; the fields are the file's entries.

    Attributes:
        checkpoint_sha256: of the weights that it belongs to, whatever bundle they were exported to.
        source: where the tokens came from, for people.
        seed: of draws and of sampled steps.
        rollouts: which there were.
        activations: by the name of what is multiplied by a weight.
        states: ranges by state tensor; of a pool, those of the new row.
        calibration_sha256: of the table's own JSON text without this entry; filled in when it is written.

    Raises:
        ValueError: no rollouts, or no activations.
    """

    format: Literal["causalrn-calibration"] = "causalrn-calibration"
    version: Literal[1] = 1
    checkpoint_sha256: str
    source: str
    seed: int
    rollouts: tuple[Rollout, ...]
    activations: Mapping[str, Activation]
    states: Mapping[str, Ranges]
    calibration_sha256: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.rollouts or not self.activations:
            raise ValueError("no rollouts, or no activations")

    @property
    def sequences(self) -> int:
        """How many sequences there were."""
        return sum(rollout.sequences for rollout in self.rollouts)

    @property
    def steps(self) -> int:
        """How many steps each sequence had, at most."""
        return max(rollout.steps for rollout in self.rollouts)

    @property
    def activation_ranges(self) -> dict[str, Ranges]:
        """Ranges by the name of what is multiplied by a weight."""
        return {name: activation.by_position for name, activation in self.activations.items()}

    def limits(self, method: str, percentile: float = DEFAULT_PERCENTILE) -> dict[str, float]:
        """The largest |value| that int8 should hold of each activation.

        Args:
            method: one of :data:`causalrn.bundle.quantization.CALIBRATION_METHODS`.
            percentile: of the values that are not clipped, for the method of that name.
        """
        largest = {name: ranges.largest for name, ranges in self.activation_ranges.items()}
        if method == "minmax":
            return largest
        histograms = {name: activation.histogram for name, activation in self.activations.items()}
        found = histogram_limits(histograms, method, percentile)
        return {name: min(limit, largest[name]) for name, limit in found.items()}

    def describe(self, method: str, percentile: float) -> dict[str, Any]:
        """What limits by a method rest on, for a bundle's manifest."""
        return {
            "method": method,
            "percentile": percentile if method == "percentile" else None,
            "source": self.source,
            "sequences": self.sequences,
            "steps": self.steps,
        }

    def check_fits(self, bundle: Bundle, path: Path) -> None:
        """Refuse the table of another model.

        Raises:
            CalibrationError: the weights are others.
        """
        if self.checkpoint_sha256 != bundle.manifest.checkpoint_sha256:
            raise CalibrationError(f"{path}: calibrated on other weights than those in {bundle.path}: calibrate again")

    def entries(self) -> dict[str, Any]:
        """The table as JSON values, its own SHA-256 among them."""
        data: dict[str, Any] = to_json(self)
        return data | {_OWN_HASH: own_hash(data, _OWN_HASH)}

    def save(self, path: Path) -> None:
        """Write the table, whole or not at all."""
        with written_file(path) as partial:
            partial.write_text(json_text(self.entries()), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> CalibrationTable:
        """Read a table.

        Raises:
            CalibrationError: the file is missing, changed, of another version, or something else.
        """
        data = read_json_object(path, "name a calibration table that `quantize` wrote", CalibrationError)
        if data.get("format") != TABLE_FORMAT:
            raise CalibrationError(f"{path}: no calibration table: name one that `quantize` wrote")
        if data.get("version") != _VERSION:
            raise CalibrationError(f"{path}: a calibration table of another version: calibrate again")
        if data.get(_OWN_HASH) != own_hash(data, _OWN_HASH):
            raise CalibrationError(f"{path}: content differs from its own SHA-256: calibrate again")
        return from_json(data, cls, f"{path}: malformed calibration table (calibrate again)", CalibrationError)


def calibrate(
    bundle: Bundle, prompts: Prompts, seed: int = 0, on_steps: Callable[[int], object] = lambda count: None
) -> CalibrationTable:
    """Run a float32 bundle through prompts and see what its products and its state hold.

    Args:
        on_steps: called with the number of steps after each, for progress bars.

    Raises:
        NonFiniteError: a value is not finite.
    """
    observer, ranges, sampled = HistogramObserver(), _RangeKeeper(), _SampledPositions()
    with opened_for_watching(bundle) as (session, names), session.watching(names) as values:
        for step in roll_out(session, prompts, seed):
            sampled.add(step)
            for name in names:
                ranges.add(name, step.position, values[name])
                if step.sampled:
                    observer.observe(name, values[name])
            for name, value in _new_state(session.spec, values, step.position).items():
                ranges.add(name, step.position, value)
            on_steps(1)
    by_name = ranges.by_name()
    histograms = {name: observer.histograms[name] for name in names}
    return CalibrationTable(
        checkpoint_sha256=bundle.manifest.checkpoint_sha256,
        source=prompts.source,
        seed=seed,
        rollouts=tuple(_describe_rollout(prompts, index, kept) for index, kept in enumerate(sampled.by_rollout)),
        activations={
            name: Activation(counted.limit, tuple(counted.counts.tolist()), by_name.pop(name))
            for name, counted in histograms.items()
        },
        states=by_name,
    )


def _describe_rollout(prompts: Prompts, index: int, sampled: list[int]) -> Rollout:
    given = prompts.given[index * BATCH : (index + 1) * BATCH]
    return Rollout(len(given), given.shape[1], int(given.sum()), tuple(sampled))


def _new_state(spec: StateSpec, values: Mapping[str, Array], position: int) -> dict[str, Array]:
    """What the step added to the state: the new row of a pool, also of one that comes back whole; else all of it."""
    new = {}
    for tensor in spec.tensors:
        value = values[tensor.output]
        new[tensor.name] = value[position : position + 1] if tensor.is_pool and tensor.update == "replace" else value
    return new


@dataclass
class _SampledPositions:
    """Positions of the sampled steps, by rollout."""

    by_rollout: list[list[int]] = field(default_factory=list)

    def add(self, step: RolloutStep) -> None:
        """Take in a step; rollouts and positions come in order."""
        if step.rollout == len(self.by_rollout):
            self.by_rollout.append([])
        if step.sampled:
            self.by_rollout[-1].append(step.position)


class _RangeKeeper:
    """Smallest and largest values by tensor and position."""

    def __init__(self) -> None:
        self._kept: dict[str, list[tuple[float, float]]] = {}

    def add(self, name: str, position: int, values: Array) -> None:
        """Take in the values of one tensor at one position; positions come in order, again for each rollout."""
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise NonFiniteError(f"{name} is not finite at position {position}: the model cannot be calibrated")
        kept = self._kept.setdefault(name, [])
        if position == len(kept):
            kept.append((low, high))
        else:
            kept[position] = min(kept[position][0], low), max(kept[position][1], high)

    def by_name(self) -> dict[str, Ranges]:
        """All ranges."""
        return {name: Ranges(*(tuple(side) for side in zip(*kept, strict=True))) for name, kept in self._kept.items()}
