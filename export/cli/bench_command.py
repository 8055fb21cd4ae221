"""`causalrn-export bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from causalrn.errors import InputError
from causalrn.export.cli.console import require_extra
from causalrn.export.cli.options import PATH, FiniteRange, checked_place, given_options, json_option

_MOST = 1 << 24
_LISTS = ("-d", "--depth", "-p", "--prefill", "-b", "--batch", "-t", "--threads")
_MEASURE_ONLY = {
    "decode": "--decode",
    "prefill": "--prefill",
    "repeats": "--repeats",
    "turn_ms": "--turn-ms",
    "provider": "--provider",
    "csv_path": "--csv",
    "html": "--html",
    "against": "--against",
    "runtimes": "--runtime",
}


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers, separated by commas."""

    name = "N[,N...]"

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[int, ...]:
        """Read a list."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part.replace("_", "")) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of whole numbers such as 16,128.", parameter, context)
        if not all(self.least <= number <= _MOST for number in numbers):
            self.fail(f"{value!r}: each number lies between {self.least:,} and {_MOST:,}.", parameter, context)
        return numbers


class _ListCommand(click.Command):
    """Takes the numbers of a list apart by blanks, too: `-d 16 128` is `-d 16,128`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Join what belongs together."""
        joined: list[str] = []
        for part in args:
            if len(joined) > 1 and joined[-2] in _LISTS and part.isdecimal():
                joined[-1] += f",{part}"
            else:
                joined.append(part)
        return super().parse_args(context, joined)


@click.command(
    cls=_ListCommand,
    epilog="""\b
Examples:
  causalrn-export bench bundle
  causalrn-export bench bundle source run -d 16,128,1024 --html bench.html
  causalrn-export bench bundle -p 512,2048 -n 0 --threads 1,2
  causalrn-export bench bundle --json new.json --against old.json
  causalrn-export bench bundle --profile -d 128             where a step's time goes
  causalrn-export bench run --predict --device raspberry-pi-5
A token costs what it costs at some depth: the number of tokens before it. Of folders that cannot be opened the
report says why; the exit code is then 2, or 3 for engines that cannot run here.""",
)
@click.argument("folders", metavar="BUNDLE_OR_RUN...", type=PATH, nargs=-1, required=True)
@click.option(
    "-d",
    "--depth",
    "depths",
    type=Numbers(0),
    multiple=True,
    help="Decode after so many tokens; a list such as 16,128.  [default: 16,128,1024 as far as they fit]",
)
@click.option(
    "-n", "--decode", type=click.IntRange(0, _MOST), default=16, show_default=True, help="Tokens to decode; 0: none."
)
@click.option(
    "-p",
    "--prefill",
    type=Numbers(0),
    multiple=True,
    help="Tokens to take at once into a fresh state; 0: none.  [default: 512 or the capacity]",
)
@click.option("-b", "--batch", type=Numbers(1), multiple=True, help="Sequences that advance together.  [default: 1]")
@click.option("-t", "--threads", type=Numbers(1), multiple=True, help="Threads of each contestant.  [default: 1]")
@click.option(
    "-r", "--repeats", type=click.IntRange(1, 10000), default=9, show_default=True, help="Turns of each contestant."
)
@click.option(
    "--turn-ms", type=FiniteRange(1, 60000), default=60, show_default=True, help="Milliseconds of a turn, about."
)
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    help="parallel, recurrent, onnxruntime, tensorrt, native or node; may be repeated.  [default: all that apply]",
)
@click.option("--provider", default="cpu", show_default=True, help="onnxruntime execution provider.")
@click.option("--profile", is_flag=True, help="Of ONNX bundles: the time of every node of a step, by block and role.")
@click.option("--predict", is_flag=True, help="Predict times, memory and the longest sequence instead of measuring.")
@click.option(
    "--device",
    help="Predict for this device: a name (`--device list` shows them), or a file that `doctor --measure --json` "
    "wrote.  [default: this machine, measured first]",
)
@json_option
@click.option("--csv", "csv_path", type=PATH, callback=checked_place, help="Also write the rows to this file.")
@click.option("--html", type=PATH, callback=checked_place, help="Also write tables and plots as one page to this file.")
@click.option("--against", type=PATH, help="Compare with what `bench --json` wrote before, as ratios.")
@click.pass_context
def command(context: click.Context, /, folders: tuple[Path, ...], **options: Any) -> None:
    """Measure what tokens cost: latency against depth, prefill, memory, and how far that is from the machine's floor.

    Every contestant (a bundle, or a RUN in both of its runtimes) runs in a process of its own; they take turns, so that
    ratios are taken within a turn. Times are medians over the repeats with half the distance of the quartiles. The
    floor is what this machine, by kernels that are measured in the same run, cannot beat: all weights read once, and
    one exp per element of the pool. Interrupted, it reports what it has measured.
    """
    given = given_options(context)
    _check_combinations(options, given)
    places = [options["json_path"], options["csv_path"], options["html"]]
    from causalrn.export.cli.verify_files import check_places

    check_places(places, [options["against"]])
    for name in ("depths", "prefill", "batch", "threads"):
        options[name] = tuple(dict.fromkeys(number for numbers in options[name] for number in numbers))
    if options["html"] is not None:
        require_extra("jinja2")
    if options["predict"]:
        from causalrn.export.cli.bench_predict import predict

        predict(folders, options)
        return
    if options["profile"]:
        require_extra("onnx")
        from causalrn.export.cli.bench_profile import profile

        profile(folders, options)
        return
    from causalrn.export.cli.bench_run import bench

    context.exit(bench(folders, options))


def _check_combinations(options: dict[str, Any], given: set[str]) -> None:
    """Refuse options that would be ignored.

    Raises:
        InputError: two that contradict each other.
    """
    if options["predict"] and options["profile"]:
        raise InputError("--predict and --profile contradict each other: ask for one of them")
    if options["device"] is not None and not options["predict"]:
        raise InputError("--device needs --predict: what is measured is this machine")
    for mode in ("predict", "profile"):
        if options[mode]:
            kept = () if mode == "predict" else ("runtimes",)
            ignored = sorted(option for name, option in _MEASURE_ONLY.items() if name in given and name not in kept)
            if ignored:
                raise InputError(f"{ignored[0]} and --{mode} contradict each other: nothing of it is measured")
