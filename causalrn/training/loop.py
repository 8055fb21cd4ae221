"""Training in parallel mode on a task: Adam, warm-up, cosine decay, cross entropy where the task has targets."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from causalrn.errors import TrainingError
from causalrn.model.config import CausalRNConfig, ModelConfig, TransformerConfig
from causalrn.model.operators.functions import KERNEL_CHOICES
from causalrn.model.operators.kernels import choose_kernel, using_kernel
from causalrn.model.sequence_model import SequenceModel
from causalrn.training.processes import Processes
from causalrn.training.tasks import IGNORE, Examples, Task

PRECISIONS = ("fp32", "bf16")
SCHEDULES = ("cosine", "constant")

_FINAL_RATE = 0.1
_MOST_RATE = 1000.0
_CLIP_NORM = 1.0
_BETAS = (0.9, 0.95)
_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        steps: optimizer steps.
        batch: sequences per step, over all processes.
        accumulate: parts that a step's sequences are taken in, one after the other, to save memory; the gradient is
            the same.
        learning_rate: peak, reached after `warmup` steps.
        schedule: what follows: "cosine" decay to a tenth of the peak, or "constant" (as the paper trains).
        warmup: steps of linear warm-up.
        seed: of weights and data.
        device: a torch device name.
        precision: "fp32", or "bf16": matrix products in bfloat16 by autocast; norms, readouts and weights stay float32.
        compile: run the model through torch.compile.
        threads: of one operation on a CPU; None for what PyTorch is set to.
        kernel: what computes sums over pairs, one of :data:`causalrn.model.operators.functions.KERNEL_CHOICES`.
    """

    steps: int
    batch: int
    learning_rate: float
    accumulate: int = 1
    schedule: str = "cosine"
    warmup: int = 50
    seed: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    compile: bool = False
    threads: int | None = None
    kernel: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TrainingError(f"{name} is {value}: it must be at least 1")
        if self.accumulate > self.batch:
            raise TrainingError(f"accumulate is {self.accumulate}, but there are only {self.batch} sequences per step")
        for name, choices in (("precision", PRECISIONS), ("schedule", SCHEDULES), ("kernel", KERNEL_CHOICES)):
            if getattr(self, name) not in choices:
                raise TrainingError(f"{name} {getattr(self, name)!r} is unknown: choose one of {', '.join(choices)}")
        if not 0 < self.learning_rate <= _MOST_RATE:
            raise TrainingError(f"learning rate is {self.learning_rate}: it must be above 0, at most {_MOST_RATE:g}")
        if self.seed < 0 or self.warmup < 0:
            raise TrainingError("seed and warm-up must be 0 or more")

    def rate_at(self, step: int) -> float:
        """Learning rate of the given step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (_FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True)
class Preset:
    """A size of model and the settings that train it on copying: E = `width`, H = E, or 4 E for a Transformer's MLP."""

    width: int
    blocks: int
    batch: int
    learning_rate: float
    steps: int

    def model(self, task: Task, kind: type[ModelConfig] = CausalRNConfig, **options: Any) -> ModelConfig:
        """The configuration for a task; `options` are further fields of the kind of configuration."""
        width = options.get("embedding", self.width)
        hidden = 4 * width if kind is TransformerConfig else width
        capacity = None if options.get("positions") == "none" else task.capacity
        sizes = {"embedding": width, "hidden": hidden, "blocks": self.blocks, "capacity": capacity}
        return kind(**{"vocabulary": task.vocabulary, **sizes, **options})


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
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0][:60]
        raise TrainingError(f"device {name!r} cannot be used here ({reason}): use `device` auto or cpu") from None
    return name


class _Adam(torch.optim.Adam):
    """Adam without torch.compile: what PyTorch 2.13 wraps its methods in takes two seconds of imports."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class Trainer:
    """Trains a model in place, one optimizer step at a time.

    The sequences of a step depend on the seed and the step only, so a resumed run sees what an uninterrupted one would.
    Same model, settings, processes and thread count: same weights. Other numbers of processes or parts give the same
    gradients up to rounding.

    Args:
        model: in parallel form; moved to the settings' device.
        processes: who takes part; each takes its share of every step's sequences.

    Raises:
        TrainingError: there are fewer sequences per step than processes and parts, or the model is not for compiling.
    """

    def __init__(
        self, model: SequenceModel, task: Task, settings: TrainingSettings, processes: Processes | None = None
    ) -> None:
        self.model, self.task, self.settings = model.to(settings.device).train(), task, settings
        self.processes = processes or Processes()
        shares = self.processes.size * settings.accumulate
        if shares > settings.batch:
            raise TrainingError(
                f"{settings.batch} sequences per step are too few for {self.processes.size} processes "
                f"times accumulate {settings.accumulate}: use a larger `batch`"
            )
        if settings.compile and self._runs_in_tiles():
            raise TrainingError(
                f"compile and {model.config.kind} contradict each other: its pairs run tile by tile, "
                "which torch.compile unrolls for minutes and does not make faster; leave out `compile`"
            )
        self.optimizer = _Adam(model.parameters(), lr=settings.learning_rate, betas=_BETAS, fused=True)
        self.steps_done = 0
        self._parallel: nn.Module = self.model
        self._later: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        if self.processes.size > 1:
            self._parallel = shared = DistributedDataParallel(self.model)
            self._later = shared.no_sync

    def _runs_in_tiles(self) -> bool:
        config = self.model.config
        if not isinstance(config, CausalRNConfig) or config.state_kind != "pool":
            return False
        with using_kernel(self.settings.kernel):
            weight = next(self.model.parameters())
            return choose_kernel(weight.device.type, weight.dtype) == "tiles"

    def step(self) -> TrainingStep:
        """Take one optimizer step.

        Raises:
            TrainingError: the loss or a gradient is no longer finite; the weights are those before the step.
        """
        settings, step = self.settings, self.steps_done
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate_at(step)
        self.model.zero_grad(set_to_none=True)
        examples = self.task.draw("train", settings.batch, settings.seed, step)
        targets = examples.target_count
        *earlier, last = examples.split(self.processes.size)[self.processes.rank].split(settings.accumulate)
        with self._later():  # gradients are exchanged once, with the last part
            loss = sum(self._backward(part, targets) for part in earlier)
        loss = self.processes.sum(loss + self._backward(last, targets), settings.device)
        if not math.isfinite(loss):
            raise TrainingError(f"the loss became {loss} at step {step + 1}: lower the learning rate")
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP_NORM))
        if not math.isfinite(norm):
            raise TrainingError(f"the gradient became {norm} at step {step + 1}: lower the learning rate")
        self.optimizer.step()
        self.steps_done += 1
        return TrainingStep(step + 1, loss, settings.rate_at(step))

    def _backward(self, part: Examples, targets: int) -> float:
        """Gradients of a part of the sequences; returns its share of the mean loss over all `targets`."""
        device = self.settings.device
        inputs, wanted = (torch.from_numpy(tokens).to(device) for tokens in (part.inputs, part.targets))
        mixed = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=self.settings.precision == "bf16")
        with mixed, using_kernel(self.settings.kernel):
            logits = self._compiled(inputs) if self.settings.compile else self._parallel(inputs)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        total = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORE, reduction="sum")
        loss = total / targets
        (loss * self.processes.size).backward()  # type: ignore[no-untyped-call]  # gradients are averaged, not summed
        return loss.item()

    @functools.cached_property
    def _compiled(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The model through torch.compile; what it cannot compile is one clear error."""
        # here, for it takes two seconds to import
        torch.compiler.assume_constant_result(choose_kernel)  # type: ignore[no-untyped-call]
        compiled = torch.compile(self._parallel)

        def run(inputs: torch.Tensor) -> torch.Tensor:
            try:
                logits: torch.Tensor = compiled(inputs)
                return logits
            except torch._dynamo.exc.TorchDynamoException as error:
                reason = str(error).splitlines()[0]
                raise TrainingError(
                    f"torch.compile does not work here ({reason}): install a C++ compiler, or leave out `compile`"
                ) from None

        return run

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that going on needs, as copies by name: weights, Adam's moments, steps done."""
        tensors = {"steps_done": torch.tensor(self.steps_done)}
        for name, parameter in self.model.named_parameters():
            tensors[f"weight.{name}"] = parameter.detach()
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"adam.{key}.{name}"] = value
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from :meth:`state`.

        Raises:
            TrainingError: the tensors belong to another model.
        """
        try:
            steps_done = int(tensors["steps_done"])
            self.model.load_state_dict({n: tensors[f"weight.{n}"] for n, _ in self.model.named_parameters()})
            for name, parameter in self.model.named_parameters():
                moments = {key: tensors[f"adam.{key}.{name}"] for key in _ADAM_STATE}
                if any(value.shape not in ((), parameter.shape) for value in moments.values()):
                    raise RuntimeError(f"{name} has another shape")
                self.optimizer.state[parameter] = {
                    key: value.to(self.settings.device, copy=True) if value.ndim else value.clone()
                    for key, value in moments.items()
                }
        except (KeyError, RuntimeError) as error:
            raise TrainingError(f"the training state belongs to another model ({error})") from None
        self.steps_done = steps_done
