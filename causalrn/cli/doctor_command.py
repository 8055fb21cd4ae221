"""`causalrn-export doctor`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from causalrn import __version__
from causalrn.bundle.json_values import to_json
from causalrn.bundle.targets import CHECKPOINT, Target, all_targets, installed_faults
from causalrn.cli import doctor_converted, doctor_litert_coreml, doctor_probes, doctor_tensorrt, doctor_tools
from causalrn.cli.console import EXIT_CHECK_FAILED, console, name_written, write_json
from causalrn.cli.doctor_probe import Probe
from causalrn.cli.number_types import Whole
from causalrn.cli.options import json_option
from causalrn.cli.verbosity import show_progress
from causalrn.compiling import programs
from causalrn.compiling.processor import processor_family
from causalrn.errors import InputError
from causalrn.runtimes.environment import describe_environment, processor_name

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from causalrn.runtimes.bench.machine import Machine

REPORT_VERSION = 1

_WORKERS = 4
_STYLES = {"works": "green", "missing": "yellow", "broken": "red"}


@dataclass(frozen=True)
class Check:
    """Something to try: a function that gives one probe or several."""

    name: str
    run: Callable[[], Probe | list[Probe]]

    def try_it(self) -> list[Probe]:
        """Run it; whatever it raises becomes a probe."""
        try:
            found = self.run()
        except Exception as error:
            reason = programs.last_line(str(error)) or "no reason given"
            return [Probe(self.name, "broken", f"{type(error).__name__}: {reason}", "report this to causalrn")]
        return found if isinstance(found, list) else [found]


RUN, TRAIN, QUANTIZE = "run bundles", "train, convert, export", "quantize"
C_TARGET, WEB_TARGET, TENSORRT, CONVERTED = "C target", "web target", "TensorRT", "phones and boards"
_RUN_NAMES = ("onnx", "c", "web", "tensorrt")
"""Targets whose runs have a name of their own in the report."""


def all_checks() -> dict[str, list[Check]]:
    """What doctor tries, by what it is good for."""
    probes, tools = doctor_probes, doctor_tools
    rtx = partial(doctor_tensorrt.probe_tensorrt, "TensorRT-RTX", "tensorrt_rtx", "tensorrt-rtx")
    trt = partial(doctor_tensorrt.probe_tensorrt, "TensorRT", "tensorrt", "tensorrt")
    return {
        RUN: [
            Check("numpy", probes.probe_numpy),
            Check("safetensors", probes.probe_safetensors),
            Check("onnxruntime, CPU", probes.probe_onnxruntime),
            Check("onnxruntime, opset 23", probes.probe_opset_23),
            Check("onnxruntime, providers", probes.probe_providers),
            Check("OpenVINO, CPU", probes.probe_openvino),
        ],
        TRAIN: [
            Check("torch, CPU", probes.probe_torch),
            Check("torch, CUDA", probes.probe_torch_cuda),
            Check("onnx", probes.probe_onnx),
            Check("torch.onnx export", probes.probe_torch_export),
        ],
        QUANTIZE: [Check("quantization", probes.probe_quantize)],
        C_TARGET: [
            Check("C compiler", tools.probe_c_compiler),
            Check("vector instructions", tools.probe_vector_instructions),
            Check("Cortex-M", tools.probe_cortex_m),
            Check("aarch64", tools.probe_aarch64),
        ],
        WEB_TARGET: [
            Check("clang for wasm32", tools.probe_wasm),
            Check("node", tools.probe_node),
            Check("chromium", tools.probe_chromium),
        ],
        TENSORRT: [
            Check("NVIDIA driver", tools.probe_nvidia_driver),
            Check("cuda-bindings", doctor_tensorrt.probe_cuda_bindings),
            Check("TensorRT-RTX", rtx),
            Check("TensorRT", trt),
        ],
        CONVERTED: _converted_checks(),
    }


def _converted_checks() -> list[Check]:
    return [
        Check("ExecuTorch", doctor_converted.probe_executorch),
        Check("LiteRT", doctor_litert_coreml.probe_litert),
        Check("coremltools", doctor_litert_coreml.probe_coremltools),
        Check("Core ML", doctor_litert_coreml.probe_core_ml),
    ]


def _can_run(row: Target, working: set[str]) -> bool:
    """Whether all that a target needs works here; of what stands between bars one is enough."""
    return all(any(name in working for name in need.split("|")) for need in row.needs)


@dataclass(frozen=True)
class DoctorReport:
    """What was found, by what it is good for; and how fast the machine is, where that was asked for."""

    groups: dict[str, list[Probe]]
    machine: Machine | None = None

    @property
    def works(self) -> dict[str, bool]:
        """Which commands work here; "run engines" is `run` and `verify` of what `compile` writes."""
        working = {probe.name for probes in self.groups.values() for probe in probes if probe.status == "works"}
        train = {"numpy", "safetensors", "torch, CPU"}
        flavors = ("TensorRT-RTX", "TensorRT")
        rows = {row.name: row for row in reversed(tuple(all_targets()))}  # of several runtimes the default
        runs = {name: _can_run(row, working) for name, row in rows.items()}
        others = (row for row in all_targets() if row.name not in (CHECKPOINT, *_RUN_NAMES))
        return {
            "run": runs["onnx"],
            "train": train <= working,
            "export": train | {"onnx", "torch.onnx export"} <= working,
            "export to C": train | {"C compiler"} <= working,
            "run C": runs["c"],
            "export to web": train | {"clang for wasm32", "node"} <= working,
            "run web": runs["web"],
            "quantize": {"onnx", "quantization", "onnxruntime, CPU"} <= working,
            "compile": "onnx" in working and any(f"{flavor}, build" in working for flavor in flavors),
            "run engines": runs["tensorrt"],
            **{f"run {row.name}": runs[row.name] for row in others},
        }

    def entries(self) -> dict[str, Any]:
        """The report as JSON values."""
        data = {
            "report": "causalrn-doctor",
            "version": REPORT_VERSION,
            "passed": self.works["run"],
            "causalrn": __version__,
            "environment": describe_environment(),
            "works": self.works,
            "groups": [{"name": name, "probes": to_json(probes)} for name, probes in self.groups.items()],
        }
        return data if self.machine is None else {**data, "machine": to_json(self.machine)}


@click.command(
    epilog="""\b
Examples:
  causalrn-export doctor
  causalrn-export doctor --json doctor.json
  causalrn-export doctor --measure --json device.json   for `bench --device`

Exit code 1 if bundles cannot be run here."""
)
@click.option("--measure", is_flag=True, help="Also measure how fast this machine reads, multiplies and takes exps.")
@click.option("--threads", type=Whole(1, 256), default=1, show_default=True, help="To measure with.")
@json_option
@click.pass_context
def command(context: click.Context, measure: bool, threads: int, json_path: Path | None) -> None:
    """Find out what works on this machine, by trying it.

    Every package, compiler and device is made to do something small, in a process of its own: what is installed and
    does not run shows up as broken, with what to do about it.
    """
    if threads > 1 and not measure:
        raise InputError("--threads needs --measure: nothing else depends on it")
    report = DoctorReport(run_checks(all_checks()))
    fault: Exception | None = None
    if measure:
        try:
            from causalrn.runtimes.bench.measuring import measure_machine

            report = dataclasses.replace(report, machine=measure_machine(threads))
        except Exception as error:  # whatever is broken here: the diagnosis comes first
            fault = error
    print_report(report)
    write_json(json_path, report.entries())
    name_written(json_path)
    if fault is not None:
        raise InputError(f"this machine was not measured: {fault}")
    if not report.works["run"]:
        context.exit(EXIT_CHECK_FAILED)


def run_checks(checks: dict[str, list[Check]]) -> dict[str, list[Probe]]:
    """Try everything, a few at a time."""
    flat = [check for group in checks.values() for check in group]
    found: dict[Future[list[Probe]], Check] = {}
    with show_progress("trying", len(flat)) as advance, ThreadPoolExecutor(_WORKERS) as pool:
        try:
            found = {pool.submit(check.try_it): check for check in flat}
            for future in as_completed(found):
                advance(1, found[future].name)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            programs.stop_running()
            raise
    results = iter(found)  # in the order of `flat`
    return {name: [probe for _ in group for probe in next(results).result()] for name, group in checks.items()}


def print_report(report: DoctorReport) -> None:
    """Print the table and one sentence."""
    from rich.text import Text

    out = console()
    out.print(_table(report))
    out.print(f"Processor: {processor_name()}, {processor_family()}.")
    working = ", ".join(verb for verb, works in report.works.items() if works)
    failing = ", ".join(verb for verb, works in report.works.items() if not works)
    sentence = Text.assemble("Works here: ", (working or "nothing", "bold green"), ".")
    if failing:
        sentence.append_text(Text.assemble(" Does not: ", (failing, "bold red"), "."))
    out.print(sentence)
    for fault in installed_faults():
        out.print(f"target of another package: {fault}", style="yellow")
    if report.machine is not None:
        print_machine(report.machine)


def print_machine(machine: Machine) -> None:
    """Print a machine's constants."""
    from rich.table import Table

    from causalrn.workflows.pages.figures import bytes_text, time_text

    table = Table(title=f"\n{machine.name}, {machine.source}, {machine.isa}", title_justify="left", box=None)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for size, rate in machine.bytes_per_s:
        table.add_row(f"reading {bytes_text(size)}, again and again", f"{rate / 1e9:,.1f} GB/s")
    table.add_row("exp, float32", f"{machine.exps_per_s / 1e9:,.2f} G/s")
    table.add_row("multiply-accumulate, float32", f"{machine.products_per_s / 1e9:,.1f} G/s")
    table.add_row("the same, weights of 8 bits", f"{machine.int8_products_per_s / 1e9:,.1f} G/s")
    rates = machine.onnxruntime
    if rates is not None:
        for name, seconds in (("call", rates.call_s), ("state tensor", rates.tensor_s), ("node", rates.node_s)):
            table.add_row(f"onnxruntime, each {name}", time_text(seconds * 1e6))
        for size, rate in rates.weight_bytes_per_s:
            table.add_row(f"onnxruntime, {bytes_text(size)} of weights", f"{rate / 1e9:,.1f} GB/s")
        for elements, rate in rates.pairs_per_s:
            table.add_row(f"onnxruntime, exact readout of {elements:,.0f} elements", f"{rate / 1e9:,.2f} G/s")
    console().print(table)


def _table(report: DoctorReport) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for position, (group, probes) in enumerate(report.groups.items()):
        if position:
            table.add_row()
        table.add_row(Text(group, "bold"))
        for probe in probes:
            table.add_row(f"  {probe.name}", Text(probe.status, _STYLES[probe.status]), _explain(probe))
    table.add_row()
    return table


def _explain(probe: Probe) -> Text:
    from rich.text import Text

    return Text(f"{probe.detail}: {probe.remedy}" if probe.remedy else probe.detail)
