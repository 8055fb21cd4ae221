"""`bench --predict`: what a token will cost on a device, and what to export for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from causalrn.bundle.bundle_folder import is_bundle
from causalrn.bundle.manifest import Manifest
from causalrn.cli.bench_table import bytes_text, time_text
from causalrn.cli.console import console, write_json
from causalrn.errors import InputError
from causalrn.runtimes.bench.devices import DEVICES, find_device
from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.prediction import Prediction, Variant, advise, predict_all
from causalrn.training.card import read_card
from causalrn.training.checkpoint_folder import CheckpointFolder

_DEPTHS = (16, 128, 1024, 4096)


def list_devices() -> None:
    """Print the devices that have names."""
    for device in DEVICES.values():
        console().print(f"{device.name}: {device.source}", soft_wrap=True)


def predict(folders: Sequence[Path], options: dict[str, Any]) -> None:
    """Print predictions for every folder's model, and write them.

    Raises:
        InputError: an unknown device, or depths that the model does not have.
    """
    models = [(folder, *_model_of(folder)) for folder in folders]
    depths = [_depths(folder, config.capacity, options["depths"]) for folder, config, _ in models]
    machine = _machine(options["device"])
    memory = "" if machine.memory_bytes is None else f", {bytes_text(machine.memory_bytes)} of memory"
    console().print(f"on {machine.name}: {machine.source}{memory}", soft_wrap=True)
    reports = []
    for (folder, config, own), own_depths in zip(models, depths, strict=True):
        capacity = config.capacity
        predictions = predict_all(config, machine, own_depths)
        advice = list(advise(predictions, machine, capacity))
        _print(folder, config.describe(), predictions, own)
        _print_notes(machine, own, predictions, advice)
        model = {"folder": str(folder), "model": config.describe(), "capacity": capacity, "advice": advice}
        reports.append({**model, "predictions": [prediction.to_json() for prediction in predictions]})
    data = {"report": "causalrn-predict", "version": 1, "machine": machine.to_json(), "models": reports}
    write_json(options["json_path"], data)


def _depths(folder: Path, capacity: int | None, asked: Sequence[int]) -> list[int]:
    """What was asked for, or what the model has."""
    if capacity is not None and max(asked, default=0) >= capacity:
        raise InputError(f"{folder}: --depth {max(asked)} is beyond the model's {capacity} positions")
    return sorted(asked) or [depth for depth in _DEPTHS if capacity is None or depth < capacity] or [0]


def _machine(device: str | None) -> Machine:
    """The device that was named, or this machine, measured now."""
    if device is not None:
        return find_device(device)
    from causalrn.runtimes.bench.measuring import measure_machine

    return measure_machine()


@dataclass(frozen=True)
class _Held:
    """What a folder holds: which variant, and where it runs; empty for a RUN, which runs everywhere."""

    variant: Variant
    where: str = ""

    def mark(self, prediction: Prediction, where: str) -> str:
        """A star for what the folder is."""
        return " *" if prediction.variant == self.variant and self.where in ("", where) else ""


def _model_of(folder: Path) -> tuple[Any, _Held]:
    """A model's configuration, and what the folder holds of it."""
    if not is_bundle(folder):
        config = CheckpointFolder.open(folder).card.config
        return config, _Held(Variant.of(config))
    manifest = Manifest.read(folder)
    quantization, config = manifest.quantization, read_card(manifest, str(folder)).config
    scheme, pool8 = ("float32", False) if quantization is None else (quantization.scheme, quantization.pool8)
    where = {"c": "C", "onnx": "onnxruntime"}.get(manifest.target, manifest.target)
    return config, _Held(Variant.of(config, scheme, pool8), where)


def _print(folder: Path, model: str, predictions: Sequence[Prediction], own: _Held) -> None:
    out = console()
    out.print(f"\n{folder}: {model}", soft_wrap=True)
    times = _table("time per token after", *(f"{depth:,}" for depth in predictions[0].native_us))
    sizes = _table("memory", "weights", "per token", "tokens that fit")
    for prediction in predictions:
        name = prediction.variant.name
        for where, by_depth in _times(prediction).items():
            shown = map(time_text, by_depth.values()) if prediction.fits else ["does not fit"]
            times.add_row(f"{name}, {where}{own.mark(prediction, where)}", *shown)
        longest = "any number" if prediction.longest is None else f"{_two_digits(prediction.longest):,}"
        sizes.add_row(name, bytes_text(prediction.weights_bytes), bytes_text(prediction.bytes_per_token), longest)
    out.print(times)
    out.print()
    out.print(sizes)


def _print_notes(machine: Machine, own: _Held, predictions: Sequence[Prediction], advice: Sequence[str]) -> None:
    out = console()
    shown = any(own.mark(prediction, where) for prediction in predictions for where in _times(prediction))
    star = "* what the folder holds" if shown else "nothing is predicted for what the folder itself holds"
    threads = f"{machine.threads} thread{'s' * (machine.threads > 1)}"
    out.print(f"{star}; one sequence, {threads}; memory for the model alone\n", soft_wrap=True)
    how_far = "a first guess, off by up to 2 times" if machine.source.startswith("data sheet") else _HOW_FAR
    out.print(f"times: {how_far}", soft_wrap=True)
    for sentence in advice:
        out.print(sentence, soft_wrap=True)


def _times(prediction: Prediction) -> dict[str, dict[int, float]]:
    """What is predicted, by where it runs."""
    in_ort = {} if prediction.onnxruntime_us is None else {"onnxruntime": prediction.onnxruntime_us}
    return {"C": prediction.native_us, **in_ort}


def _two_digits(number: int) -> int:
    """Rounded down: more digits would promise more than is known."""
    unit = int(10 ** max(0, len(str(number)) - 2))
    return number // unit * unit


_HOW_FAR = (
    "at best; at the paper's size within 1.5 times of what was measured (docs/benchmarks.md), farther off where a step "
    "takes less than 20 us, for there Python's part of it counts"
)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
