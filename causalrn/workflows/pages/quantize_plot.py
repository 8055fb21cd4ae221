"""A quantization as a picture: sensitivity, error by block, and the ranges that calibration saw over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalrn.bundle.disk.files import written_file
from causalrn.calibration.report import QuantizeReport
from causalrn.calibration.table import CalibrationTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg", "pdf")
_MOST_BARS = 40
_COLOUR, _WORST = "#0969da", "#cf222e"


def save_plot(path: Path, report: QuantizeReport) -> None:
    """Write the picture; its format follows from the file's suffix, one of :data:`FORMATS`."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels: list[tuple[Any, ...]] = [(_plot_sqnr, report)]
    if report.sensitivities:
        panels.insert(0, (_plot_sensitivity, report))
    if report.table is not None:
        panels.append((_plot_states, report.table))
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(8, 3.6 * len(panels)), squeeze=False, layout="constrained")
    try:
        for axis, (draw, subject) in zip(axes[:, 0], panels, strict=True):
            axis.spines[["top", "right"]].set_visible(False)
            draw(axis, subject)
        figure.suptitle(f"{report.source}: {report.quantization.describe()}", fontsize=11, wrap=True)
        with written_file(path) as partial:
            figure.savefig(partial, format=path.suffix.lower().removeprefix("."), dpi=120)
    finally:
        pyplot.close(figure)


def _plot_sensitivity(axis: Axes, report: QuantizeReport) -> None:
    ranked = report.sensitivities[:_MOST_BARS]
    values = [max(entry.kl_divergence, 1e-12) for entry in ranked]
    axis.bar(range(len(ranked)), values, color=_COLOUR)
    axis.set_xticks(range(len(ranked)), [entry.unit for entry in ranked], rotation=60, ha="right", fontsize=8)
    axis.set_yscale("log")
    axis.set_ylabel("KL divergence, nats")
    axis.set_title(f"One {report.granularity} quantized at a time, the most sensitive first", loc="left", fontsize=10)


def _plot_sqnr(axis: Axes, report: QuantizeReport) -> None:
    units = list(report.after.sqnr_db)
    worst = report.after.worst_unit
    values = [min(report.after.sqnr_db[unit], 150.0) for unit in units]
    axis.bar(range(len(units)), values, color=[_WORST if unit == worst else _COLOUR for unit in units])
    axis.set_xticks(range(len(units)), [unit.removeprefix("blocks.") for unit in units], fontsize=8)
    axis.set_xlabel("block")
    axis.set_ylabel("SQNR, dB")
    axis.set_title(
        f"All quantized: what each block adds, inherited errors included; lowest in {worst}", loc="left", fontsize=10
    )


def _plot_states(axis: Axes, table: CalibrationTable) -> None:
    """Largest |value| of each state tensor by position: of a pool its new row."""
    from matplotlib import colormaps

    shown = {name: ranges for name, ranges in table.states.items() if not name.endswith((".scale", ".carry"))}
    colours = colormaps["viridis"]
    for index, (name, ranges) in enumerate(shown.items()):
        largest = [ranges.at(position) for position in range(len(ranges.lowest))]
        axis.plot(largest, color=colours(index / max(1, len(shown) - 1)), linewidth=1.2, label=name)
    axis.set_xlabel("position")
    axis.set_ylabel("largest |value|")
    axis.set_title(f"State along rollouts: {table.source}", loc="left", fontsize=10, wrap=True)
    if 0 < len(shown) <= 12:
        axis.legend(fontsize=7, ncols=4, frameon=False)
