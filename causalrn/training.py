"""Training in parallel mode on a task: Adam, warm-up, cosine decay, cross entropy where the task has targets."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional

from causalrn.config import ModelConfig
from causalrn.errors import TrainingError
from causalrn.model import CausalRN
from causalrn.tasks import IGNORE, CopyTask, IntArray

_FINAL_RATE = 0.1
_CLIP_NORM = 1.0


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        steps: optimizer steps.
        batch: strings per step.
        learning_rate: peak, reached after `warmup` steps, decaying as a cosine to a tenth of it.
        warmup: steps of linear warm-up.
        seed: of weights and data.
        device: a torch device name.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 50
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise TrainingError(f"learning rate is {self.learning_rate}: it must be above 0")
        if self.seed < 0 or self.warmup < 0:
            raise TrainingError("seed and warm-up must be 0 or more")

    def rate_at(self, step: int) -> float:
        """Learning rate of the given step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (_FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True)
class Preset:
    """A size of model with the settings that train it on copying: E = H = `width`."""

    width: int
    blocks: int
    batch: int
    learning_rate: float
    steps: int

    def model(self, task: CopyTask, readout: str) -> ModelConfig:
        """The configuration for a task."""
        return ModelConfig(task.vocabulary, self.width, self.width, self.blocks, task.capacity, readout=readout)


PRESETS = {
    "tiny": Preset(width=64, blocks=4, batch=64, learning_rate=2e-3, steps=400),
    "small": Preset(width=128, blocks=6, batch=64, learning_rate=1e-3, steps=1000),
    "paper": Preset(width=192, blocks=12, batch=320, learning_rate=5e-4, steps=2000),
}


@dataclass(frozen=True)
class TrainingStep:
    """What one optimizer step gave: `step` counts from 1, `loss` is nats per target token."""

    step: int
    loss: float
    learning_rate: float


def choose_device(name: str) -> str:
    """Turn "auto" into "cuda" where torch finds a GPU, else "cpu"; other names are checked.

    Raises:
        TrainingError: torch does not know the device or cannot use it here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"device {name!r} cannot be used here ({reason}): use --device auto or cpu") from None
    return name


def train(model: CausalRN, task: CopyTask, settings: TrainingSettings) -> Iterator[TrainingStep]:
    """Train in place, yielding after every step; stop iterating to stop early.

    The model is moved to the settings' device. Same model, settings and thread count: same weights.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    _return_freed_memory()
    model.to(settings.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95))
    rng = np.random.default_rng(settings.seed)
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate_at(step)
        loss = _loss(model, task, task.sample(rng, settings.batch))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP_NORM)
        optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"the loss became {value} at step {step + 1}: lower the learning rate")
        yield TrainingStep(step + 1, value, settings.rate_at(step))


def _return_freed_memory() -> None:
    """Have glibc map large tensors one by one instead of keeping them in its heap.

    glibc before 2.38 does not reuse a freed aligned block for the next request of the same size: with its defaults a
    step of B=32, T=130, H=192, 12 blocks adds 990 MB, with this 280 MB, at the same speed.
    """
    mmap_threshold = -3  # M_MMAP_THRESHOLD in <malloc.h>
    with contextlib.suppress(OSError, AttributeError):  # other C libraries do not have it, and do not need it
        ctypes.CDLL(None).mallopt(mmap_threshold, 2 << 20)


def _loss(model: CausalRN, task: CopyTask, strings: IntArray) -> torch.Tensor:
    device = next(model.parameters()).device
    inputs = torch.from_numpy(task.inputs(strings)).to(device)
    targets = torch.from_numpy(task.targets(strings)).to(device)
    return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
