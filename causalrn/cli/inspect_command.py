"""`causalrn-export inspect`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from causalrn.bundle.json_values import to_json
from causalrn.bundle.manifest import INDEX_TYPES
from causalrn.cli.console import EXIT_CHECK_FAILED, console, name_written, require_extra, write_json
from causalrn.cli.options import PATH, check_places, checked_place, json_option
from causalrn.errors import InputError
from causalrn.model.config import ModelConfig
from causalrn.model.state import derive_state
from causalrn.training.card import card_of

_MOST_TENSORS = 12
_WHOLE: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
"""How texts are broken."""

if TYPE_CHECKING:
    from causalrn.bundle.engine_spec import EngineSpec
    from causalrn.bundle.manifest import Manifest
    from causalrn.runtimes.parity.certificate import Certificate


@click.command(
    epilog="""\b
Examples:
  causalrn-export inspect bundle
  causalrn-export inspect bundle --certificate certificate.json
  causalrn-export inspect bundle --card README.md      for a model hub
  causalrn-export inspect run --json run.json
  causalrn-export inspect calibration.json    of `quantize --save-calibration`

Exit code 1 if a certificate does not hold for the bundle."""
)
@click.argument("folder", metavar="BUNDLE_OR_RUN_OR_TABLE", type=PATH)
@click.option("--certificate", type=PATH, help="What `verify --certificate` wrote: show whether it holds.")
@click.option(
    "--card",
    type=PATH,
    callback=checked_place,
    help="Write a bundle's model card, with what a certificate found.",
)
@json_option
@click.pass_context
def command(
    context: click.Context, folder: Path, certificate: Path | None, card: Path | None, json_path: Path | None
) -> None:
    """Show what a RUN or a bundle holds: the model, its state, its files. Checks every hash.

    A file certificate.json in a bundle's folder is shown without being asked for. Of a calibration table, the ranges
    are shown.
    """
    from causalrn.bundle.bundle_folder import is_bundle
    from causalrn.bundle.disk.wrong_folder import EITHER, describe_wrong
    from causalrn.training.checkpoint_folder import is_checkpoint

    if certificate is not None and not is_bundle(folder):
        raise InputError(f"{folder} is no bundle: --certificate is about one")
    if card is not None and not is_bundle(folder):
        raise InputError(f"{folder} is no bundle: --card is about one")
    check_places([card, json_path], [certificate])
    if folder.is_file():
        data = _inspect_table(folder)
        write_json(json_path, {"report": "causalrn-inspect", "version": 1, **data})
        name_written(json_path)
        return
    faults: list[str] = []
    shown = _certificate(folder, certificate) if is_bundle(folder) else None
    if shown is not None:  # before the bundle: a file that changed may keep it from being opened
        faults = shown.faults(folder)
        _print_certificate(shown, faults)
    elif not is_bundle(folder) and not is_checkpoint(folder):
        raise InputError(describe_wrong(folder, EITHER))
    data = _inspect_bundle(folder) if is_bundle(folder) else _inspect_run(folder)
    _print_contents(data)
    if shown is not None:
        report = to_json(shown.report)
        data["certificate"] = {"holds": not faults, "faults": faults, "issued": shown.issued, "report": report}
    write_json(json_path, {"report": "causalrn-inspect", "version": 1, **data})
    if card is not None:
        _write_card(card, folder, None if faults else shown)
    name_written(card, json_path)
    if faults:
        context.exit(EXIT_CHECK_FAILED)


def _write_card(path: Path, folder: Path, certificate: Certificate | None) -> None:
    """Write a bundle's model card, with what a certificate that holds has found."""
    from causalrn.bundle.disk.files import written_file
    from causalrn.bundle.manifest import Manifest
    from causalrn.bundle.model_card import model_card
    from causalrn.workflows.certified_figures import certified_figures

    figures = () if certificate is None else certified_figures(certificate)
    with written_file(path) as partial:
        partial.write_text(model_card(Manifest.read(folder), figures), encoding="utf-8")


def _certificate(folder: Path, path: Path | None) -> Certificate | None:
    from causalrn.bundle.disk.files import CERTIFICATE_NAME
    from causalrn.runtimes.parity.certificate import load_certificate

    beside = folder / CERTIFICATE_NAME
    if path is None and not beside.exists() and not beside.is_symlink():
        return None
    return load_certificate(beside if path is None else path)


def _print_certificate(certificate: Certificate, faults: list[str]) -> None:
    from causalrn.cli.coverage_table import print_coverage
    from causalrn.cli.results_table import results_table
    from causalrn.runtimes.parity.certificate import SHOWN_VERSIONS
    from causalrn.runtimes.parity.results import LEVELS

    out, report = console(), certificate.report
    if faults:
        out.print(f"certificate VOID: {'; '.join(faults)}; verify the bundle again", style="bold red")
    else:
        out.print("certificate holds: every file is the one that was verified", style="bold green")
    versions = ", ".join(f"{name} {report.environment[name]}" for name in SHOWN_VERSIONS)
    family = report.environment.get("processor_family")  # certificates of earlier versions have none
    versions += "" if family is None else f", {family}"
    out.print(f"issued {certificate.issued} with {versions}, against {report.against}")
    if report.known_by is not None:
        out.print(f"architecture: {report.known_by.describe()}")
    out.print(results_table(report.results, report.measured))
    if report.settings.budget is not None:
        limits = to_json(report.settings.budget).items()
        budget = ", ".join(f"{name.replace('_', ' ')} {limit:g}" for name, limit in limits)
        out.print(f"judged by a budget, not by rounding: {budget}", style="yellow")
    missing = [level for level in LEVELS if level not in {result.level for result in report.results}]
    if missing:
        out.print(f"not checked: {', '.join(missing)}", style="yellow")
    for note in report.notes:
        out.print(f"note: {note}")
    if report.coverage is None:
        out.print("which files were executed it does not say: verify the bundle again", style="yellow")
    else:
        print_coverage(report.coverage)
    out.print()


def _print_contents(data: dict[str, Any]) -> None:
    from rich.table import Table

    out = console()
    for title in ("about", "model"):
        out.print(title, style="bold")
        for line in _lines(data[title], out.width):
            out.print(line, soft_wrap=True)
        out.print()
    out.print(data["state"]["title"], style="bold")
    state = Table("tensor", "shape", "update", box=None, padding=(0, 2, 0, 1))
    for row in data["state"]["rows"]:
        state.add_row(*row)
    out.print(state)
    memory = ", ".join(f"{tokens}: {size / 1e3:,.1f} kB" for tokens, size in data["state"]["bytes"].items())
    out.print(f"state bytes by tokens seen (batch 1): {memory}")


def _lines(entries: dict[str, Any], width: int) -> Iterator[str]:
    """Names and values side by side, broken between words; a hash that is too long for that has a line of its own."""
    indent = 3 + max(map(len, entries))
    for name, value in entries.items():
        lines = [line for part in _text(value).split("\n") for line in textwrap.wrap(part, width - indent, **_WHOLE)]
        if max(map(len, lines), default=0) > width - indent:
            yield f" {name}"
            yield from (f"   {line}" for line in lines)
        else:
            labels = [f" {name}".ljust(indent), *[" " * indent] * (len(lines) - 1)]
            yield from (f"{label}{line}" for label, line in zip(labels, lines or [""], strict=True))


def _inspect_bundle(folder: Path) -> dict[str, Any]:
    from causalrn.bundle.bundle_folder import Bundle

    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    about = {
        "folder": str(folder),
        "kind": f"bundle for {manifest.target}, {_kind(manifest)}",
        "quantization": "none, float32" if manifest.quantization is None else manifest.quantization.describe(),
        "sha256": bundle.sha256,
        "checkpoint sha256": manifest.checkpoint_sha256,
        "created with": ", ".join(f"{name} {version}" for name, version in manifest.created_with.items()),
        "files (hashes fit)": "\n".join(
            f"{name}  {entry.size_bytes:,} bytes" for name, entry in manifest.files.items()
        ),
    }
    if manifest.graphs:
        about["graphs"] = "\n".join(f"{name}: {graph.file}" for name, graph in manifest.graphs.items())
    if manifest.resealed:
        about["changed by"] = "\n".join(resealing.describe() for resealing in manifest.resealed)
    if manifest.native is not None:
        about["source"] = manifest.native.describe()
    if manifest.target == "c":
        from causalrn.workflows.firmware_size import describe_size

        about["takes"] = "\n".join(describe_size(bundle))
    for name in manifest.folders:
        about[f"folder {name}"] = card_of(Bundle.open(folder / name)).config.describe()
    if manifest.engine is not None:
        about["compiled by"] = manifest.engine.describe()
        about["compiled from"] = f"bundle {manifest.engine.source_sha256}"
        about["profiles"] = "\n".join(_profiles(manifest.engine))
    return {"about": about, "model": _model(card_of(bundle)), "state": _state(manifest.state)}


def _kind(manifest: Manifest) -> str:
    if manifest.web is not None:
        return manifest.web.describe()
    if manifest.native is not None:
        return "C99"
    indices = "" if manifest.index_type == INDEX_TYPES[0] else f", {manifest.index_type} tokens"
    own_format = ", in onnxruntime's own format" if manifest.is_ort_format else ""
    return f"opset {manifest.opset}{indices}{own_format}"


def _profiles(engine: EngineSpec) -> Iterator[str]:
    """Per engine and profile, which sizes it is for."""
    for name, profiles in engine.profiles.items():
        for profile in profiles:
            yield f"{name}: {profile.describe()}"


def _inspect_table(path: Path) -> dict[str, Any]:
    """Print a calibration table's ranges; they need onnxruntime's quantization tools, and those need onnx."""
    require_extra("onnx")
    from rich.table import Table

    from causalrn.bundle.quantization import CALIBRATION_METHODS
    from causalrn.calibration.table import CalibrationTable

    table, out = CalibrationTable.load(path), console()
    limits = {method: table.limits(method) for method in CALIBRATION_METHODS}
    out.print(f"calibration table: {table.source}", style="bold")
    out.print(f"{len(table.rollouts)} rollouts, {table.sequences} sequences of {table.steps} steps")
    out.print(f"weights sha256 {table.checkpoint_sha256}\n")
    rows = Table("largest |value|", *CALIBRATION_METHODS, "first step", "last step", box=None, padding=(0, 2, 0, 1))
    for name, ranges in (*table.activation_ranges.items(), *table.states.items()):
        known = [f"{limits[method][name]:.4g}" if name in limits[method] else "" for method in CALIBRATION_METHODS]
        known = known if any(known) else [f"{ranges.largest:.4g}", "", ""]
        rows.add_row(name, *known, *(f"{ranges.at(step):.4g}" for step in (0, -1)))
    out.print(rows)
    return {"calibration": table.entries(), "limits": limits}


def _inspect_run(folder: Path) -> dict[str, Any]:
    from causalrn.training.checkpoint_folder import CheckpointFolder

    run = CheckpointFolder.open(folder)
    about: dict[str, Any] = {
        "folder": str(folder),
        "kind": "RUN (a checkpoint)",
        "weights sha256": run.sha256,
        "weights": f"{run.weights.name}  {run.weights.stat().st_size:,} bytes",
    }
    for how, entries in run.origin.items():
        about[how] = ", ".join(f"{key} {value}" for key, value in entries.items())
    return {"about": about, "model": _model(run.card), "state": _state(derive_state(run.card.block_config))}


def _model(card: Any) -> dict[str, Any]:
    task = None if card.task is None else card.task.describe()
    known_by = "not recorded: take it as assumed" if card.known_by is None else card.known_by.describe()
    entries = {**card.config.entries(), "alphabet": card.alphabet and card.alphabet.name, "task": task}
    return entries | ({"known by": known_by} if isinstance(card.config, ModelConfig) else {})


def _state(spec: Any) -> dict[str, Any]:
    pool = f"pool {spec.pool}" if spec.has_pool else "constant size"
    kinds = len({tensor.role for tensor in spec.tensors})
    first = spec.tensors[: _MOST_TENSORS if spec.is_own else kinds]  # of one block; its own may all differ
    rows = [[t.name, "[" + ", ".join(map(str, t.shape)) + "]", t.update] for t in first]
    if len(spec.tensors) > len(first):
        rows.append([f"... {spec.tensors[-1].name}", "", ""])
    capacity = spec.capacity
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
