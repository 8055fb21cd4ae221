"""One constructor for all sessions: from a checkpoint folder or a bundle, and the name of a runtime."""

from __future__ import annotations

import os
from pathlib import Path

from causalrn.bundle.bundle_folder import Bundle, is_bundle
from causalrn.bundle.conversions import CONVERSIONS
from causalrn.bundle.disk.files import as_path
from causalrn.bundle.disk.wrong_folder import EITHER, describe_wrong
from causalrn.bundle.manifest import Manifest
from causalrn.bundle.precisions import FLOAT32
from causalrn.bundle.targets import Target, checkpoint_runtimes, find_target, runtime_row, runtimes_of_target
from causalrn.errors import BundleError, InputError, NotExecutedError
from causalrn.runtimes.session import Session
from causalrn.runtimes.session_options import SessionOptions
from causalrn.training.checkpoint_folder import is_checkpoint


def open_session(
    path: str | os.PathLike[str],
    runtime: str | None = None,
    *,
    provider: str = "cpu",
    threads: int = 1,
    no_cuda_graph: bool = False,
    runtime_cache: str | os.PathLike[str] | None = None,
    precision: str = FLOAT32,
) -> Session:
    """Open a checkpoint folder or a bundle as a running model with its state.

    Args:
        path: a checkpoint folder (`parallel` by default, or `recurrent`) or a bundle (`onnxruntime` or
            `openvino`, `tensorrt` for engines, `native` for C, `node` for the web); also what `train`, `convert`,
            `export`, ... gave.
        runtime: a name of the table of targets (:mod:`causalrn.bundle.targets`); None takes the folder's default.
        provider: onnxruntime's execution provider, "cpu", "cuda", ...; it never falls back silently.
        threads: inside one operator, or of C; 1 leaves PyTorch's own setting alone.
        no_cuda_graph: of TensorRT, launch a step kernel by kernel.
        runtime_cache: of TensorRT-RTX, file that keeps the kernels compiled for this GPU.
        precision: of OpenVINO, "float32", "bf16" or "int8-activations".

    Returns:
        The session, at position 0 with one sequence; a context manager.

    Raises:
        InputError: an unknown runtime, one that cannot run this folder, or an option that means nothing to it.
        RuntimeUnavailableError: the provider, C compiler or node is not there, or this onnxruntime cannot load the
            bundle.
        BundleError, CheckpointError: the folder is missing or corrupt.
        ModuleNotFoundError: the runtime's package (torch for a checkpoint folder) is not installed.

    Example:
        >>> with open_session("bundle") as session:  # doctest: +SKIP
        ...     logits = session.prefill([[0, 3, 4, 5, 1]])  # [B, T] -> [B, T, V]
        ...     logits = session.step([3])  # [B] -> [B, V]
    """
    cache = None if runtime_cache is None else as_path(runtime_cache, "runtime_cache")
    options = SessionOptions(provider, threads, not no_cuda_graph, cache, precision)
    return open_folder(as_path(path, "path"), runtime, options)


def open_folder(path: Path, runtime: str | None = None, options: SessionOptions | None = None) -> Session:
    """:func:`open_session` with its options as an object."""
    options = options or SessionOptions()
    if runtime is not None:
        runtime_row(runtime)
    if _is_run(path):
        row = runtime_row(_choose(path, runtime, checkpoint_runtimes(), "a checkpoint folder"))
        options.check_for(row, path)
        session: Session = row.load_session()(path, options)
        return session
    bundle = Bundle.open(path)
    possible = runtimes_of_target(target_of(bundle).name)
    return open_bundle(bundle, options, _choose(path, runtime, possible, f"a bundle for {bundle.manifest.target}"))


def default_row(path: Path) -> Target:
    """The row of the table that opens a folder where no runtime is named.

    Raises:
        InputError, BundleError: the folder is neither, or of a kind that this version does not know.
    """
    if _is_run(path):
        return runtime_row(checkpoint_runtimes()[0])
    return find_target(Manifest.read(path).target, path)


def _is_run(path: Path) -> bool:
    """Whether a folder is a RUN; a bundle is not.

    Raises:
        BundleError: it is neither.
    """
    if is_bundle(path):
        return False
    if not is_checkpoint(path):
        raise BundleError(describe_wrong(path, EITHER))
    return True


def target_of(bundle: Bundle, runtime: str | None = None) -> Target:
    """The row of the table that a bundle belongs to: the default runtime's, or another runtime's of the same target.

    Raises:
        InputError: there is none, in this version.
    """
    default = find_target(bundle.manifest.target, bundle.path)
    if runtime is None or runtime == default.runtime:
        return default
    _choose(bundle.path, runtime, runtimes_of_target(default.name), f"a bundle for {default.name}")
    return runtime_row(runtime)


def runtime_of(bundle: Bundle) -> str:
    """Name of the runtime that runs a bundle where none is named.

    Raises:
        InputError: none does, in this version.
    """
    return target_of(bundle).runtime


def open_bundle(bundle: Bundle, options: SessionOptions | None = None, runtime: str | None = None) -> Session:
    """Open a bundle whose hashes have been checked, in its target's runtime, or in another one of the same target.

    Raises:
        As :func:`open_session`.
    """
    options, row = options or SessionOptions(), target_of(bundle, runtime)
    options.check_for(row, bundle.path)
    session: Session = row.load_session()(bundle, options)
    return session


def open_evaluator(bundle: Bundle) -> Session | None:
    """What evaluates a bundle's graphs wherever it is; None where its target has no such thing.

    Raises:
        RuntimeUnavailableError: what reads the graphs is not installed.
        BundleError: they cannot be read.
    """
    row = CONVERSIONS.get(bundle.manifest.target)
    if row is None or not row.evaluator:
        return None
    session: Session = target_of(bundle).load(row.evaluator)(bundle)
    return session


def open_or_evaluate(bundle: Bundle, options: SessionOptions | None = None, runtime: str | None = None) -> Session:
    """Open a bundle in a runtime, or where that cannot run here, in what evaluates its graphs.

    Raises:
        NotExecutedError: there is neither.
        As :func:`open_session` otherwise.
    """
    try:
        return open_bundle(bundle, options, runtime)
    except NotExecutedError:
        session = open_evaluator(bundle)
        if session is None:
            raise
        return session


def _choose(path: Path, runtime: str | None, choices: tuple[str, ...], what: str) -> str:
    if runtime is not None and runtime not in choices:
        raise InputError(f"`runtime` {runtime} does not run {what} ({path}): use {' or '.join(choices)}")
    return runtime or choices[0]
