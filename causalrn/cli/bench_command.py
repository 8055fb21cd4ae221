"""`causalrn-export bench`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from causalrn.bundle.targets import runtime_words
from causalrn.cli.console import (
    EXIT_BAD_INPUT,
    EXIT_CHECK_FAILED,
    EXIT_FINE,
    complain,
    name_written,
    require_extra,
    write_json,
)
from causalrn.cli.number_types import Real, Whole
from causalrn.cli.options import PATH, check_places, checked_place, given_options, json_option
from causalrn.cli.verbosity import show_progress
from causalrn.errors import InputError
from causalrn.interrupts import EXIT_INTERRUPTED
from causalrn.workflows.bench_arguments import MOST_THREADS, MOST_TOKENS

if TYPE_CHECKING:
    from causalrn.workflows.bench_result import BenchResult

_LISTS = ("-d", "--depth", "-p", "--prefill", "-b", "--batch", "-t", "--threads")
_MODES = {
    "predict": ("depth", "device", "json_path"),
    "profile": ("depth", "threads", "provider", "json_path"),
}
"""What else may be asked for where nothing is measured side by side."""
_MEASURING = (
    "depth",
    "decode",
    "prefill",
    "batch",
    "threads",
    "repeats",
    "turn_ms",
    "runtime",
    "provider",
    "against",
    "fail_above",
)


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers, separated by commas."""

    name = "N[,N...]"

    def __init__(self, least: int, most: int = MOST_TOKENS) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[int, ...]:
        """Read a list."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part.replace("_", "")) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of whole numbers such as 16,128.", parameter, context)
        if not all(self.least <= number <= self.most for number in numbers):
            self.fail(f"{value!r}: each number lies between {self.least:,} and {self.most:,}.", parameter, context)
        return numbers


class _ListCommand(click.Command):
    """Takes lists with blanks, too: `-d 16 128` is `-d 16,128`, unless there is a folder called 128."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Join what belongs together."""
        joined: list[str] = []
        for part in args:
            if len(joined) > 1 and joined[-2] in _LISTS and part.isdecimal() and not Path(part).exists():
                joined[-1] += f",{part}"
            else:
                joined.append(part)
        return super().parse_args(context, joined)


@click.command(
    cls=_ListCommand,
    epilog="""\b
Examples:
  causalrn-export bench bundle
  causalrn-export bench bundle source run -d 16,128 --html bench.html
  causalrn-export bench bundle -p 512,2048 -n 0 --threads 1,2
  causalrn-export bench bundle --against old.json --fail-above 1.1
  causalrn-export bench bundle --profile -d 128      where a step's time goes
  causalrn-export bench run --predict --device raspberry-pi-5

The depth of a token is the number of tokens before it. Exit code 1 if a row is slower than --fail-above allows,
2 if a folder cannot be opened, 3 for engines that cannot run here: the others are measured all the same.""",
)
@click.argument("folders", metavar="BUNDLE_OR_RUN...", type=PATH, nargs=-1)
@click.option(
    "-d",
    "--depth",
    type=Numbers(0),
    multiple=True,
    help="Decode after so many tokens; a list such as 16,128.  "
    "[default: 16,128,1024 as far as they fit; to profile, 128]",
)
@click.option(
    "-n",
    "--decode",
    type=Whole(0, MOST_TOKENS),
    default=16,
    show_default=True,
    help="Tokens to decode; 0: none.",
)
@click.option(
    "-p",
    "--prefill",
    type=Numbers(0),
    multiple=True,
    help="Tokens to take at once into a fresh state; 0: none.  [default: 512 or the capacity]",
)
@click.option("-b", "--batch", type=Numbers(1), multiple=True, help="Sequences that advance together.  [default: 1]")
@click.option(
    "-t", "--threads", type=Numbers(1, MOST_THREADS), multiple=True, help="Threads of each candidate.  [default: 1]"
)
@click.option("-r", "--repeats", type=Whole(3, 10000), default=9, show_default=True, help="Turns of each candidate.")
@click.option("--turn-ms", type=Real(1, 60000), default=60, show_default=True, help="Milliseconds of a turn, about.")
@click.option(
    "--runtime",
    multiple=True,
    help=f"{runtime_words()}; may be repeated.  [default: both of a RUN, a bundle's default]",
)
@click.option("--provider", default="cpu", show_default=True, help="onnxruntime execution provider.")
@click.option(
    "--profile",
    is_flag=True,
    help="Of ONNX bundles: a step's time by block and role. Goes with --depth, --threads, --provider and --json only.",
)
@click.option(
    "--predict",
    is_flag=True,
    help="Predict instead of measuring: times, memory, what fits. Goes with --depth, --device and --json only.",
)
@click.option(
    "--device",
    help="Predict for this device: a name (`bench --device list` shows them), or a file that `doctor --measure --json` "
    "wrote.  [default: this machine, measured first]",
)
@json_option
@click.option("--csv", "csv_path", type=PATH, callback=checked_place, help="Also write the rows to this file.")
@click.option("--html", type=PATH, callback=checked_place, help="Also write tables and plots as one page to this file.")
@click.option("--against", type=PATH, help="Compare with what `bench --json` wrote before, as ratios.")
@click.option(
    "--fail-above",
    type=Real(0.01),
    help="With --against: exit code 1 where a row takes more than so many times as long as before, floors taken out.",
)
@click.pass_context
def command(context: click.Context, /, folders: tuple[Path, ...], **options: Any) -> None:
    """Measure what tokens cost: latency against depth, prefill, memory, and how far that is from the machine's floor.

    Every candidate (a bundle, or a RUN in both of its runtimes) runs in a process of its own; they take turns, so that
    ratios are taken within a turn. Times are medians over the repeats with half the distance of the quartiles. The
    floor is a roofline bound, which this machine cannot beat by kernels that are measured in the same run: all weights
    read once, and one exp per element of the pool. Interrupted, it reports what it has measured.
    """
    if options["device"] == "list":
        from causalrn.cli.bench_predict_table import print_devices

        print_devices()
        return
    if not folders:
        raise click.UsageError("Missing argument 'BUNDLE_OR_RUN...'.", context)
    _check_combinations(options, given_options(context))
    device = [Path(options["device"])] if options["device"] is not None else []
    check_places([options[name] for name in ("json_path", "csv_path", "html")], [options["against"], *device])
    for name in ("depth", "prefill", "batch", "threads"):
        options[name] = [number for numbers in options[name] for number in numbers]
    if options["html"] is not None:
        require_extra("jinja2")
    if options["predict"]:
        _predict(folders, options)
    elif options["profile"]:
        _profile(folders, options)
    else:
        context.exit(_bench(folders, options))


def _predict(folders: Sequence[Path], options: dict[str, Any]) -> None:
    from causalrn.cli.bench_predict_table import print_predictions
    from causalrn.workflows.predict import predict

    result = predict(folders, depth=options["depth"], device=options["device"], progress=show_progress)
    print_predictions(result)
    write_json(options["json_path"], result.to_json())
    name_written(options["json_path"])


def _profile(folders: Sequence[Path], options: dict[str, Any]) -> None:
    if len(set(options["threads"])) > 1:
        raise InputError("--profile takes one number of --threads")
    require_extra("onnx")
    from causalrn.cli.bench_profile_table import print_profiles
    from causalrn.workflows.profile import profile

    threads = options["threads"][0] if options["threads"] else 1
    provider = options["provider"]
    result = profile(folders, depth=options["depth"], threads=threads, provider=provider, progress=show_progress)
    print_profiles(result)
    write_json(options["json_path"], result.to_json())
    name_written(options["json_path"])


def _bench(folders: Sequence[Path], options: dict[str, Any]) -> int:
    """Measure, write, print; gives the exit code."""
    from causalrn.cli.bench_table import print_comparisons, print_report
    from causalrn.workflows.bench import bench

    asked = {name: options[name] for name in _MEASURING}
    result = bench(folders, **asked, progress=show_progress)
    saved: dict[Path | None, Callable[[Path], object]] = {
        options["csv_path"]: result.save_csv,
        options["html"]: result.save_html,
        options["json_path"]: lambda path: write_json(path, result.to_json()),
    }
    places = {path: save for path, save in saved.items() if path is not None}
    try:  # before anything is printed: whoever reads may be gone
        _save_all(places)
    finally:
        print_report(result.report)
        if result.earlier is not None:
            print_comparisons(result.earlier, result.comparisons, result.report.environment)
    name_written(*places)
    return _exit_code(result)


def _save_all(places: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write what was asked for; where one file cannot be written, the others are.

    Raises:
        OSError: of the first that could not.
    """
    faults: list[OSError] = []
    for path, save in places.items():
        try:
            save(path)
        except OSError as error:
            faults.append(error)
    if faults:
        raise faults[0]


def _exit_code(result: BenchResult) -> int:
    """The exit code, with its reason on standard error."""
    report = result.report
    for reason in result.failures:
        complain(reason)
    if report.interrupted:
        complain("interrupted")
        return EXIT_INTERRUPTED
    if not report.measured and not result.failures:
        complain(f"nothing could be measured: {report.rows[0].reason}")
        return EXIT_BAD_INPUT
    if result.fail_above is not None and not result.comparisons:
        complain("--fail-above: nothing here was measured before, so nothing could be compared")
        return EXIT_BAD_INPUT
    if result.fail_above is not None and all(each.noisy for each in result.comparisons):
        complain("--fail-above: every row is too noisy to be judged: find a quiet machine, or take more --repeats")
        return EXIT_CHECK_FAILED
    for each in result.slower:
        complain(f"{each.row.name}, {each.row.workload.title}: {each.judged:.2f} times what it took before")
    if report.fault is not None:
        return report.fault.exit_code
    return EXIT_CHECK_FAILED if result.slower else EXIT_FINE


def _check_combinations(options: dict[str, Any], given: set[str]) -> None:
    """Refuse options that would be ignored.

    Raises:
        InputError: two that contradict each other.
    """
    if options["predict"] and options["profile"]:
        raise InputError("--predict and --profile contradict each other: ask for one of them")
    if options["device"] is not None and not options["predict"]:
        raise InputError("--device needs --predict: what is measured is this machine")
    if options["fail_above"] is not None and options["against"] is None:
        raise InputError("--fail-above needs --against: there is nothing to compare with")
    for mode, kept in _MODES.items():
        ignored = sorted(given - {mode, "folders", *kept}) if options[mode] else []
        if ignored:
            names = {"json_path": "json", "csv_path": "csv"}
            option = names.get(ignored[0], ignored[0]).replace("_", "-")
            raise InputError(f"--{option} and --{mode} contradict each other: it would be ignored")
