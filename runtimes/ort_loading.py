"""Graphs of a bundle as onnxruntime's sessions: options, providers, weights behind links, and why one cannot load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.files import WEIGHTS_FILE
from causalrn.bundle.disk.reading import read_input
from causalrn.errors import BundleError, RuntimeUnavailableError
from causalrn.runtimes.checks import shortened
from causalrn.runtimes.onnx_bytes import with_outputs
from causalrn.runtimes.ort_providers import describe_fall_back, use_provider

_REFUSED_FALL_BACK = "fallback to CPU EP has been explicitly disabled"


def session_options(threads: int = 1) -> Any:
    """How all graphs are loaded: quiet, threads inside an operator only."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def load_graph(
    bundle: Bundle,
    file: str,
    provider: str,
    options: Any,
    streams: tuple[str, ...],
    changed: bytes = b"",
) -> Any:
    """Load a graph; `streams` are intermediate values that it should give, too; `changed` is loaded in its place."""
    providers = use_provider(options, provider)
    path = bundle.file(file)
    source: Any = path
    weights = b""
    if streams or changed or _is_linked(bundle, path):
        source = with_outputs(changed or read_graph(bundle, file), streams)
        weights = _hand_over_weights(bundle, options)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # onnxruntime's own classes, RuntimeError and others, by version
        if _REFUSED_FALL_BACK in str(error):
            raise _fall_back_error(bundle, file, provider, source, error) from None
        raise _load_error(bundle, file, provider, error) from None
    del weights  # onnxruntime has copied them
    if providers is not None and providers[0] not in session.get_providers():
        raise RuntimeUnavailableError(
            f"provider {provider} could not start here (onnxruntime fell back to {session.get_providers()[0]}): "
            "check its driver and libraries, or use `provider` cpu"
        )
    return session


def read_graph(bundle: Bundle, file: str) -> bytes:
    """A graph as bytes."""
    return read_input(bundle.file(file), "export the bundle again", BundleError)


def _is_linked(bundle: Bundle, graph: Path) -> bool:
    """Whether links lead from the weights to another folder than from the graph, which onnxruntime refuses."""
    return (
        WEIGHTS_FILE in bundle.manifest.files and bundle.file(WEIGHTS_FILE).resolve().parent != graph.resolve().parent
    )


def _hand_over_weights(bundle: Bundle, options: Any) -> bytes:
    """Let a graph that is given as bytes find its weights, be they a link: their hash has been checked.

    Returns:
        What has to be kept until the session is there.
    """
    content, linked = b"", WEIGHTS_FILE in bundle.manifest.files and bundle.file(WEIGHTS_FILE).is_symlink()
    if linked and hasattr(options, "add_external_initializers_from_files_in_memory"):
        content = read_input(bundle.file(WEIGHTS_FILE), "export the bundle again", BundleError)
        options.add_external_initializers_from_files_in_memory([WEIGHTS_FILE], [content], [len(content)])
    else:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle.path))
    return content


def _fall_back_error(bundle: Bundle, file: str, provider: str, source: Any, error: Exception) -> Exception:
    """A provider that cannot run all of a graph: which nodes it leaves."""
    kept = []

    def options() -> Any:
        changed = session_options()
        if isinstance(source, bytes):
            kept.append(_hand_over_weights(bundle, changed))
        return changed

    left = describe_fall_back(source, provider, options) or shortened(error)
    return RuntimeUnavailableError(
        f"provider {provider} cannot run all of {bundle.path / file}, and never falls back silently: it {left}: "
        "use `provider` cpu"
    )


def _load_error(bundle: Bundle, file: str, provider: str, error: Exception) -> Exception:
    """The file's hash has been checked, so what fails here is most likely the runtime, not the file."""
    reason = shortened(error)
    if "Protobuf parsing failed" in reason:
        return BundleError(f"{bundle.path / file}: not an ONNX graph: export the bundle again")
    if "Deserialize tensor" in reason:  # the message names the tensor
        return BundleError(f"{bundle.path / file}: its weights are cut short or missing: export it again ({reason})")
    if "External data path" in reason:
        return BundleError(
            f"{bundle.path / file}: onnxruntime {onnxruntime.__version__} does not follow the links that its weights "
            "are behind: copy the bundle with its links followed (cp -rL)"
        )
    if provider != "cpu":
        return RuntimeUnavailableError(f"provider {provider} cannot run {bundle.path / file}: {reason}")
    return RuntimeUnavailableError(
        f"onnxruntime {onnxruntime.__version__} cannot load {bundle.path / file} (opset {bundle.manifest.opset}): "
        f"upgrade onnxruntime, or export with an earlier `opset`, from 17 on ({reason})"
    )
