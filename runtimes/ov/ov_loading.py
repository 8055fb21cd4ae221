"""OpenVINO itself, and graphs of a bundle compiled by it: precision, threads, and why one cannot be compiled."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.precisions import BFLOAT16, INT8_ACTIVATIONS
from causalrn.compiling.processor import processor_family
from causalrn.errors import BundleError, InputError, RuntimeUnavailableError
from causalrn.runtimes.checks import shortened

DEVICE = "CPU"
_TELEMETRY = "openvino_telemetry"
_QUANTIZED_GROUP = "32"
"""Activations that share one scale; OpenVINO's own default on processors that multiply integers."""


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Importing openvino reports the import and keeps an identifier in the user's home, unless this package is absent.

    Where somebody has imported it already it stays.
    """
    if _TELEMETRY in sys.modules:
        yield
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # what import takes for "not installed"
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]


def import_openvino() -> Any:
    """The package.

    Raises:
        RuntimeUnavailableError: it is not installed, or cannot be imported here.
    """
    try:
        with _without_telemetry():
            import openvino
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise
        raise RuntimeUnavailableError(
            "this needs openvino, which is not installed: pip install 'causalrn[openvino]'"
        ) from None
    except (ImportError, OSError) as error:
        raise RuntimeUnavailableError(f"openvino cannot be imported here: {shortened(error)}: reinstall it") from None
    return openvino


@functools.cache
def _core() -> Any:
    """One for the process: it holds plugins, no models."""
    return import_openvino().Core()


def compile_options(precision: str, threads: int) -> dict[str, str]:
    """How all graphs are compiled: one stream, and float32 wherever nothing else was asked for.

    OpenVINO's own defaults are bfloat16 on processors that have it, and activations of 8 bits before MatMulNBits.
    """
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == BFLOAT16 else "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": _QUANTIZED_GROUP if precision == INT8_ACTIVATIONS else "0",
        "INFERENCE_NUM_THREADS": str(threads),
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": "NO",  # sessions of one process would share a core
        # fused subgraphs: in 2026.4.1 making them has ended the process, and every length of a pool has its own code
        "SNIPPETS_MODE": "DISABLE",
    }


def check_precision(bundle: Bundle, precision: str) -> None:
    """Refuse a precision that this processor or this bundle does not have: OpenVINO would take float32 without a word.

    Raises:
        RuntimeUnavailableError: the processor has no bfloat16, or multiplies no integers.
        InputError: activations of 8 bits, for a bundle whose weights are not stored in 8 or 4 bits.
    """
    if precision == BFLOAT16 and "BF16" not in _core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeUnavailableError(
            "`precision` bf16: OpenVINO has no bfloat16 on this processor, and would compute in float32: leave it out"
        )
    if precision != INT8_ACTIVATIONS:
        return
    quantization = bundle.manifest.quantization
    if quantization is None or quantization.form != "nbits":
        raise InputError(
            f"`precision` int8-activations is for weights of 8 or 4 bits (scheme w8 or w4, form nbits), which "
            f"{bundle.path} does not have: quantize it first, or leave it out"
        )
    if "VNNI" not in processor_family():
        raise RuntimeUnavailableError(
            "`precision` int8-activations: OpenVINO rounds activations on processors with VNNI alone, and would "
            "compute in float32 here: leave it out"
        )


def compile_graph(
    bundle: Bundle, file: str, options: Mapping[str, str], streams: Sequence[str] = (), batch: int | None = None
) -> Any:
    """Compile a graph.

    Args:
        options: of :func:`compile_options`.
        streams: intermediate values that it should give, too.
        batch: the only number of sequences that it is for: shapes that are known are faster; None leaves it open.

    Raises:
        BundleError: no ONNX graph, or weights that are not there.
        RuntimeUnavailableError: this OpenVINO cannot take it.
    """
    openvino, path = import_openvino(), bundle.file(file)
    if bundle.manifest.is_ort_format:
        raise BundleError(f"{path}: a graph in onnxruntime's own format, which OpenVINO does not read: use onnxruntime")
    try:
        model = _core().read_model(str(path))
        if streams:
            model.add_outputs(list(streams))
        if batch is not None:
            model.reshape({value.any_name: _closed(value.partial_shape, batch) for value in model.inputs})
        return _core().compile_model(model, DEVICE, dict(options))
    except Exception as error:  # OpenVINO raises RuntimeError for everything
        reason = shortened(error)
        if "external data" in reason.lower() or "parsing" in reason.lower() or "parse" in reason.lower():
            raise BundleError(f"{path}: the graph or its weights are damaged: export it again ({reason})") from None
        raise RuntimeUnavailableError(
            f"OpenVINO {openvino.__version__} cannot compile {path} (opset {bundle.manifest.opset}): upgrade "
            f"openvino, or use onnxruntime ({reason})"
        ) from None


def _closed(shape: Any, batch: int) -> list[int]:
    """A shape whose only open dimension is the batch."""
    return [batch if size.is_dynamic else size.get_length() for size in shape]
