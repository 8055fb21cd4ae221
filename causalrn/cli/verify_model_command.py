"""`causalrn-export verify-model`."""

from __future__ import annotations

from typing import Any

import click

from causalrn.cli.console import EXIT_CHECK_FAILED, require_extra
from causalrn.cli.number_types import Real, Whole
from causalrn.cli.options import PATH, check_places, checked_place, json_option, seed_option
from causalrn.cli.verbosity import show_progress
from causalrn.runtimes.parity.results import MODEL_LEVELS

_MOST = 1 << 16


@click.command(
    "verify-model",
    epilog="""\b
Examples:
  causalrn-export verify-model my_model.py:make
  causalrn-export verify-model my_model.py:make --steps 512 --html report.html
  causalrn-export verify-model my_model.py:make --level isolation --level rows

The function returns a module with step, initial_state and vocabulary, or a dict of parallel, step, initial_state,
vocabulary and, if there is one, prefill.

Exit code 1 if anything is out of tolerance.""",
)
@click.argument("model", metavar="FILE.py:FUNCTION")
@click.option("--steps", type=Whole(4, _MOST), default=128, show_default=True, help="Tokens per sequence.")
@click.option("--batch", type=Whole(1, 1024), default=2, show_default=True, help="Sequences.")
@click.option("--vocabulary", type=Whole(2), help="Number of token ids.  [default: what the function says]")
@click.option("--capacity", type=Whole(4), help="Most positions.  [default: what the function says]")
@click.option(
    "--level",
    "levels",
    multiple=True,
    type=click.Choice(MODEL_LEVELS),
    metavar="LEVEL",
    help=f"Check only this; may be repeated: {', '.join(MODEL_LEVELS)}.  [default: all]",
)
@click.option("--drift-steps", type=Whole(2), default=512, show_default=True, help="Tokens of the long run, at most.")
@seed_option
@click.option("--time-budget", type=Real(1), default=120, show_default=True, help="Seconds.")
@json_option
@click.option("--html", type=PATH, callback=checked_place, help="Also write the report as one page to this file.")
@click.option("--save-outputs", type=PATH, callback=checked_place, help="Also write tokens and all logits, .npz.")
@click.pass_context
def command(context: click.Context, /, model: str, **options: Any) -> None:
    """Test that a recurrent model of yours steps as its parallel form computes.

    FILE.py is run, and FUNCTION in it makes the model. Its modules are copied to float64 for the reference. Levels:
    contract, what the state is; logits, state, split (prefill in parts, onto states that are not empty), layer; rows,
    each row of a batch alone; isolation, what one sequence does must not reach another; reorder, rows in another order;
    padding, on the left, with an attention mask; positions, given and left out; reload, saved and loaded again; calls,
    walks over everything a session offers; drift over a long run; determinism. What fails is traced to its first step,
    to the module whose output first differs, and to the tensors of the state that it reads.
    """
    from causalrn.cli.verify_report import write_and_print
    from causalrn.workflows.verify_recurrent import verify_model_file

    require_extra("torch")
    places = {name: options.pop(name) for name in ("json_path", "html", "save_outputs")}
    check_places([*places.values()], [])
    verified = verify_model_file(model, progress=show_progress, **options)
    write_and_print(verified, **places)
    if not verified.passed:
        context.exit(EXIT_CHECK_FAILED)
