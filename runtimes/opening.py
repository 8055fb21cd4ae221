"""One constructor for all sessions: from a RUN or a bundle and the name of a runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from causalrn.errors import InputError
from causalrn.manifest import Bundle, is_bundle
from causalrn.run_folder import is_run
from causalrn.runtimes.session import Session

RUN_RUNTIMES = ("parallel", "recurrent")
TARGET_RUNTIMES = {"onnx": "onnxruntime", "tensorrt": "tensorrt"}
RUNTIMES = (*RUN_RUNTIMES, *TARGET_RUNTIMES.values())


@dataclass(frozen=True)
class SessionOptions:
    """How a session runs.

    Attributes:
        provider: onnxruntime's execution provider: "cpu", "cuda", ...
        threads: threads inside one operator, of onnxruntime; PyTorch has its own setting, torch.set_num_threads.
        cuda_graph: whether TensorRT replays recorded steps.
        runtime_cache: file in which TensorRT-RTX keeps the kernels that it compiles on this machine.
    """

    provider: str = "cpu"
    threads: int = 1
    cuda_graph: bool = True
    runtime_cache: Path | None = None

    def foreign_to(self, runtime: str) -> str:
        """The first option that is set and means nothing to a runtime, as the command line calls it; "" if none."""
        on_cpu = ("onnxruntime", *RUN_RUNTIMES)
        chosen = {
            "--provider": (("onnxruntime",), self.provider != "cpu"),
            "--threads": (on_cpu, self.threads != 1),
            "--no-cuda-graph": (("tensorrt",), not self.cuda_graph),
            "--runtime-cache": (("tensorrt",), self.runtime_cache is not None),
        }
        return next((name for name, (owners, is_set) in chosen.items() if is_set and runtime not in owners), "")


def open_session(path: Path, runtime: str | None = None, options: SessionOptions | None = None) -> Session:
    """Open a RUN or a bundle.

    Args:
        path: a RUN (`parallel` by default, or `recurrent`) or a bundle (`onnxruntime`, or `tensorrt` for engines).
        runtime: one of :data:`RUNTIMES`; None takes the folder's default.

    Raises:
        InputError: an unknown runtime, or one that cannot run this folder.
        RuntimeUnavailableError: the provider is not there, or this onnxruntime cannot load the bundle.
        ModuleNotFoundError: the runtime's package (torch for a RUN) is not installed.
        BundleError, CheckpointError: the folder is missing or corrupt.
    """
    options = options or SessionOptions()
    if runtime is not None and runtime not in RUNTIMES:
        raise InputError(f"runtime {runtime!r} is unknown: choose one of {', '.join(RUNTIMES)}")
    if not is_bundle(path) and is_run(path):
        choice = _choose(path, runtime, RUN_RUNTIMES, "a RUN")
        if options.foreign_to(choice):
            raise InputError(f"{options.foreign_to(choice)} is not for a RUN ({path}): it runs in PyTorch on the CPU")
        return _torch_session(path, choice)
    bundle = Bundle.open(path)
    _choose(path, runtime, (runtime_of(bundle),), f"a bundle for {bundle.manifest.target}")
    return open_bundle(bundle, options)


def runtime_of(bundle: Bundle) -> str:
    """The runtime that runs a bundle.

    Raises:
        InputError: none does, in this version.
    """
    target = bundle.manifest.target
    if target not in TARGET_RUNTIMES:
        raise InputError(f"{bundle.path}: no runtime of this version runs bundles for {target!r}")
    return TARGET_RUNTIMES[target]


def open_bundle(bundle: Bundle, options: SessionOptions | None = None) -> Session:
    """Open a bundle whose hashes have been checked, in its target's runtime.

    Raises:
        As :func:`open_session`.
    """
    options = options or SessionOptions()
    runtime = runtime_of(bundle)
    foreign = options.foreign_to(runtime)
    if foreign:
        raise InputError(f"{foreign} means nothing to the runtime {runtime}, which runs {bundle.path}: leave it out")
    if runtime == "tensorrt":
        from causalrn.runtimes.trt.trt_session import TensorRTSession

        return TensorRTSession(bundle, cuda_graph=options.cuda_graph, runtime_cache=options.runtime_cache)
    from causalrn.runtimes.ort_session import OnnxRuntimeSession

    return OnnxRuntimeSession(bundle, provider=options.provider, threads=options.threads)


def _choose(path: Path, runtime: str | None, choices: tuple[str, ...], what: str) -> str:
    if runtime is not None and runtime not in choices:
        raise InputError(f"runtime {runtime} does not run {what} ({path}): use {' or '.join(choices)}")
    return runtime or choices[0]


def _torch_session(path: Path, runtime: str) -> Session:
    from causalrn.cell import RecurrentCell
    from causalrn.checkpoint import load_checkpoint
    from causalrn.runtimes.torch_sessions import ParallelSession, RecurrentSession

    checkpoint = load_checkpoint(path)
    if runtime == "parallel":
        return ParallelSession(checkpoint.model, checkpoint.card, checkpoint.sha256)
    return RecurrentSession(RecurrentCell.from_model(checkpoint.model), checkpoint.card, checkpoint.sha256)
