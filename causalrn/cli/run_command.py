"""`causalrn-export run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from causalrn.bundle.disk.files import STANDARD_OUTPUT
from causalrn.cli.console import write_json
from causalrn.cli.number_types import Real, Whole
from causalrn.cli.options import PATH, check_places, json_option, pop_session_options, runtime_options, seed_option
from causalrn.cli.verbosity import note
from causalrn.errors import InputError


@click.command(
    epilog="""\b
Examples:
  causalrn-export run bundle --prompt causalrelationxy
  causalrn-export run bundle --prompt-file prompts.txt --json answers.json
  causalrn-export run bundle --interactive
  causalrn-export run bundle --prompt causalrelationxy --temperature 0.8
  causalrn-export run bundle --prompt abc --max-new-tokens 4 --state-out state
  causalrn-export run bundle --state-in state                     and go on
  causalrn-export run bundle --input-ids ids.npy --logits logits.npy"""
)
@click.argument("folder", metavar="BUNDLE_OR_RUN", type=PATH)
@click.option(
    "--prompt", "prompts", multiple=True, help="Text to go on from, - for standard input; repeat it for several."
)
@click.option(
    "--prompt-file",
    type=PATH,
    help="Prompts from this file, one per line; of a model of bytes, the whole file is one.",
)
@click.option("-i", "--interactive", is_flag=True, help="Ask for prompts, one after the other; an empty line ends it.")
@click.option("--max-new-tokens", type=Whole(1), help="Most tokens to generate.  [default: the capacity]")
@click.option("--temperature", type=Real(), default=0.0, show_default=True, help="0 is greedy.")
@click.option(
    "--top-k", type=int, metavar="N", default=0, show_default=True, help="Keep the k most likely tokens; 0 keeps all."
)
@click.option("--top-p", type=Real(), default=1.0, show_default=True, help="Keep tokens up to this probability.")
@seed_option
@click.option("--stop", help="Stop after this text; EOS stops letters by itself.")
@click.option(
    "--state-in", type=PATH, help="Go on from this state file, of this bundle or another one of its checkpoint."
)
@click.option("--state-out", type=PATH, help="Save the state at the end to this file.")
@click.option("--input-ids", type=PATH, help="Token ids, .npy [B, T]: compute logits instead of generating.")
@click.option("--logits", type=PATH, help="Where the logits go, .npy float32 [B, T, V].")
@click.option(
    "--mode",
    type=click.Choice(["step", "prefill", "mixed"]),
    help="How --input-ids are taken: one by one, at once, or half and half.  [default: prefill]",
)
@click.option("--runtime", help="parallel or recurrent for a RUN; of a bundle its default, or openvino for ONNX.")
@runtime_options
@json_option
def command(
    folder: Path,
    prompts: tuple[str, ...],
    prompt_file: Path | None,
    interactive: bool,
    max_new_tokens: int | None,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    stop: str | None,
    state_in: Path | None,
    state_out: Path | None,
    input_ids: Path | None,
    logits: Path | None,
    mode: str | None,
    runtime: str | None,
    json_path: Path | None,
    **options: Any,
) -> None:
    """Generate text after a prompt, or compute logits for token ids.

    A copying model repeats prompts of the length that it was trained with; for others a line on standard error says so.
    Prompts of a letters model get BOS before and SEP after them; a blank stands for SEP, so that "abcdefgh cde" asks a
    lookup model what followed cde. With --state-in prompts are appended as they are. Without a prompt, --state-in goes
    on where the state was saved.
    """
    from causalrn.cli import generate_run
    from causalrn.cli.prompt_input import read_prompts
    from causalrn.runtimes.generation_options import GenerationOptions
    from causalrn.runtimes.opening import open_folder
    from causalrn.workflows.reports import report_values

    has_prompts = bool(prompts) or prompt_file is not None
    _check_combinations(has_prompts, interactive, (input_ids, logits, mode), (state_in, state_out), json_path)
    check_places([json_path, logits, state_out], [prompt_file])
    check_places([json_path], [input_ids])
    choice = GenerationOptions(max_new_tokens, temperature, top_k, top_p, seed, stop)
    with open_folder(folder, runtime, pop_session_options(options)) as session:
        if interactive:
            generate_run.answer_lines(session, choice)
            return
        if input_ids is not None and logits is not None:
            report = generate_run.write_logits(session, input_ids, logits, mode or "prefill", path=folder)
        else:
            asked = read_prompts(session, prompts, prompt_file)
            report = generate_run.generate_text(session, asked, choice, state_in, state_out, path=folder)
        write_json(json_path, report_values(report))
        for written in (logits, state_out, json_path):
            if written not in (None, STANDARD_OUTPUT):
                note(f"wrote {written}")  # standard output has what was generated, and nothing else


def _check_combinations(
    has_prompts: bool,
    interactive: bool,
    logits: tuple[Path | None, Path | None, str | None],
    states: tuple[Path | None, Path | None],
    json_path: Path | None,
) -> None:
    """Refuse options that would be ignored, or nothing to do.

    Args:
        logits: --input-ids, --logits and --mode.
        states: --state-in and --state-out.

    Raises:
        InputError: options that contradict each other, or none that says what to run.
    """
    input_ids, output, mode = logits
    if interactive and (has_prompts or json_path is not None or any(each is not None for each in (*logits, *states))):
        raise InputError("--interactive asks for prompts itself: it goes with no other input, state, file or report")
    if (input_ids is None) != (output is None):
        raise InputError("--input-ids and --logits belong together: give both")
    if input_ids is None and mode is not None:
        raise InputError("--mode belongs to --input-ids")
    if input_ids is not None and (has_prompts or any(state is not None for state in states)):
        raise InputError("--input-ids starts from a fresh state: it goes with no prompt, --state-in or --state-out")
    if input_ids is None and not has_prompts and not interactive and states[0] is None:
        raise InputError(
            "nothing to run: give --prompt, --prompt-file, --interactive, --state-in, or --input-ids with --logits"
        )
