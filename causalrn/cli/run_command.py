"""`causalrn-export run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from causalrn.cli.number_types import Real, Whole
from causalrn.cli.options import PATH, pop_session_options, runtime_options, seed_option
from causalrn.errors import InputError


@click.command(
    epilog="""\b
Examples:
  causalrn-export run bundle --prompt causalrelationxy
  causalrn-export run bundle --prompt causalrelationxy --temperature 0.8 --top-k 5 --seed 1
  causalrn-export run bundle --prompt causalrelationxy --max-new-tokens 4 --state-out s.safetensors
  causalrn-export run bundle --state-in s.safetensors
  causalrn-export run bundle --input-ids ids.npy --logits logits.npy --mode mixed"""
)
@click.argument("folder", metavar="BUNDLE_OR_RUN", type=PATH)
@click.option("--prompt", "prompts", multiple=True, help="Text to go on from; repeat it for several.")
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
def command(
    folder: Path,
    prompts: tuple[str, ...],
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
    **options: Any,
) -> None:
    """Generate text after a prompt, or compute logits for token ids.

    A copying model repeats prompts of the length that it was trained with. Prompts of a letters model get BOS before
    and SEP after them; a blank stands for SEP, so that "abcdefgh cde" asks a lookup model what followed cde. With
    --state-in prompts are appended as they are. Without a prompt, --state-in goes on where the
    state was saved.
    """
    from causalrn.cli import generate_run
    from causalrn.runtimes.generation_options import GenerationOptions
    from causalrn.runtimes.opening import open_folder

    if (input_ids is None) != (logits is None):
        raise InputError("--input-ids and --logits belong together: give both")
    if input_ids is None and mode is not None:
        raise InputError("--mode belongs to --input-ids")
    if input_ids is not None and (prompts or state_in or state_out):
        raise InputError("--input-ids starts from a fresh state: it goes with no --prompt, --state-in or --state-out")
    if input_ids is None and not prompts and state_in is None:
        raise InputError("nothing to run: give --prompt, --state-in, or --input-ids with --logits")
    choice = GenerationOptions(max_new_tokens, temperature, top_k, top_p, seed, stop)
    with open_folder(folder, runtime, pop_session_options(options)) as session:
        if input_ids is not None and logits is not None:
            generate_run.write_logits(session, input_ids, logits, mode or "prefill")
        else:
            generate_run.generate_text(session, prompts, choice, state_in, state_out)
