"""One compilation as `compile` drives it: check, build, report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.engine_spec import Profile
from causalrn.bundle.files import check_replaceable, written_folder
from causalrn.bundle.json_values import from_json, to_json
from causalrn.bundle.manifest import BUNDLE_MARKER
from causalrn.bundle.trt_flavors import TensorRT, load_flavor
from causalrn.cli.console import console, progress, write_all_json
from causalrn.errors import CompileError, InputError, NotExecutedError
from causalrn.export.trt.builder import BuildOptions
from causalrn.export.trt.engine_writer import GRAPHS, Layers, write_engines
from causalrn.export.trt.profiles import Sizes, choose_profiles, compiled_state
from causalrn.runtimes.parity.golden import GOLDEN_NAME, load_golden
from causalrn.training.card import card_of

REPORT_VERSION = 1


@dataclass(frozen=True)
class Compiled:
    """An engine bundle, and the layers of each graph's network."""

    bundle: Bundle
    layers: Layers


def compile_to(
    path: Path,
    output: Path,
    flavor: str,
    sizes: Sizes,
    options: BuildOptions,
    json_path: Path | None = None,
    layer_info: Path | None = None,
) -> dict[str, Any]:
    """Compile a bundle into a folder, whole or not at all; an earlier bundle there is replaced.

    Returns:
        The report: what was compiled from what, and for which sizes.

    Raises:
        CompileError: TensorRT is not installed; or what it cannot take, with the node's name; or options that
            contradict the bundle.
        InputError: the output is the source or something else.
    """
    check_replaceable(output, BUNDLE_MARKER)
    source = Bundle.open(path)
    if output.resolve() == path.resolve():
        raise InputError(f"{path} is the bundle itself: name another output")
    _check(source, sizes)
    started = time.monotonic()
    try:
        tensorrt = load_flavor(flavor)
        with written_folder(output, BUNDLE_MARKER) as folder, progress("compile", len(GRAPHS)) as advance:
            compiled = compile_bundle(source, folder, tensorrt, sizes, options, advance)
            report = _report(compiled, source, time.monotonic() - started)
            layers = {"report": "causalrn-layers", "version": 1, "graphs": compiled.layers}
            write_all_json([(layer_info, layers), (json_path, report)])
    except NotExecutedError as error:  # nothing has been compiled
        raise CompileError(str(error)) from None
    return report


def compile_bundle(
    source: Bundle,
    folder: Path,
    tensorrt: TensorRT,
    sizes: Sizes,
    options: BuildOptions,
    advance: Callable[..., object] = lambda count, note: None,
) -> Compiled:
    """Write an engine bundle into an existing folder, the source's golden vectors among its files.

    Raises:
        CompileError: as :func:`causalrn.export.trt.engine_writer.write_engines`.
    """
    manifest, layers = write_engines(source, folder, tensorrt, sizes, options, advance)
    if GOLDEN_NAME in source.manifest.files:
        shutil.copyfile(source.file(GOLDEN_NAME), folder / GOLDEN_NAME)
    return Compiled(seal_bundle(folder, manifest), layers)


def _check(source: Bundle, sizes: Sizes) -> None:
    """Refuse what cannot be compiled, or could not be verified."""
    choose_profiles(source, sizes)
    if GOLDEN_NAME not in source.manifest.files:
        return
    steps, most = load_golden(source).reference.steps, compiled_state(source, sizes).capacity
    if most is not None and most < steps:
        raise CompileError(
            f"--profile ends at {most} rows, and the golden vectors of {source.path} have {steps} tokens: end at "
            f"{steps} at least, so that the engines can be verified"
        )


def _report(compiled: Compiled, source: Bundle, seconds: float) -> dict[str, Any]:
    manifest = compiled.bundle.manifest
    assert manifest.engine is not None
    sizes = {name: manifest.files[graph.file].size_bytes for name, graph in manifest.graphs.items()}
    return {
        "report": "causalrn-compile",
        "version": REPORT_VERSION,
        "source": {"path": str(source.path), "sha256": source.sha256},
        "bundle_sha256": compiled.bundle.sha256,
        "model": card_of(compiled.bundle).config.describe(),
        "precision": "float32" if manifest.quantization is None else manifest.quantization.describe(),
        "describe": manifest.engine.describe(),
        "engine": to_json(manifest.engine),
        "size_bytes": sizes,
        "layers": {name: len(layers) for name, layers in compiled.layers.items()},
        "capacity": manifest.state.capacity,
        "seconds": seconds,
        "golden": GOLDEN_NAME in manifest.files,
        "executed": False,
    }


def print_report(report: dict[str, Any], output: Path) -> None:
    """Print what was compiled, and for which sizes."""
    out = console()
    out.print(f"wrote {output}: {report['model']}", soft_wrap=True)
    size = sum(report["size_bytes"].values()) / 1e6
    out.print(
        f"{report['describe']}, {report['precision']}, {size:.2f} MB, built in {report['seconds']:.1f} s",
        soft_wrap=True,
    )
    table = Table("engine", "layers", "compiled for", box=None, padding=(0, 2, 0, 0))
    for row in _rows(report):
        table.add_row(*row)
    out.print(table)
    if not report["golden"]:
        out.print(
            f"note: {report['source']['path']} has no golden vectors: `verify` will need --checkpoint", soft_wrap=True
        )
    out.print(f"compiled, not executed; on the machine with the GPU: causalrn-export verify {output}", soft_wrap=True)


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, profiles in report["engine"]["profiles"].items():
        for index, entry in enumerate(profiles):
            profile = from_json(entry, Profile, "the report")
            first = (name, f"{report['layers'][name]}") if not index else ("", "")
            yield (*first, profile.describe())
