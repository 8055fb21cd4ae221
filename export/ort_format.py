"""Graphs in onnxruntime's own format, for its reduced builds: optimized ahead, weights inside, and what they need.

A full onnxruntime loads them as it loads ONNX. Builds for phones and boards leave out the ONNX reader and all kernels
that no model uses: the configuration beside the graphs, which its build takes ("include_ops_by_config"), says which
operators and element types these are. Source: onnxruntime's documentation of the ORT format and of reduced builds.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from pathlib import Path

from causalrn.bundle.disk.files import WEIGHTS_FILE
from causalrn.bundle.disk.reading import read_input
from causalrn.bundle.manifest import ORT_SUFFIX, Manifest

OPERATORS_FILE = "required_operators.config"
"""Operators and element types of all graphs, as onnxruntime's build takes them."""


def convert_to_ort_format(folder: Path, manifest: Manifest) -> Manifest:
    """Replace a bundle's ONNX graphs by such in onnxruntime's format, and write which operators they need.

    Only optimizations that hold on every processor are done ahead.

    Returns:
        The manifest that fits; values inside the graphs cannot be shown any more.
    """
    import onnxruntime

    graphs = {}
    for name, graph in manifest.graphs.items():
        graphs[name] = dataclasses.replace(graph, file=Path(graph.file).with_suffix(ORT_SUFFIX).name)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 4
        options.add_session_config_entry("session.save_model_format", "ORT")
        options.optimized_model_filepath = str(folder / graphs[name].file)
        onnxruntime.InferenceSession(folder / graph.file, options, providers=["CPUExecutionProvider"])
    for graph in manifest.graphs.values():
        (folder / graph.file).unlink()
    (folder / WEIGHTS_FILE).unlink(missing_ok=True)
    converted = dataclasses.replace(manifest, graphs=graphs, streams=())
    _write_operators(folder, converted)
    return converted


def _write_operators(folder: Path, manifest: Manifest) -> None:
    from onnxruntime.tools import ort_format_model

    files = sorted(graph.file for graph in manifest.graphs.values())
    log = logging.getLogger("ort_format_model.utils")  # it reports every file
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves files open
            ort_format_model.create_config_from_models([folder / file for file in files], folder / OPERATORS_FILE, True)
    finally:
        log.setLevel(level)
    lines = read_input(folder / OPERATORS_FILE, "export again").decode().splitlines()
    kept = [line for line in lines if line and not line.startswith("#")]  # comments name the folder
    text = "\n".join([f"# Of {', '.join(files)}", *kept, ""])
    (folder / OPERATORS_FILE).write_text(text, encoding="utf-8")
