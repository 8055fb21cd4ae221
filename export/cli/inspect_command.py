"""`causalrn-export inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from causalrn.export.cli.console import console, write_json
from causalrn.export.cli.options import PATH, json_option


@click.command(
    epilog="""\b
Examples:
  causalrn-export inspect bundle
  causalrn-export inspect run --json run.json"""
)
@click.argument("folder", type=PATH)
@json_option
def command(folder: Path, json_path: Path | None) -> None:
    """Show what a RUN or a bundle holds: the model, its state, its files. Checks every hash."""
    from rich.table import Table

    from causalrn.manifest import is_bundle

    data = _inspect_bundle(folder) if is_bundle(folder) else _inspect_run(folder)
    out = console()
    for title in ("about", "model"):
        out.print(title, style="bold")
        table = Table(show_header=False, box=None, padding=(0, 1))
        table.add_column(overflow="fold")
        table.add_column(overflow="fold")
        for key, value in data[title].items():
            table.add_row(key, _text(value))
        out.print(table)
        out.print()
    out.print(data["state"]["title"], style="bold", soft_wrap=True)
    state = Table("tensor", "shape", "update", box=None, padding=(0, 2, 0, 1))
    for row in data["state"]["rows"]:
        state.add_row(*row)
    out.print(state)
    memory = ", ".join(f"{tokens}: {size / 1e3:,.1f} kB" for tokens, size in data["state"]["bytes"].items())
    out.print(f"state bytes by tokens seen (batch 1): {memory}", soft_wrap=True)
    write_json(json_path, {"report": "causalrn-inspect", "version": 1, **data})


def _inspect_bundle(folder: Path) -> dict[str, Any]:
    from causalrn.manifest import Bundle

    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    about = {
        "folder": str(folder),
        "kind": f"bundle for {manifest.target}, opset {manifest.opset}",
        "sha256": bundle.sha256,
        "checkpoint sha256": manifest.checkpoint_sha256,
        "created with": ", ".join(f"{name} {version}" for name, version in manifest.created_with.items()),
        "graphs": ", ".join(f"{name}: {graph.file}" for name, graph in manifest.graphs.items()),
        "files (hashes fit)": "\n".join(
            f"{name}  {entry['size_bytes']:,} bytes" for name, entry in manifest.files.items()
        ),
    }
    return {"about": about, "model": _model(manifest.card), "state": _state(manifest.state)}


def _inspect_run(folder: Path) -> dict[str, Any]:
    from causalrn.run_folder import RunFolder
    from causalrn.state_spec import StateSpec

    run = RunFolder.open(folder)
    about: dict[str, Any] = {
        "folder": str(folder),
        "kind": "RUN (a checkpoint)",
        "weights sha256": run.sha256,
        "weights": f"{run.weights.name}  {run.weights.stat().st_size:,} bytes",
    }
    for how, entries in run.origin.items():
        about[how] = ", ".join(f"{key} {value}" for key, value in entries.items())
    return {"about": about, "model": _model(run.card), "state": _state(StateSpec.from_config(run.card.config))}


def _model(card: Any) -> dict[str, Any]:
    task = None if card.task is None else card.task.describe()
    return {**card.config.to_json(), "alphabet": card.alphabet and card.alphabet.name, "task": task}


def _state(spec: Any) -> dict[str, Any]:
    pool = f"pool {spec.pool}" if spec.has_pool else "constant size"
    first = spec.tensors[: max(1, len({tensor.role for tensor in spec.tensors}))]
    rows = [[t.name, "[" + ", ".join(map(str, t.shape)) + "]", t.update] for t in first]
    if len(spec.tensors) > len(first):
        rows.append([f"... {spec.tensors[-1].name}", "", ""])
    capacity = spec.tensors[0].capacity
    depths = [depth for depth in (16, 128, 1024, 4096) if capacity is None or depth < capacity]
    depths += [capacity] if capacity is not None else []
    return {
        "title": f"state: {pool}, {'unbounded' if capacity is None else f'at most {capacity} positions'}",
        "rows": rows,
        "bytes": {str(depth): spec.size_bytes(depth) for depth in depths},
    }


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
