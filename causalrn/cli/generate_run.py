"""One generation, or one teacher-forced pass, for `run` and `demo`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TextIO

import numpy as np

from causalrn.bundle.alphabet import REPLACEMENT, parse_token_ids
from causalrn.bundle.disk.files import check_output_file, written_file
from causalrn.cli.terminal import as_shown
from causalrn.cli.verbosity import show_progress
from causalrn.errors import InputError
from causalrn.runtimes.generation import Prompts, runs_in_slots
from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.runtimes.session import Session
from causalrn.workflows.token_ids import load_token_ids


def generate_text(
    session: Session,
    prompts: tuple[str, ...],
    options: GenerationOptions,
    state_in: Path | None = None,
    state_out: Path | None = None,
    *,
    pause: float = 0.0,
) -> None:
    """Print generated text: one prompt as it comes, token by token; a batch when it is done, a line each."""
    if state_in is not None:
        session.load(state_in)
    if state_out is not None:
        check_output_file(state_out)
    given = _prompts(session, prompts)
    in_slots = runs_in_slots(session, given)
    if in_slots and state_out is not None:
        raise InputError(
            "--state-out keeps one state, and prompts of different lengths end at different positions: run them singly"
        )
    started = time.perf_counter()
    count, texts = _print_tokens(session, given, len(prompts), options, sys.stdout, pause, is_end=state_out is None)
    seconds = time.perf_counter() - started
    if len(texts) > 1:
        lines = (text.rstrip(" ") if session.card.alphabet is None else text for text in texts)
        print(as_shown("\n".join(lines), sys.stdout))
    note = f"{count} tokens, {1e3 * seconds / max(count, 1):.2f} ms per token" if not pause else f"{count} tokens"
    where = "positions of their own" if in_slots else f"position {session.position}"
    print(f"[{session.runtime}: {note}, {where}]", file=sys.stderr)
    if state_out is not None:
        session.save(state_out)


def _print_tokens(
    session: Session,
    prompts: Prompts,
    rows: int,
    options: GenerationOptions,
    stream: TextIO,
    pause: float,
    *,
    is_end: bool,
) -> tuple[int, list[str]]:
    """Generate; a single row is written to the stream as it comes. Gives tokens per row and the texts of all rows.

    Args:
        is_end: nothing goes on from here: a begun character is shown as a replacement character.
    """
    batch = max(rows, session.batch)
    texts = [""] * batch
    count = 0
    for step in session.generate(prompts, options):
        count += 1
        texts = [text + more for text, more in zip(texts, step.texts, strict=True)]
        if batch == 1:
            stream.write(as_shown(step.text, stream))
            stream.flush()
            time.sleep(pause)
    tails = session.text_tails or (b"",) * batch
    ends = [REPLACEMENT if tail and is_end else "" for tail in tails]
    if batch == 1:
        stream.write(f"{ends[0]}\n")
    return count, [text + end for text, end in zip(texts, ends, strict=True)]


def _prompts(session: Session, prompts: tuple[str, ...]) -> Prompts:
    if not prompts:
        return None
    if session.card.alphabet is not None:
        return list(prompts)
    rows = [parse_token_ids(prompt.split()) for prompt in prompts]
    if not all(rows):
        raise InputError("a prompt holds no token id: give at least one")
    return [np.array(row, np.int64) for row in rows]


def write_logits(session: Session, input_ids: Path, output: Path, mode: str) -> None:
    """Teacher-forced logits of token ids, as float32 .npy [B, T, V], whole or not at all."""
    ids = load_token_ids(input_ids)
    check_output_file(output)
    if output.exists() and output.samefile(input_ids):
        raise InputError(f"{output} is the file of token ids itself: name another one for the logits")
    session.reset(len(ids))
    try:
        session.check(ids)
    except InputError as error:
        raise InputError(f"{input_ids}: {error}") from None
    length = ids.shape[1]
    first = {"step": 0, "prefill": length, "mixed": length // 2}[mode]
    parts = [session.prefill(ids[:, :first])] if first else []
    with show_progress("logits", length) as advance:
        advance(first)
        for index in range(first, length):
            parts.append(session.step(ids[:, index])[:, None])
            advance()
    logits = np.concatenate(parts, axis=1).astype(np.float32)
    with written_file(output) as partial, partial.open("wb") as file:
        np.save(file, logits)
