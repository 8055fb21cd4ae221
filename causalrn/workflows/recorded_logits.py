"""Logits that the user's own training code recorded: read, and compared with what each setting gives.

A file holds `tokens`, integers [B, T], and `logits`, [B, T, V]: .npz or .safetensors, told by its content.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from causalrn.bundle.disk.array_files import ARCHIVE, read_archive
from causalrn.bundle.disk.reading import open_input
from causalrn.bundle.disk.tensor_files import read_shapes
from causalrn.bundle.known_by import KnownBy
from causalrn.bundle.tolerances import BOUND_FACTOR, LEAST_BOUND
from causalrn.errors import CausalRNError, CheckpointError, InputError
from causalrn.model.candidates import (
    FINE_OPTIONS,
    as_named,
    differing_options,
    setting_text,
    with_fine_options,
    with_other_heads,
    without_fine_options,
)
from causalrn.model.config import ModelConfig
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.rounding.noise import RoundingNoise
from causalrn.runtimes.snapshot import FloatArray, IntArray
from causalrn.runtimes.torch_sessions import forward_in_batches
from causalrn.workflows.setting_choice import Asked, argument_of

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_HOW = "record it with numpy.savez(file, tokens=..., logits=...)"
_FIRST, _MORE = 1, 8
"""Sequences on which all settings, and the nearest ones, are compared."""
_KEPT = 8
_SEEDS = (1, 2)


@dataclass(frozen=True)
class RecordedLogits:
    """What a file holds.

    Attributes:
        path: the file.
        tokens: int64 [B, T].
        logits: float64 [B, T, V].
        roundoff: of the type that they were recorded in.
    """

    path: Path
    tokens: IntArray
    logits: FloatArray
    roundoff: float

    @property
    def largest(self) -> float:
        """Largest |logit|, which errors are relative to."""
        return float(np.abs(self.logits).max())


def read_recorded_logits(path: Path, config: ModelConfig) -> RecordedLogits:
    """Read a file for a model of these sizes; nothing in it is executed.

    Raises:
        InputError: it is missing, holds something else, or belongs to a model of other sizes.
    """
    with open_input(path, _HOW) as file:
        is_archive = file.read(len(ARCHIVE)) == ARCHIVE
    entries = _read_archive(path) if is_archive else _read_safetensors(path)
    missing = [name for name in ("tokens", "logits") if name not in entries]
    if missing:
        raise InputError(f"{path}: no entry {missing[0]}: {_HOW}")
    tokens, logits = entries["tokens"], entries["logits"]
    whole = tokens.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
    if not whole or tokens.ndim != 2 or tokens.numel() == 0:
        raise InputError(f"{path}: tokens is {_described(tokens)}, expected integers [B, T]")
    shape = (*tokens.shape, config.vocabulary)
    if logits.dtype not in _FLOATS or logits.shape != shape:
        raise InputError(f"{path}: logits is {_described(logits)}, expected floating-point {list(shape)}")
    if not torch.isfinite(logits).all() or not logits.any():
        raise InputError(f"{path}: logits hold NaN or infinity, or nothing but zeros: record them again")
    least, most = int(tokens.min()), int(tokens.max())
    if least < 0 or most >= config.vocabulary:
        raise InputError(f"{path}: token ids from {least} to {most}, the vocabulary is {config.vocabulary}")
    if config.capacity is not None and tokens.shape[1] > config.capacity:
        raise InputError(f"{path}: {tokens.shape[1]} tokens per sequence, the model has {config.capacity} positions")
    return RecordedLogits(path, tokens.long().numpy(), logits.double().numpy(), torch.finfo(logits.dtype).eps)


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _read_archive(path: Path) -> dict[str, Tensor]:
    arrays = read_archive(path, ("tokens", "logits"), _HOW)
    try:
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    except TypeError:  # such as long double, which PyTorch does not have
        kinds = " and ".join(f"{name} is {array.dtype}" for name, array in arrays.items())
        raise InputError(f"{path}: {kinds}, which PyTorch does not have: {_HOW}") from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with open_input(path, _HOW) as file:
            read_shapes(file)
        return safetensors.torch.load_file(path)
    except (SafetensorError, CausalRNError, ValueError, LookupError, TypeError, OverflowError):
        raise InputError(f"{path}: neither .npz nor .safetensors: {_HOW}") from None


class LogitsMatch:
    """How far each setting's float64 logits are from what was recorded, relative to the largest.

    Args:
        model: with any of the settings.
        advance: called with how many settings were compared, and what is done.
    """

    def __init__(self, model: SequenceModel, recorded: RecordedLogits, advance: Callable[[int, str], object]) -> None:
        self._quick, self._model = model, model.oracle()
        self._recorded = recorded
        self._advance = advance

    def nearest(self, settings: Iterable[ModelConfig]) -> list[tuple[float, ModelConfig]]:
        """The nearest settings with their errors, the nearest first.

        More heads, and other values of what changes little, are tried for the nearest ones only.
        """
        near = self._nearest(settings, _FIRST, self._quick)
        near = self._nearest([*near, *(other for one in near for other in with_other_heads(one))], _FIRST)
        fine = self._nearest([other for one in near for other in with_fine_options(one)], _FIRST)
        near = list(dict.fromkeys((*self._nearest(near, _MORE), *self._nearest(fine, _MORE))))
        errors = {one: self._error(one, len(self._recorded.tokens)) for one in near}
        return sorted(((error, one) for one, error in errors.items()), key=lambda pair: pair[0])

    def _nearest(
        self, settings: Iterable[ModelConfig], count: int, model: SequenceModel | None = None
    ) -> list[ModelConfig]:
        errors = {one: self._error(one, count, model) for one in dict.fromkeys(settings)}
        return sorted(errors, key=errors.__getitem__)[:_KEPT]

    def allowed(self, setting: ModelConfig) -> float:
        """What rounding explains, of computing in float32 and of recording, relative to the largest logit."""
        return self._computed(setting) + self._recorded.roundoff

    def alike(self, setting: ModelConfig, allowed: float) -> list[ModelConfig]:
        """Other values of what changes little that these logits allow, too, though float32 ones would tell them.

        Twice the bound apart: else float32 logits, which are off by roundings themselves, would be blamed now and then.
        """
        self._model.set_config(setting)
        tokens = self._recorded.tokens[:_MORE]
        own, told = forward_in_batches(self._model, tokens), 2 * self._computed(setting) * self._recorded.largest
        found = []
        for other in with_fine_options(setting):
            self._model.set_config(other)
            differs = float(np.abs(forward_in_batches(self._model, tokens) - own).max()) > told
            if differs and self._error(other, len(self._recorded.tokens)) <= allowed:
                found.append(other)
        return found

    def _computed(self, setting: ModelConfig) -> float:
        self._model.set_config(setting)
        tokens = self._recorded.tokens[:_MORE]
        clean, drawn = forward_in_batches(self._model, tokens), 0.0
        for seed in _SEEDS:
            with RoundingNoise(seed):
                drawn = max(drawn, float(np.abs(forward_in_batches(self._model, tokens) - clean).max()))
        return max(BOUND_FACTOR * drawn / self._recorded.largest, LEAST_BOUND)

    def _error(self, setting: ModelConfig, count: int, model: SequenceModel | None = None) -> float:
        """In float64, or with another model that has the same weights."""
        model = model or self._model
        model.set_config(setting)
        self._advance(1, f"{count:,} sequences")
        tokens, logits = self._recorded.tokens[:count], self._recorded.logits[:count]
        error = float(np.abs(forward_in_batches(model, tokens) - logits).max()) / self._recorded.largest
        return math.inf if math.isnan(error) else error


def choose_by_logits(
    match: LogitsMatch,
    near: Sequence[tuple[float, ModelConfig]],
    recorded: RecordedLogits,
    asked: Asked,
    usual: ModelConfig,
) -> tuple[ModelConfig, KnownBy]:
    """The setting that gives the recorded logits.

    Args:
        near: what :meth:`LogitsMatch.nearest` gave.
        usual: what is named, the rest as usual: where that is forced.

    Raises:
        CheckpointError: none does, several do, or what is named does not.
    """
    error, best = near[0]
    allowed = match.allowed(best)
    if not error <= allowed:
        fine = "; or name `eps`" if any(hasattr(best, name) for name in FINE_OPTIONS) else ""
        raise CheckpointError(
            f"{recorded.path}: no setting gives these logits: the nearest, {setting_text(best)}, is {error:.1e} of the "
            f"largest off, rounding explains {allowed:.1e}: record them from these very weights, in evaluation mode, "
            f"in float32 or float64 without TF32 or autocast{fine}"
        )
    agreeing = [one for other, one in near if other <= match.allowed(one)]
    fitting = [one for one in agreeing if as_named(one, asked.named) is not None]
    if not fitting:
        return _contradicted(_plainest(agreeing), recorded, asked, usual)
    kinds = {without_fine_options(one): one for one in fitting}
    if len(kinds) > 1:
        one, other = list(kinds.values())[:2]
        raise CheckpointError(
            f"{recorded.path}: {setting_text(one)} and {setting_text(other)} both give these logits: record longer "
            f"sequences, or name {asked.arguments(differing_options(one, other))}"
        )
    chosen = _plainest(fitting)
    setting = as_named(chosen, asked.named)
    assert setting is not None
    error = next(other for other, one in near if one == chosen)
    runner_up = next(
        ((far, one) for far, one in near if without_fine_options(one) not in kinds and math.isfinite(far)), None
    )
    name, count = recorded.path.name, len(recorded.tokens)
    note = _open_text(chosen, match.alike(chosen, allowed))
    far, text = (None, "") if runner_up is None else (runner_up[0], setting_text(runner_up[1]))
    return setting, KnownBy("recorded logits", name, count, runner_up=text, margin=far, error=error, note=note)


def _plainest(settings: Sequence[ModelConfig]) -> ModelConfig:
    """Of settings that rounding does not tell apart the one without fine options, else the first, the nearest."""
    return next((one for one in settings if one == without_fine_options(one)), settings[0])


def _open_text(chosen: ModelConfig, alike: Sequence[ModelConfig]) -> str:
    """What stays open, in words; empty where nothing does."""
    words = []
    for name in dict.fromkeys(name for other in alike for name in differing_options(chosen, other)):
        values = sorted({getattr(one, name) for one in (chosen, *alike)})
        if name in FINE_OPTIONS:
            words.append(f"{argument_of(name)} {values[0]:g} to {values[-1]:g}")
        else:
            words.append(f"{name} {' or '.join(values)}")
    return f"{' and '.join(words)} all give these logits: record them in float32" if words else ""


def _contradicted(
    best: ModelConfig, recorded: RecordedLogits, asked: Asked, usual: ModelConfig
) -> tuple[ModelConfig, KnownBy]:
    if not asked.force:
        raise CheckpointError(
            f"{recorded.path}: these logits are those of {setting_text(best)}: {asked.remedy(best)}, or use "
            "`force` to convert all the same"
        )
    note = f"{setting_text(usual)} was forced, although {recorded.path.name} holds the logits of {setting_text(best)}"
    return usual, KnownBy("assumed", note=note)
