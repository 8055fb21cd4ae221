"""An ONNX bundle's graphs to engines, and the manifest of an engine bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.engine_spec import EngineSpec
from causalrn.bundle.graph_files import load_graph
from causalrn.bundle.manifest import Graph, Manifest
from causalrn.bundle.trt_flavors import TensorRT
from causalrn.errors import BundleError, CompileError
from causalrn.export.trt.builder import BuildOptions, build_engine
from causalrn.export.trt.lint import Finding, lint_graph
from causalrn.export.trt.profiles import Sizes, choose_profiles, compiled_state
from causalrn.interrupts import holding_interrupts


def compiled_graphs(source: Bundle) -> tuple[str, ...]:
    """What becomes an engine: a step for one sequence alone is a profile of the step's engine."""
    return tuple(name for name in ("step", "prefill") if name in source.manifest.graphs)


Layers = dict[str, list[dict[str, Any]]]
"""By graph, the layers of the network that an engine was built from."""


def lint_bundle(source: Bundle, compute_capabilities: tuple[str, ...] = ()) -> dict[str, list[Finding]]:
    """By graph, what TensorRT would refuse; graphs without a finding are left out."""
    found = {}
    for name in compiled_graphs(source):
        path = source.file(source.manifest.graphs[name].file)
        try:
            model = load_graph(source, path.name)
        except BundleError:
            raise
        except Exception as error:  # protobuf's, onnx's and Python's own
            reason = " ".join(str(error).split())[:160]
            raise CompileError(
                f"{path}: not an ONNX graph that can be read ({reason}): export the bundle again"
            ) from None
        wanted = {"tokens", "position", *(tensor.input for tensor in source.manifest.state.tensors)}
        if {value.name for value in model.graph.input} != wanted:
            raise CompileError(f"{path}: not the inputs of the manifest: export the bundle again")
        found[name] = lint_graph(model, compute_capabilities)
    return {name: findings for name, findings in found.items() if findings}


def write_engines(
    source: Bundle,
    folder: Path,
    tensorrt: TensorRT,
    sizes: Sizes,
    options: BuildOptions,
    advance: Callable[..., object] = lambda count, note: None,
) -> tuple[Manifest, Layers]:
    """Write the engines of a bundle into an existing folder.

    Args:
        source: an ONNX bundle; only read.
        advance: called with (count, note) for each engine.

    Returns:
        The manifest for :func:`causalrn.bundle.bundle_folder.seal_bundle`, its files not hashed yet, and the
        networks' layers.

    Raises:
        CompileError: as :func:`choose_profiles`; or a graph that TensorRT cannot take.
    """
    profiles = choose_profiles(source, sizes)
    options.check(tensorrt)
    for name, findings in lint_bundle(source, options.compute_capabilities).items():
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise CompileError(f"{source.path}, {name}: {findings[0].describe()}{more}")
    before, state = source.manifest, compiled_state(source, sizes)
    graphs, layers = {}, {}
    for name in compiled_graphs(source):
        advance(0, name)
        with holding_interrupts():  # raised within TensorRT's messages they would be lost
            built = build_engine(tensorrt, source.file(before.graphs[name].file), state, profiles[name], options)
        graphs[name] = Graph(f"{name}.engine", before.graphs[name].pad_rows)
        (folder / graphs[name].file).write_bytes(built.content)
        layers[name] = built.layers
        advance(1, name)
    engine = EngineSpec(
        flavor=tensorrt.flavor.name,
        version=tensorrt.version,
        source_sha256=source.sha256,
        onnx_sha256={name: before.files[before.graphs[name].file].sha256 for name in graphs},
        profiles=profiles,
        tf32=options.tf32,
        compute_capabilities=options.targets,
        options=options.entries(),
    )
    manifest = dataclasses.replace(
        before,
        target="tensorrt",
        state=state,
        graphs=graphs,
        streams=(),
        engine=engine,
        prefill_chunk=sizes.chunk(source),
        created_with={**before.created_with, tensorrt.flavor.module: tensorrt.version},
        files={},
    )
    return manifest, layers
