"""Predictions on the terminal: times against depth, memory, and what to export."""

from __future__ import annotations

from rich.table import Table

from causalrn.cli.console import console
from causalrn.runtimes.bench.devices import DEVICES
from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.prediction import Prediction
from causalrn.workflows.pages.figures import bytes_text, counted, time_text
from causalrn.workflows.predict import ModelPrediction, PredictResult

_HOW_FAR = (
    "at best; at the paper's size within 1.5 times of what was measured (docs/benchmarks.md), farther off where a step "
    "takes less than 20 us, for there Python's part of it counts"
)


def print_devices() -> None:
    """Print the devices that have names."""
    for device in DEVICES.values():
        console().print(f"{device.name}: {device.source}")


def print_predictions(result: PredictResult) -> None:
    """Print the machine, then tables and advice for every model."""
    machine = result.machine
    memory = "" if machine.memory_bytes is None else f", {bytes_text(machine.memory_bytes)} of memory"
    console().print(f"on {machine.name}: {machine.source}{memory}")
    for model in result.models:
        _print_tables(model)
        _print_notes(model, machine)


def _print_tables(model: ModelPrediction) -> None:
    out = console()
    out.print(f"\n{model.folder}: {model.model}")
    times = _table("time per token after", *(f"{depth:,}" for depth in model.predictions[0].native_us))
    sizes = _table("memory", "weights", "per token", "tokens that fit")
    for prediction in model.predictions:
        name = prediction.variant.name
        for where, by_depth in _times(prediction).items():
            shown = map(time_text, by_depth.values()) if prediction.fits else ["does not fit"]
            star = " *" if model.held.holds(prediction, where) else ""
            times.add_row(f"{name}, {where}{star}", *shown)
        longest = _tokens_that_fit(prediction.longest, model.capacity)
        sizes.add_row(name, bytes_text(prediction.weights_bytes), bytes_text(prediction.bytes_per_token), longest)
    out.print(times)
    out.print()
    out.print(sizes)


def _print_notes(model: ModelPrediction, machine: Machine) -> None:
    out = console()
    shown = any(model.held.holds(each, where) for each in model.predictions for where in _times(each))
    star = "* what the folder holds" if shown else "nothing is predicted for what the folder itself holds"
    out.print(f"{star}; one sequence, {counted(machine.threads, 'thread')}; memory for the model alone\n")
    how_far = "a first guess, off by up to 2 times" if machine.source.startswith("data sheet") else _HOW_FAR
    out.print(f"times: {how_far}")
    for sentence in model.advice:
        out.print(sentence)


def _times(prediction: Prediction) -> dict[str, dict[int, float]]:
    """What is predicted, by where it runs."""
    in_ort = {} if prediction.onnxruntime_us is None else {"onnxruntime": prediction.onnxruntime_us}
    return {"C": prediction.native_us, **in_ort}


def _tokens_that_fit(longest: int | None, capacity: int | None) -> str:
    """How many tokens there is memory for: a model with positions has no more than those."""
    if capacity is not None and (longest is None or longest >= capacity):
        return f"all {capacity:,}"
    return "any number" if longest is None else f"{_two_digits(longest):,}"


def _two_digits(number: int) -> int:
    """Rounded down: more digits would promise more than is known."""
    unit = int(10 ** max(0, len(str(number)) - 2))
    return number // unit * unit


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
