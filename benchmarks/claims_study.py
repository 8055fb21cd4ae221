"""The paper's claims about copying, as a study: same steps, same optimizer, several seeds, all variants. Run it:

    python benchmarks/claims_study.py                                       two cores, about half an hour
    python benchmarks/claims_study.py --preset paper --length 64 --device cuda --precision bf16 --processes 1

It needs `pip install 'causalrn[export,report]'`. First the exact readout is trained until it has copied 99.5 % of the
strings in two evaluations in a row, for every seed; the largest such step is N. Then every variant is trained for N and
for 2N steps with the same data, constant learning rate after warm-up (as the paper trains) and evaluated as it goes, by
free-running greedy decoding. Nothing is tuned per variant: what disagrees with the paper is reported as it is.

Written into --output: claims_study.json (every number), claims_study.png (accuracy against steps), claims_study.md (the
table). The JSON is renewed after each training, so an interrupted study keeps what it has.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from reporting import write_json

from causalrn.bundle.disk.files import written_file
from causalrn.model.config import CausalRNConfig, ModelConfig, TransformerConfig
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.progress import show_progress
from causalrn.training.loop import Trainer
from causalrn.training.plan import TrainingPlan
from causalrn.training.tasks import CopyTask
from causalrn.workflows.training_run import evaluate

GOAL, REACHES, BELOW = 0.995, 0.99, 0.90


@dataclass(frozen=True)
class Variant:
    """A model to train, and what the paper claims of it: True copies, False does not, None leaves it open."""

    kind: type[ModelConfig]
    options: dict[str, Any]
    copies: bool | None


EXACT = "CausalRN, exact"
VARIANTS = {
    EXACT: Variant(CausalRNConfig, {}, True),
    "Transformer": Variant(TransformerConfig, {}, True),
    "CausalRN, linear": Variant(CausalRNConfig, {"readout": "linear"}, False),
    "CausalRN, plain": Variant(CausalRNConfig, {"readout": "plain"}, False),
    "exact, relu": Variant(CausalRNConfig, {"activation": "relu"}, False),
    "exact, elu": Variant(CausalRNConfig, {"activation": "elu"}, False),
    "exact, gelu": Variant(CausalRNConfig, {"activation": "gelu"}, False),
    "Linear Transformer": Variant(TransformerConfig, {"attention": "linear"}, False),
    "exact, no post-norm": Variant(CausalRNConfig, {"post_norm": False}, None),
}


@dataclass(frozen=True)
class Point:
    """One evaluation: shares of strings copied whole by free-running greedy decoding, and of their letters and EOS."""

    step: int
    copied: float
    tokens: float


@dataclass(frozen=True)
class Job:
    """One training: to `steps`, or (steps None) until the goal has held for two evaluations, at most to `most`."""

    variant: str
    seed: int
    steps: int | None
    most: int
    every: int
    strings: int
    plan: dict[str, Any]
    state: dict[str, torch.Tensor] | None = None
    points: tuple[Point, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Curve:
    """How accuracy grew; `state` lets the training go on."""

    job: Job
    points: tuple[Point, ...]
    parameters: int
    seconds: float
    state: dict[str, torch.Tensor]

    @property
    def held_at(self) -> int | None:
        """First step at which the goal held for two evaluations."""
        pairs = zip(self.points, self.points[1:], strict=False)
        return next((now.step for before, now in pairs if min(before.copied, now.copied) >= GOAL), None)

    def at(self, step: int) -> Point:
        """The evaluation at a step."""
        return next(point for point in self.points if point.step == step)

    def to_json(self) -> dict[str, Any]:
        """What is worth keeping."""
        return {
            "variant": self.job.variant,
            "seed": self.job.seed,
            "parameters": self.parameters,
            "seconds": self.seconds,
            "points": [asdict(point) for point in self.points],
        }


def train(job: Job) -> Curve:
    """Train one variant and evaluate it as it goes; goes on from the job's state, if it has one."""
    if job.plan["device"] == "cpu":
        torch.set_num_threads(1)
    variant, started = VARIANTS[job.variant], time.monotonic() - job.seconds
    options = {**job.plan, "seed": job.seed, "steps": job.steps or job.most, "schedule": "constant"}
    plan = TrainingPlan.from_options(kind=variant.kind, model=variant.options, **options)
    torch.manual_seed(job.seed)
    trainer = Trainer(SequenceModel(plan.card.config), plan.task, plan.settings)
    if job.state is not None:
        trainer.load_state(job.state)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())

    def curve() -> Curve:
        return Curve(job, points, parameters, time.monotonic() - started, trainer.state())

    points = job.points
    while trainer.steps_done < plan.settings.steps:
        step = trainer.step().step
        if step % job.every == 0:
            accuracy = evaluate(trainer.model, plan.card, job.strings).free_running
            points += (Point(step, accuracy.accuracy, accuracy.token_accuracy),)
            if job.steps is None and curve().held_at is not None:
                break
    return curve()


def run_jobs(jobs: list[Job], processes: int, advance) -> Iterator[Curve]:
    """All jobs, as they end; the longest first, so that no process is left alone with one."""
    if processes == 1:
        for job in jobs:
            yield train(job)
            advance(1)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for curve in pool.imap_unordered(train, jobs):
            yield curve
            advance(1)


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Train everything; the result is what the JSON file holds."""
    task = CopyTask(options.length)
    plan = {"task": task, "preset": options.preset, "device": options.device, "precision": options.precision}
    common = {"most": options.most_steps, "every": options.evaluate_every, "strings": options.strings, "plan": plan}
    others = [name for name in options.variants if name != EXACT]
    with show_progress("claims", (len(options.variants) + 1) * options.seeds) as advance:
        advance(0, "until exact copies")
        first_jobs = [Job(EXACT, seed, None, **common) for seed in range(options.seeds)]
        exact = list(run_jobs(first_jobs, options.processes, advance))
        steps = max((curve.held_at or 0 for curve in exact), default=0)
        if not all(curve.held_at for curve in exact):
            sys.exit(f"Error: exact did not reach {GOAL:.1%} within {options.most_steps} steps: use --most-steps")
        jobs = [
            replace(curve.job, steps=2 * steps, state=curve.state, points=curve.points, seconds=curve.seconds)
            for curve in exact
        ]
        jobs += [Job(name, seed, 2 * steps, **common) for name in others for seed in range(options.seeds)]
        jobs.sort(key=lambda job: VARIANTS[job.variant].kind is TransformerConfig or "CausalRN, l" in job.variant)
        curves: list[Curve] = []
        for curve in run_jobs(jobs, options.processes, advance):
            curves.append(curve)
            advance(0, f"{curve.job.variant}, seed {curve.job.seed}: {curve.points[-1].copied:.1%}")
            report = make_report(options, task, steps, curves)
            write_json(options.output / "claims_study.json", report)
    return report


def make_report(options: argparse.Namespace, task: CopyTask, steps: int, curves: list[Curve]) -> dict[str, Any]:
    """Rows per variant, at N and 2N steps, with the verdict on each claim."""
    rows = []
    for name in options.variants:
        mine = sorted((c for c in curves if c.job.variant == name), key=lambda c: c.job.seed)
        if not mine:
            continue
        row: dict[str, Any] = {"variant": name, "parameters": mine[0].parameters, "claim": VARIANTS[name].copies}
        for key, step in (("at_n", steps), ("at_2n", 2 * steps)):
            row[key] = [curve.at(step).copied for curve in mine]
            row[f"tokens_{key}"] = [curve.at(step).tokens for curve in mine]
        row["seconds"] = statistics.median(curve.seconds for curve in mine)
        rows.append(row | {"verdict": verdict(row)})
    return {
        "benchmark": "claims_study",
        "settings": {
            "task": task.entries(),
            "preset": options.preset,
            "device": options.device,
            "precision": options.precision,
            "seeds": options.seeds,
            "strings": options.strings,
            "torch": torch.__version__,
        },
        "n": steps,
        "rows": rows,
        "curves": [curve.to_json() for curve in curves],
    }


def verdict(row: dict[str, Any]) -> str:
    """Whether every seed, at N and at 2N steps, agrees with the claim."""
    claim, values = row["claim"], [*row["at_n"], *row["at_2n"]]
    if claim is None:
        return "open"
    agrees = [value >= REACHES if claim else value < BELOW for value in values]
    return "holds" if all(agrees) else f"disagrees in {agrees.count(False)} of {len(agrees)}"


def markdown(report: dict[str, Any]) -> str:
    """The table, for people."""
    n, settings = report["n"], report["settings"]
    lines = [
        f"| variant | parameters | strings, {n} steps | strings, {2 * n} | letters, {2 * n} | the paper | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    claims = {True: "copies", False: "does not", None: ""}
    for row in report["rows"]:
        cells = (" / ".join(f"{100 * value:.1f}" for value in row[key]) for key in ("at_n", "at_2n", "tokens_at_2n"))
        claim = claims[row["claim"]]
        lines.append(f"| {row['variant']} | {row['parameters']:,} | {' | '.join(cells)} | {claim} | {row['verdict']} |")
    lines += [
        "",
        f"Percent of {settings['strings']} strings of {settings['task']['length']} letters copied whole by "
        f"free-running greedy decoding, and of their letters and ends, per seed (0 to {settings['seeds'] - 1}); "
        f"preset {settings['preset']}, {settings['device']}, torch {settings['torch']}.",
    ]
    return "\n".join(lines) + "\n"


def plot(report: dict[str, Any], path: Path) -> None:
    """Accuracy against steps: the median over seeds as a line, the range as a band."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 1, figsize=(7, 7.5), sharex=True, layout="constrained")
    colors = pyplot.colormaps["tab10"].colors
    for axes, key, label in zip(
        panels, ("copied", "tokens"), ("strings copied whole, %", "letters right, %"), strict=True
    ):
        for index, row in enumerate(report["rows"]):
            curves = [c["points"] for c in report["curves"] if c["variant"] == row["variant"]]
            steps = [point["step"] for point in curves[0]]
            values = [sorted(100 * points[i][key] for points in curves) for i in range(len(steps))]
            style = {True: "-", False: "--", None: ":"}[row["claim"]]
            median = [statistics.median(v) for v in values]
            axes.plot(steps, median, style, color=colors[index], label=row["variant"], linewidth=2)
            axes.fill_between(steps, [v[0] for v in values], [v[-1] for v in values], color=colors[index], alpha=0.15)
        for step, name in ((report["n"], "N"), (2 * report["n"], "2N")):
            axes.axvline(step, color="grey", linewidth=0.8)
            axes.annotate(name, (step, 102.5), ha="center", va="bottom", color="grey", annotation_clip=False)
        axes.set(ylabel=label, ylim=(-2, 102))
        axes.grid(alpha=0.3)
    panels[1].set_xlabel("optimizer steps")
    title = f"Copying {report['settings']['task']['length']} letters by free-running greedy decoding"
    figure.suptitle(f"{title}\nmedian and range of {report['settings']['seeds']} seeds", fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=32, help="letters per string (default 32)")
    parser.add_argument("--preset", choices=["tiny", "small", "paper"], default="tiny", help="size (default tiny)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="default: all")
    parser.add_argument("--most-steps", type=int, default=2000, help="to wait for the exact readout (default 2000)")
    parser.add_argument("--evaluate-every", type=int, default=25, help="steps between evaluations (default 25)")
    parser.add_argument("--strings", type=int, default=500, help="to evaluate on (default 500)")
    parser.add_argument("--device", default="cpu", help="cpu (one thread per process) or cuda (default cpu)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="default fp32")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="at a time (default 2)")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder to write to (default docs)")
    options = parser.parse_args()
    if EXACT not in options.variants:
        parser.error(f"--variants: {EXACT!r} has to be among them, it sets the number of steps")
    if min(options.seeds, options.evaluate_every, options.strings, options.processes) < 1:
        parser.error("--seeds, --evaluate-every, --strings and --processes must be at least 1")
    options.output.mkdir(parents=True, exist_ok=True)
    report = study(options)
    with written_file(options.output / "claims_study.md") as partial:
        partial.write_text(markdown(report), encoding="utf-8")
    with written_file(options.output / "claims_study.png") as partial:
        plot(report, partial)
    print(markdown(report))


if __name__ == "__main__":
    sys.exit(main())
