"""One constructor for all sessions: from a RUN or a bundle and the name of a runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from causalrn.bundle.bundle_folder import Bundle, is_bundle
from causalrn.errors import InputError
from causalrn.runtimes.session import Session
from causalrn.training.checkpoint_folder import is_run

RUN_RUNTIMES = ("parallel", "recurrent")
TARGET_RUNTIMES = {"onnx": "onnxruntime", "tensorrt": "tensorrt", "c": "native", "web": "node"}
RUNTIMES = (*RUN_RUNTIMES, *TARGET_RUNTIMES.values())
WITHOUT_THREADS = ("tensorrt", "node")
"""Runtimes that have no threads inside an operator."""


@dataclass(frozen=True)
class SessionOptions:
    """How a session runs.

    Attributes:
        provider: onnxruntime's execution provider: "cpu", "cuda", ...
        threads: inside one operator of onnxruntime, or for a step or prefill in C; PyTorch has its own setting,
            torch.set_num_threads.
        cuda_graph: whether TensorRT replays recorded steps.
        runtime_cache: file in which TensorRT-RTX keeps the kernels that it compiles on this machine.
    """

    provider: str = "cpu"
    threads: int = 1
    cuda_graph: bool = True
    runtime_cache: Path | None = None

    def check_for(self, runtime: str, path: Path) -> None:
        """Refuse options that mean nothing to a runtime.

        Raises:
            InputError: one is set that is another runtime's.
        """
        chosen = {
            f"--provider {self.provider}": ("onnxruntime", self.provider != "cpu"),
            f"--threads {self.threads}": ("onnxruntime", self.threads != 1 and runtime in WITHOUT_THREADS),
            "--no-cuda-graph": ("tensorrt", not self.cuda_graph),
            "--runtime-cache": ("tensorrt", self.runtime_cache is not None),
        }
        for option, (owner, is_set) in chosen.items():
            if is_set and owner != runtime:
                where = "in PyTorch on the CPU" if runtime in RUN_RUNTIMES else f"in {runtime}"
                raise InputError(f"{option} is {owner}'s, and {path} runs {where}: leave it out")


def open_session(path: Path, runtime: str | None = None, options: SessionOptions | None = None) -> Session:
    """Open a RUN or a bundle.

    Args:
        path: a RUN (`parallel` by default, or `recurrent`) or a bundle (`onnxruntime`, `tensorrt` for engines, `native`
            for C, `node` for the web).
        runtime: one of :data:`RUNTIMES`; None takes the folder's default.

    Raises:
        InputError: an unknown runtime, or one that cannot run this folder.
        RuntimeUnavailableError: the provider, C compiler or node is not there, or this onnxruntime cannot load the
            bundle.
        ModuleNotFoundError: the runtime's package (torch for a RUN) is not installed.
        BundleError, CheckpointError: the folder is missing or corrupt.
    """
    options = options or SessionOptions()
    if runtime is not None and runtime not in RUNTIMES:
        raise InputError(f"runtime {runtime!r} is unknown: choose one of {', '.join(RUNTIMES)}")
    if not is_bundle(path) and is_run(path):
        choice = _choose(path, runtime, RUN_RUNTIMES, "a RUN")
        options.check_for(choice, path)
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
    options.check_for(runtime, bundle.path)
    if runtime == "tensorrt":
        from causalrn.runtimes.trt.trt_session import TensorRTSession

        return TensorRTSession(bundle, cuda_graph=options.cuda_graph, runtime_cache=options.runtime_cache)
    if runtime == "native":
        from causalrn.runtimes.native.native_session import NativeSession

        return NativeSession(bundle, threads=options.threads)
    if runtime == "node":
        from causalrn.runtimes.web.node_session import NodeSession

        return NodeSession(bundle)
    from causalrn.runtimes.ort_session import OnnxRuntimeSession

    return OnnxRuntimeSession(bundle, provider=options.provider, threads=options.threads)


def _choose(path: Path, runtime: str | None, choices: tuple[str, ...], what: str) -> str:
    if runtime is not None and runtime not in choices:
        raise InputError(f"runtime {runtime} does not run {what} ({path}): use {' or '.join(choices)}")
    return runtime or choices[0]


def _torch_session(path: Path, runtime: str) -> Session:
    from causalrn.model.cell import RecurrentCell
    from causalrn.runtimes.torch_sessions import ParallelSession, RecurrentSession
    from causalrn.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    if runtime == "parallel":
        return ParallelSession(checkpoint.model, checkpoint.card, checkpoint.sha256)
    return RecurrentSession(RecurrentCell.from_model(checkpoint.model), checkpoint.card, checkpoint.sha256)
