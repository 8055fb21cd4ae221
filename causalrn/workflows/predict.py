"""What a token will cost on a device, and what to export for it, from the device's constants alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalrn.bundle.bundle_folder import is_bundle
from causalrn.bundle.disk.files import as_path
from causalrn.bundle.json_values import to_json
from causalrn.bundle.manifest import Manifest
from causalrn.errors import InputError
from causalrn.model.config import ModelConfig
from causalrn.runtimes.bench.devices import find_device
from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.prediction import Prediction, Variant, advise, predict_all
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.training.card import read_card
from causalrn.training.checkpoint_folder import CheckpointFolder
from causalrn.workflows.arguments import PathLike
from causalrn.workflows.bench_arguments import Counts, Paths, folder_paths, whole_numbers
from causalrn.workflows.saving import JsonReport

_DEPTHS = (16, 128, 1024, 4096)
PREDICT_VERSION = 1


@dataclass(frozen=True)
class Held:
    """What a folder holds: which variant, and where it runs; empty for a checkpoint folder, which runs everywhere."""

    variant: Variant
    where: str = ""

    def holds(self, prediction: Prediction, where: str) -> bool:
        """Whether a prediction, "C" or "onnxruntime", is for what the folder holds."""
        return prediction.variant == self.variant and self.where in ("", where)


@dataclass(frozen=True)
class ModelPrediction:
    """A folder's model on a device.

    Attributes:
        folder: a bundle or a checkpoint folder.
        model: one line for people.
        capacity: most positions; None without a bound.
        advice: what to export, a sentence each.
        predictions: of the variants in which the model could be exported.
        held: what the folder holds.
    """

    folder: Path
    model: str
    capacity: int | None
    advice: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    held: Held


@dataclass(frozen=True)
class PredictResult(JsonReport):
    """Predictions for models on one machine."""

    machine: Machine
    models: tuple[ModelPrediction, ...]

    def to_json(self) -> dict[str, Any]:
        """The predictions as JSON values."""
        head = {"report": "causalrn-predict", "version": PREDICT_VERSION, "machine": to_json(self.machine)}
        return {**head, "models": [_model_json(model) for model in self.models]}


def predict(
    folders: Paths,
    *,
    depth: Counts = (),
    device: PathLike | Machine | None = None,
    progress: Progress = no_progress,
) -> PredictResult:
    """Predict a step's time, the memory and the longest sequence of every folder's model and its variants.

    Args:
        folders: bundles and checkpoint folders.
        depth: tokens before the step; by default 16, 128, 1,024 and 4,096 as far as the model has them.
        device: a name of :data:`causalrn.runtimes.bench.devices.DEVICES`, a file that doctor wrote, or a machine; None
            for this machine, which is then measured for some seconds.
        progress: is told when this machine has been measured.

    Raises:
        InputError: an argument that is wrong, an unknown device, or depths that a model does not have.
        BundleError, CheckpointError: a folder that cannot be opened.
        RuntimeUnavailableError: this machine has no C compiler to measure it with.
    """
    paths, asked = folder_paths(folders), whole_numbers(depth, "depth", 0)
    models = [(path, *_model_of(path)) for path in paths]
    depths = [_depths(path, config.capacity, asked) for path, config, _ in models]
    machine = _machine(device, progress)
    return PredictResult(
        machine,
        tuple(
            _predict(path, config, held, machine, own) for (path, config, held), own in zip(models, depths, strict=True)
        ),
    )


def _predict(path: Path, config: ModelConfig, held: Held, machine: Machine, depths: Sequence[int]) -> ModelPrediction:
    predictions = predict_all(config, machine, depths)
    advice = tuple(advise(predictions, machine, config.capacity))
    return ModelPrediction(path, config.describe(), config.capacity, advice, tuple(predictions), held)


def _depths(folder: Path, capacity: int | None, asked: Sequence[int]) -> list[int]:
    """What was asked for, or what the model has."""
    if capacity is not None and max(asked, default=0) >= capacity:
        raise InputError(f"{folder}: `depth` {max(asked)} is beyond the model's {capacity} positions: ask for less")
    return sorted(asked) or [depth for depth in _DEPTHS if capacity is None or depth < capacity] or [0]


def _machine(device: PathLike | Machine | None, progress: Progress) -> Machine:
    """The device that was named, or this machine, measured now."""
    if isinstance(device, Machine):
        return device
    if device is not None:
        return find_device(str(as_path(device, "device")))
    from causalrn.runtimes.bench.measuring import measure_machine

    with progress("measuring this machine", 1) as advance:
        machine = measure_machine()
        advance(1)
    return machine


def _model_of(folder: Path) -> tuple[ModelConfig, Held]:
    """A model's configuration, and what the folder holds of it."""
    if not is_bundle(folder):
        config = CheckpointFolder.open(folder).card.block_config
        return config, Held(Variant.of(config))
    manifest = Manifest.read(folder)
    quantization, config = manifest.quantization, read_card(manifest, str(folder)).block_config
    scheme = "float32" if quantization is None else quantization.scheme
    pool_dtype = "float32" if quantization is None else quantization.pool_dtype or "float32"
    where = {"c": "C", "onnx": "onnxruntime"}.get(manifest.target, manifest.target)
    return config, Held(Variant.of(config, scheme, pool_dtype), where)


def _model_json(model: ModelPrediction) -> dict[str, Any]:
    """Variants lie flat among their predictions."""
    entries = []
    for prediction in model.predictions:
        values: dict[str, Any] = to_json(prediction)
        entries.append({**values.pop("variant"), **values})
    head = {"folder": str(model.folder), "model": model.model, "capacity": model.capacity, "advice": list(model.advice)}
    return {**head, "predictions": entries}
