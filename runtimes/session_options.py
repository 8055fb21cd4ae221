"""How a session runs: what commands and functions are asked about providers, threads and GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from causalrn.bundle.precisions import FLOAT32, PRECISIONS
from causalrn.bundle.targets import CHECKPOINT, Target, all_targets
from causalrn.errors import InputError

_MOST_THREADS = 256


@dataclass(frozen=True)
class SessionOptions:
    """How a session runs; the table of targets says which field means something to which runtime.

    Attributes:
        provider: onnxruntime's execution provider: "cpu", "cuda", ...
        threads: inside one operator of onnxruntime or PyTorch, or for a step or prefill in C; 1 leaves PyTorch's own
            setting alone.
        cuda_graph: whether TensorRT replays recorded steps.
        precision: what OpenVINO computes in, a key of :data:`causalrn.bundle.precisions.PRECISIONS`.
        runtime_cache: file in which TensorRT-RTX keeps the kernels that it compiles on this machine.

    Raises:
        InputError: a value that cannot be.
    """

    provider: str = "cpu"
    threads: int = 1
    cuda_graph: bool = True
    runtime_cache: Path | None = None
    precision: str = FLOAT32

    def __post_init__(self) -> None:
        threads = self.threads
        if type(threads) is not int or not 1 <= threads <= _MOST_THREADS:
            raise InputError(f"`threads` is {threads!r}: it must be a whole number from 1 to {_MOST_THREADS}")
        if not isinstance(self.provider, str):
            raise InputError(f"`provider` is {self.provider!r}: it must be a name, e.g. 'cpu'")
        if self.precision not in PRECISIONS:
            raise InputError(f"`precision` is {self.precision!r}: choose one of {', '.join(PRECISIONS)}")

    def check_for(self, row: Target, path: Path) -> None:
        """Refuse options that mean nothing to a runtime.

        Raises:
            InputError: one is set that is another runtime's.
        """
        chosen = {
            "provider": (f"`provider` {self.provider}", self.provider != "cpu"),
            "threads": (f"`threads` {self.threads}", self.threads != 1),
            "cuda_graph": ("`no_cuda_graph`", not self.cuda_graph),
            "runtime_cache": ("`runtime_cache`", self.runtime_cache is not None),
            "precision": (f"`precision` {self.precision}", self.precision != FLOAT32),
        }
        for field, (words, is_set) in chosen.items():
            if is_set and field not in row.options:
                owners = [
                    other.runtime for other in all_targets() if field in other.options and other.name != CHECKPOINT
                ]
                where = "in PyTorch on the CPU" if row.name == CHECKPOINT else f"in {row.runtime}"
                raise InputError(f"{words} is {owners[0]}'s, and {path} runs {where}: leave it out")
