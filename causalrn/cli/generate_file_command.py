"""`causalrn-export generate-file`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from causalrn.cli.console import EXIT_CHECK_FAILED, console, write_json
from causalrn.cli.number_types import Real, Whole
from causalrn.cli.options import PATH, check_places, json_option, memory_option, runtime_options, seed_option
from causalrn.cli.verbosity import show_progress


@click.command(
    epilog="""\b
Examples:
  causalrn-export generate-file bundle in.jsonl out.jsonl --max-new-tokens 64
  causalrn-export generate-file bundle in.jsonl out.jsonl --temperature 0.8

\b
A line in:   {"id": "a7", "prompt": "abc", "max_tokens": 8, "seed": 3}
A line out:  {"index":0,"id":"a7","text":"abc","tokens":[3,4,5,2],
              "finish_reason":"stop"}

Exit code 1 if lines could not run: they say why."""
)
@click.argument("bundle", type=PATH)
@click.argument("input", metavar="IN.jsonl", type=PATH)
@click.argument("output", metavar="OUT.jsonl", type=PATH)
@click.option("--max-new-tokens", type=Whole(1), help="Most tokens to generate.  [default: the capacity]")
@click.option("--temperature", type=Real(0.0), default=0.0, show_default=True, help="0 is greedy.")
@click.option(
    "--top-k", type=Whole(0), default=0, show_default=True, help="Keep the k most likely tokens; 0 keeps all."
)
@click.option(
    "--top-p", type=Real(0.0, 1.0), default=1.0, show_default=True, help="Keep tokens up to this probability."
)
@seed_option
@click.option("--stop", multiple=True, help="Stop after this text; may be repeated. EOS stops letters by itself.")
@click.option("--max-slots", type=Whole(1, 65536), default=64, show_default=True, help="Lines at once.")
@memory_option("--state-memory", 1024, "Memory of their states.", least=1)
@memory_option("--cache-memory", 64, "Memory for states after beginnings that prompts share.")
@click.option("--runtime", help="Of the bundle; its default otherwise.")
@runtime_options
@click.option("--ray", is_flag=True, help="Run on workers of Ray: of the cluster of RAY_ADDRESS, or of this machine.")
@click.option("--workers", type=Whole(1, 4096), help="How many of them.  [default: 2]")
@click.option("--restart", is_flag=True, help="Forget what an earlier run has left in OUT.jsonl.part.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.jsonl, once the new one is whole.")
@json_option
@click.pass_context
def command(
    context: click.Context, /, bundle: Path, input: Path, output: Path, json_path: Path | None, **options: Any
) -> None:
    """Generate after every prompt of a file: one line of JSON out for each line in, in the same order.

    A line in has "prompt" or "tokens", and may have "id", "max_tokens", "seed", "temperature", "top_k", "top_p" and
    "stop"; the options hold for lines that do not say it. Many lines run at once, and what a line gives does not depend
    on the others. A line that cannot run gets a line with "error".

    Answers lie in OUT.jsonl.part until all are there. After Ctrl-C, a crash or a full disk the same command goes on
    from there, and the file has the same bytes as without.
    """
    from causalrn.workflows.generate_file import generate_file
    from causalrn.workflows.pages.figures import counted

    check_places([json_path], [input, output])
    result = generate_file(bundle, input, output, progress=show_progress, **options)
    write_json(json_path, result.to_json())
    out = console()
    resumed = f", {result.resumed_lines:,} of them by an earlier run" if result.resumed_lines else ""
    out.print(f"{output}: {counted(result.lines, 'line')}{resumed}")
    out.print(
        f"{counted(result.generated_tokens, 'token')} in {result.seconds:.1f} s, {result.tokens_per_s:,.0f} tokens/s",
    )
    if result.errors:
        out.print(f'{counted(result.errors, "line")} could not run: see "error" there')
        context.exit(EXIT_CHECK_FAILED)
