"""`bench --predict`: what a token will cost on a device, and what to export for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from causalrn.errors import InputError
from causalrn.export.cli.bench_table import bytes_text, time_text
from causalrn.export.cli.console import console, write_json
from causalrn.manifest import Manifest, is_bundle
from causalrn.run_folder import RunFolder
from causalrn.runtimes.bench.devices import DEVICES, find_device
from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.prediction import Prediction, Variant, advise, predict_all

_DEPTHS = (16, 128, 1024, 4096)


def predict(folders: Sequence[Path], options: dict[str, Any]) -> None:
    """Print predictions for every folder's model, and write them.

    Raises:
        InputError: an unknown device, or depths that the model does not have.
    """
    if options["device"] == "list":
        for device in DEVICES.values():
            console().print(f"{device.name}: {device.source}", soft_wrap=True)
        return
    models = [(folder, *_model_of(folder)) for folder in folders]
    depths = [_depths(folder, config.capacity, options["depths"]) for folder, config, _ in models]
    machine = _machine(options["device"])
    console().print(f"on {machine.name}: {machine.source}", soft_wrap=True)
    reports = []
    for (folder, config, own), own_depths in zip(models, depths, strict=True):
        capacity = config.capacity
        predictions = predict_all(config, machine, own_depths)
        advice = list(advise(predictions, machine, capacity))
        _print(folder, config.describe(), predictions, own, advice)
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


def _model_of(folder: Path) -> tuple[Any, Variant]:
    """A model's configuration, and which of its variants the folder holds."""
    if not is_bundle(folder):
        config = RunFolder.open(folder).card.config
        return config, Variant(getattr(config, "readout", config.kind))
    manifest = Manifest.read(folder)
    quantization, config = manifest.quantization, manifest.card.config
    scheme, pool8 = ("float32", False) if quantization is None else (quantization.scheme, quantization.pool8)
    return config, Variant(getattr(config, "readout", config.kind), scheme, pool8)


def _print(folder: Path, model: str, predictions: Sequence[Prediction], own: Variant, advice: Sequence[str]) -> None:
    out = console()
    out.print(f"\n{folder}: {model}", soft_wrap=True)
    times = _table("time per token after", *(f"{depth:,}" for depth in predictions[0].native_us))
    sizes = _table("memory", "weights", "per token", "tokens that fit")
    for prediction in predictions:
        name = prediction.variant.name + (" *" if prediction.variant == own else "")
        times.add_row(f"{name}, C", *map(time_text, prediction.native_us.values()))
        if prediction.onnxruntime_us is not None:
            times.add_row(f"{name}, onnxruntime", *map(time_text, prediction.onnxruntime_us.values()))
        longest = "any number" if prediction.longest is None else f"{prediction.longest:,}"
        sizes.add_row(name, bytes_text(prediction.weights_bytes), bytes_text(prediction.bytes_per_token), longest)
    out.print(times)
    out.print()
    out.print(sizes)
    out.print("* what the folder holds; one sequence, one thread\n")
    for sentence in advice:
        out.print(sentence, soft_wrap=True)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
