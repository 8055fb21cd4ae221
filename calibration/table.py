"""The calibration table: what rollouts showed of every tensor, written once, used again, and readable by people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.files import written_file
from causalrn.bundle.json_values import json_text, own_hash, parse_json_object, to_json
from causalrn.bundle.state_spec import StateSpec
from causalrn.calibration.observers import DEFAULT_PERCENTILE, Histogram, HistogramObserver, histogram_limits
from causalrn.calibration.rollouts import BATCH, Prompts, roll_out
from causalrn.calibration.watching import opened_for_watching
from causalrn.errors import CalibrationError, ConfigError
from causalrn.runtimes.session import Array

TABLE_FORMAT = "causalrn-calibration"
_VERSION, _OWN_HASH = 1, "calibration_sha256"


@dataclass(frozen=True)
class Ranges:
    """Smallest and largest value of one tensor at every position, over all rollouts.

    Attributes:
        lowest, highest: by position.
    """

    lowest: tuple[float, ...]
    highest: tuple[float, ...]

    @property
    def largest(self) -> float:
        """Largest |value| at any position."""
        return max(-min(self.lowest), max(self.highest))

    def at(self, position: int) -> float:
        """Largest |value| at a position; negative ones count from the end."""
        return max(-self.lowest[position], self.highest[position])


@dataclass(frozen=True)
class CalibrationTable:
    """What rollouts showed.

    Attributes:
        checkpoint_sha256: of the weights that it belongs to, whatever bundle they were exported to.
        source: where the tokens came from, for people.
        seed: of draws and of sampled steps.
        rollouts: for each, beginning with a reset: sequences, steps, how many tokens were given, and which positions
            were sampled for the histograms.
        activations: by what is multiplied by a weight, a histogram over the sampled steps.
        activation_ranges, states: by tensor, ranges at every position; of a pool, those of the new row.
    """

    checkpoint_sha256: str
    source: str
    seed: int
    rollouts: tuple[Mapping[str, Any], ...]
    activations: Mapping[str, Histogram]
    activation_ranges: Mapping[str, Ranges]
    states: Mapping[str, Ranges]

    @property
    def sequences(self) -> int:
        """How many sequences there were."""
        return sum(int(rollout["sequences"]) for rollout in self.rollouts)

    @property
    def steps(self) -> int:
        """How many steps each sequence had, at most."""
        return max(int(rollout["steps"]) for rollout in self.rollouts)

    def limits(self, method: str, percentile: float = DEFAULT_PERCENTILE) -> dict[str, float]:
        """The largest |value| that int8 should hold of each activation.

        Args:
            method: one of :data:`causalrn.bundle.quantization.CALIBRATION_METHODS`.
            percentile: of the values that are not clipped, for the method of that name.
        """
        largest = {name: self.activation_ranges[name].largest for name in self.activations}
        if method == "minmax":
            return largest
        found = histogram_limits(self.activations, method, percentile)
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
        data = {
            "format": TABLE_FORMAT,
            "version": _VERSION,
            "checkpoint_sha256": self.checkpoint_sha256,
            "source": self.source,
            "seed": self.seed,
            "rollouts": [dict(rollout) for rollout in self.rollouts],
            "activations": {
                name: {
                    "limit": histogram.limit,
                    "counts": histogram.counts.tolist(),
                    "by_position": to_json(self.activation_ranges[name]),
                }
                for name, histogram in self.activations.items()
            },
            "states": to_json(self.states),
        }
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
        try:
            data = parse_json_object(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError, ConfigError):
            raise CalibrationError(f"{path}: no calibration table: name one that `quantize` wrote") from None
        if data.get("format") != TABLE_FORMAT:
            raise CalibrationError(f"{path}: no calibration table: name one that `quantize` wrote")
        if data.get("version") != _VERSION:
            raise CalibrationError(f"{path}: a calibration table of another version: calibrate again")
        if data.get(_OWN_HASH) != own_hash(data, _OWN_HASH):
            raise CalibrationError(f"{path}: content differs from its own SHA-256: calibrate again")
        try:
            return _from_json(data)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CalibrationError(f"{path}: malformed calibration table ({error}): calibrate again") from None


def _from_json(data: Mapping[str, Any]) -> CalibrationTable:
    """Read the JSON values, and check what they mean.

    Raises:
        KeyError, TypeError, ValueError: something is missing, of a wrong type, or cannot be.
    """
    entries, rollouts = data["activations"], tuple(data["rollouts"])
    for rollout in rollouts:
        if not all(type(rollout[key]) is int and rollout[key] > 0 for key in ("sequences", "steps", "given")):
            raise ValueError("a rollout without sequences, steps or given tokens")
    if not rollouts or not entries or type(data["seed"]) is not int:
        raise ValueError("no rollouts, no activations, or no seed")
    if not all(isinstance(data[key], str) for key in ("checkpoint_sha256", "source")):
        raise TypeError("checkpoint_sha256 or source is no text")
    return CalibrationTable(
        data["checkpoint_sha256"],
        data["source"],
        data["seed"],
        rollouts,
        {name: _histogram(name, entry) for name, entry in entries.items()},
        {name: _ranges(name, entry["by_position"]) for name, entry in entries.items()},
        {name: _ranges(name, entry) for name, entry in data["states"].items()},
    )


def _histogram(name: str, data: Mapping[str, Any]) -> Histogram:
    counts, limit = np.array(data["counts"]), float(data["limit"])
    if counts.dtype != np.int64 or counts.ndim != 1 or len(counts) < 4 or len(counts) % 2:
        raise ValueError(f"the histogram of {name} is {counts.dtype} {list(counts.shape)}")
    if counts.min() < 0 or not counts.any() or not 0 < limit <= float(np.finfo(np.float32).max):
        raise ValueError(f"the histogram of {name} has negative counts, none, or limit {limit}")
    return Histogram(counts, limit)


def _ranges(name: str, data: Mapping[str, Any]) -> Ranges:
    both = np.array([data["lowest"], data["highest"]], np.float64)  # fails where they are not equally long
    if both.ndim != 2 or not both.shape[1] or not np.isfinite(both).all() or not (both[0] <= both[1]).all():
        raise ValueError(f"the ranges of {name} are empty, not finite, or upside down")
    return Ranges(tuple(both[0].tolist()), tuple(both[1].tolist()))


def calibrate(
    bundle: Bundle, prompts: Prompts, seed: int = 0, on_steps: Callable[[int], object] = lambda count: None
) -> CalibrationTable:
    """Drive a float32 bundle through prompts and see what its products and its state hold.

    Args:
        on_steps: called with the number of steps after each, for progress bars.
    """
    observer, ranges = HistogramObserver(), _RangeKeeper()
    rollouts: list[dict[str, Any]] = []
    with opened_for_watching(bundle) as (session, names), session.watching(names) as values:
        for step in roll_out(session, prompts, seed):
            if step.rollout == len(rollouts):
                rollouts.append(_describe_rollout(prompts, step.rollout, len(step.tokens)))
            if step.sampled:
                rollouts[-1]["sampled"].append(step.position)
            for name in names:
                ranges.add(name, step.position, values[name])
                if step.sampled:
                    observer.observe(name, values[name])
            for name, value in _new_state(session.spec, values).items():
                ranges.add(name, step.position, value)
            on_steps(1)
    by_name = ranges.by_name()
    return CalibrationTable(
        bundle.manifest.checkpoint_sha256,
        prompts.source,
        seed,
        tuple(rollouts),
        observer.histograms,
        {name: by_name[name] for name in names},
        {name: value for name, value in by_name.items() if name not in names},
    )


def _describe_rollout(prompts: Prompts, rollout: int, sequences: int) -> dict[str, Any]:
    given = prompts.given[rollout * BATCH : rollout * BATCH + sequences]
    return {
        "sequences": sequences,
        "steps": int(given.shape[1]),
        "given": int(given.sum()),
        "sampled": [],
    }


def _new_state(spec: StateSpec, values: Mapping[str, Array]) -> dict[str, Array]:
    """What the step added to the state: the new row of a pool, also of one that comes back whole; else all of it."""
    new = {}
    for tensor in spec.tensors:
        value = values[tensor.output]
        new[tensor.name] = value[-1:] if spec.pool == "concat" else value
    return new


class _RangeKeeper:
    """Smallest and largest values by tensor and position."""

    def __init__(self) -> None:
        self._kept: dict[str, list[tuple[float, float]]] = {}

    def add(self, name: str, position: int, values: Array) -> None:
        """Take in the values of one tensor at one position; positions come in order, again for each rollout."""
        low, high = float(values.min()), float(values.max())
        kept = self._kept.setdefault(name, [])
        if position == len(kept):
            kept.append((low, high))
        else:
            kept[position] = min(kept[position][0], low), max(kept[position][1], high)

    def by_name(self) -> dict[str, Ranges]:
        """All ranges."""
        return {name: Ranges(*(tuple(side) for side in zip(*kept, strict=True))) for name, kept in self._kept.items()}
