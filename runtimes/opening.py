"""One constructor for all sessions: from a RUN or a bundle and the name of a runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from causalrn.errors import InputError
from causalrn.manifest import Bundle, is_bundle
from causalrn.run_folder import is_run
from causalrn.runtimes.session import Session

RUN_RUNTIMES = ("parallel", "recurrent")
TARGET_RUNTIMES = {"onnx": ("onnxruntime",)}
RUNTIMES = (*RUN_RUNTIMES, *(runtime for runtimes in TARGET_RUNTIMES.values() for runtime in runtimes))


@dataclass(frozen=True)
class SessionOptions:
    """How a session runs.

    Attributes:
        provider: onnxruntime's execution provider: "cpu", "cuda", ...
        threads: threads inside one operator, of onnxruntime; PyTorch has its own setting, torch.set_num_threads.
    """

    provider: str = "cpu"
    threads: int = 1


def open_session(path: Path, runtime: str | None = None, options: SessionOptions | None = None) -> Session:
    """Open a RUN or a bundle.

    Args:
        path: a RUN (`parallel` by default, or `recurrent`) or a bundle (`onnxruntime`).
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
        if options.provider != "cpu":
            raise InputError(f"provider {options.provider} is onnxruntime's: a RUN ({path}) runs in PyTorch on the CPU")
        return _torch_session(path, choice)
    bundle = Bundle.open(path)
    target = bundle.manifest.target
    if target not in TARGET_RUNTIMES:
        raise InputError(f"{path}: no runtime of this version runs bundles for {target!r}")
    _choose(path, runtime, TARGET_RUNTIMES[target], f"a bundle for {target}")
    return open_bundle(bundle, options)


def open_bundle(bundle: Bundle, options: SessionOptions | None = None) -> Session:
    """Open a bundle whose hashes have been checked, in its target's runtime."""
    options = options or SessionOptions()
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
