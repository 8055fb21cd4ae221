"""Training in several processes: who this one is, and what they tell each other. Started by torchrun."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from causalrn.errors import TrainingError

_PATIENCE = timedelta(minutes=30)
"""How long the others wait while the first process evaluates."""


@dataclass(frozen=True)
class Processes:
    """All processes of a training, as seen from one of them; a single process is `Processes()`.

    Attributes:
        rank: which one this is; 0 evaluates, reports and writes.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that reports and writes."""
        return self.rank == 0

    def sum(self, value: float, device: str) -> float:
        """The sum of a number over all processes."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return float(total)

    def from_first(self, value: bool, device: str) -> bool:
        """What the first process says."""
        if self.size == 1:
            return value
        flag = torch.tensor(float(value), device=device)
        dist.broadcast(flag, 0)
        return bool(flag)


def _is_lost_process(error: RuntimeError) -> bool:
    """Whether an error says that another process cannot be reached any more."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))


def local_device(device: str) -> str:
    """The device for this process: with several processes and "cuda", each its own GPU."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


@contextlib.contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the other processes that torchrun started, if it did; they are left at the end.

    Args:
        device: where gradients are; it decides between the backends nccl and gloo.

    Raises:
        TrainingError: the environment is not torchrun's, or this PyTorch cannot do it.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Processes()
        return
    if not dist.is_available():
        raise TrainingError("this PyTorch was built without torch.distributed: train in one process")
    try:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise TrainingError(f"cannot join the other processes ({error}): start with torchrun") from None
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
        dist.barrier()  # nobody leaves while the first one still writes
    except RuntimeError as error:
        if not _is_lost_process(error):
            raise
        raise TrainingError(
            "another process of this training ended: see its message, then `resume` the training"
        ) from None
    finally:
        dist.destroy_process_group()
