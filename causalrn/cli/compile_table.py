"""A compilation on the terminal: what was compiled, and for which sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from causalrn.cli.console import console
from causalrn.training.card import card_of
from causalrn.workflows.compile import CompileResult


def print_compiled(result: CompileResult, output: Path) -> None:
    """Print it."""
    manifest, out = result.bundle.manifest, console()
    assert manifest.engine is not None
    size = sum(manifest.files[graph.file].size_bytes for graph in manifest.graphs.values()) / 1e6
    precision = "float32" if manifest.quantization is None else manifest.quantization.describe()
    out.print(f"wrote {output}: {card_of(result.bundle).config.describe()}")
    out.print(f"{manifest.engine.describe()}, {precision}, {size:.2f} MB, built in {result.seconds:.1f} s")
    table = Table("engine", "layers", "compiled for", box=None, padding=(0, 2, 0, 0))
    for row in _rows(result):
        table.add_row(*row)
    out.print(table)
    if not result.has_golden:
        out.print(f"note: {result.source.path} has no golden vectors: `verify` will need --checkpoint")
    out.print(f"compiled, not executed; on the machine with the GPU: causalrn-export verify {output}")


def _rows(result: CompileResult) -> Iterator[tuple[str, ...]]:
    engine = result.bundle.manifest.engine
    assert engine is not None
    for name, profiles in engine.profiles.items():
        for index, profile in enumerate(profiles):
            first = (name, f"{len(result.layers[name])}") if not index else ("", "")
            yield (*first, profile.describe())
