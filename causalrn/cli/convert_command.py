"""`causalrn-export convert`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from causalrn.bundle.known_by import caution
from causalrn.cli.console import console, name_written, require_extra, write_json
from causalrn.cli.flags import in_flags
from causalrn.cli.number_types import Real, Whole
from causalrn.cli.options import PATH, check_places, json_option, run_output_option, seed_option, tell_what_goes
from causalrn.cli.verbosity import show_progress
from causalrn.model.config import ACTIVATIONS, HEAD_SCALES, NORMS, READOUTS
from causalrn.training.checkpoint_folder import CHECKPOINT_MARKER
from causalrn.training.tasks import TASKS
from causalrn.workflows.model_options import MODELS

if TYPE_CHECKING:
    from rich.table import Table

    from causalrn.workflows.convert import ConvertResult
    from causalrn.workflows.setting_race import RankedSetting, Ranking

_SHOWN = 6


@click.command(
    epilog="""\b
Examples:
  causalrn-export convert model.pth -o run                  ranked by copying
  causalrn-export convert model.pth -o run --reference logits.npz   settles it
  causalrn-export convert model.pth -o run --readout exact --heads 4
  causalrn-export convert model.pth -o run --text book.txt  bytes
  causalrn-export convert model.pth -o run --tokens ids.npy    other ids

What is named and clearly wrong is refused."""
)
@click.argument("weights", type=PATH)
@click.option("--readout", type=click.Choice(READOUTS), help="How positions read the past.")
@click.option("--model", type=click.Choice(MODELS), help="What the weights are.  [default: what their keys say]")
@click.option("--heads", type=Whole(1), help="Parts of H, normalized each by itself.")
@click.option("--norm", type=click.Choice(NORMS), help="LayerNorm or RMSNorm.")
@click.option(
    "--eps",
    type=Real(0, 1),
    help="normalization_eps of the paper's code, which every norm adds beside its root.",
)
@click.option("--activation", type=click.Choice(ACTIVATIONS), help="Of a pair of positions.")
@click.option("--post-norm", is_flag=True, help="The readout's output is normalized.")
@click.option("--no-post-norm", is_flag=True, help="The readout's output is not normalized.")
@click.option(
    "--head-scale",
    type=click.Choice(HEAD_SCALES),
    help="max: as the official Relation Network; none: as its ablation blocks.",
)
@click.option(
    "--reference",
    type=PATH,
    help="Logits that your training code recorded (.npz or .safetensors with tokens [B, T] and logits [B, T, V]): the "
    "settings that give them are right.",
)
@click.option(
    "--task",
    type=click.Choice(tuple(TASKS)),
    help="What to compare settings on, as the model was trained.  [default: copy, where there are 29 tokens]",
)
@click.option("--length", type=Whole(1), help="Letters per string.  [default: what the positions allow]")
@click.option("--text", type=PATH, help="Compare settings on the bytes of this file.")
@click.option("--tokens", type=PATH, help="Compare settings on token ids [N, T] in this .npy file.")
@click.option(
    "--samples",
    type=Whole(2),
    help="Sequences to compare settings on at most.  [default: 2000]",
)
@click.option("--force", is_flag=True, help="Convert with what is named even if something else is clearly better.")
@seed_option
@click.option("--overwrite", is_flag=True, help="Replace an earlier RUN in the output folder, and say what goes.")
@run_output_option
@json_option
def command(weights: Path, output: Path, json_path: Path | None, **options: Any) -> None:
    """Turn weights saved by the paper's training script, or by one of your own, into a RUN.

    Reads what torch.save or safetensors wrote, under any name: a state dict, with whatever prefixes wrappers gave its
    keys; a dictionary that holds one beside optimizer and epoch; a Lightning checkpoint; safetensors in shards (the
    folder or its index); a RUN, whose settings are known (--reference, --text, --tokens or --task check them). Nothing
    in a file is executed. Sizes come from the shapes. What shapes do not tell (readout, heads, norm, eps, activation,
    post-norm, head scale, kind of attention) need not be named: it is found with --reference, or else by ranking what
    is possible by its loss on a task. What is named and clearly beaten is refused; so is a choice between settings that
    cannot be told apart. The RUN and every bundle and report of it say how the architecture is known.
    """
    require_extra("torch")
    from causalrn.workflows.convert import convert
    from causalrn.workflows.reports import ConvertReport, report_values

    check_places([json_path], [weights, options["reference"], options["text"], options["tokens"]], output)
    tell_what_goes(output, CHECKPOINT_MARKER, options["overwrite"])
    result = convert(weights, output=output, **options, progress=show_progress)
    write_json(json_path, report_values(ConvertReport.of(result, str(output))))
    out = console()
    out.print(f"{result.source}: {result.run.card.config.describe()}")
    if result.unwrapped:
        out.print(f"unwrapped: {'; '.join(result.unwrapped)}")
    if result.ranking is not None:
        out.print(f"settings by their loss on {result.ranking.data}, in nats per token:")
        out.print(_table(result.ranking, result))
        out.print(f"{len(result.ranking.rows)} settings were tried; chance would be {result.ranking.chance:.3g}")
    for line in _describe(result, output):
        out.print(in_flags(line))
    name_written(json_path)


def _table(ranking: Ranking, result: ConvertResult) -> Table:
    """The best settings, the chosen one among them."""
    from rich.table import Table

    from causalrn.model.candidates import canonical

    table = Table(box=None, padding=(0, 2, 0, 1))
    table.add_column("setting", overflow="fold")
    for name in ("loss", "behind the best", "sequences"):
        table.add_column(name, justify="right", no_wrap=True)
    chosen = canonical(result.run.card.block_config)
    for index, row in enumerate(ranking.rows):
        if index < _SHOWN or row.setting == chosen:
            table.add_row(*_cells(row, ranking))
    return table


def _cells(row: RankedSetting, ranking: Ranking) -> tuple[str, ...]:
    from causalrn.model.candidates import setting_text

    behind = "" if row == ranking.best else f"{row.margin:.2g} ± {row.interval:.1g}"
    return setting_text(row.setting), f"{row.loss:.4g}", behind, f"{row.strings:,}"


def _describe(result: ConvertResult, output: Path) -> Iterator[str]:
    """How the architecture is known, and where it is."""
    known_by = result.known_by
    if known_by is not None and known_by.how != "assumed":
        yield f"architecture: {known_by.describe()}"
    elif warning := caution(known_by):
        yield f"note: {warning}"
    yield f"wrote {output}"
