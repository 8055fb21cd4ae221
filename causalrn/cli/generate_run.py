"""One generation, or one teacher-forced pass, for `run` and `demo`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from causalrn.bundle.alphabet import REPLACEMENT, parse_token_ids
from causalrn.bundle.disk.files import check_output_file, written_file
from causalrn.cli.console import output_stream
from causalrn.cli.prompt_input import note_lengths, typed_prompts
from causalrn.cli.terminal import as_shown
from causalrn.cli.verbosity import note, show_progress
from causalrn.errors import CapacityError, InputError
from causalrn.runtimes.generation import GeneratedStep, Prompts, need_slots, prompt_rows
from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.runtimes.session import Session
from causalrn.workflows.pages.figures import counted
from causalrn.workflows.reports import GeneratedRow, RunReport
from causalrn.workflows.token_ids import load_token_ids


@dataclass(frozen=True)
class Generated:
    """What was generated: per row its text and token ids; steps are those of the longest row."""

    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    steps: int


def generate_text(
    session: Session,
    prompts: tuple[str, ...],
    options: GenerationOptions,
    state_in: Path | None = None,
    state_out: Path | None = None,
    *,
    pause: float = 0.0,
    path: Path | None = None,
) -> RunReport:
    """Print generated text: one prompt as it comes, token by token; a batch when it is done, a line each.

    Args:
        path: of the folder, for the report.
    """
    if state_in is not None:
        session.load(state_in)
    if state_out is not None:
        check_output_file(state_out)
    rows = prompt_rows(session, _prompts(session, prompts))
    in_slots = rows is not None and need_slots(session, rows)
    if in_slots and state_out is not None:
        raise InputError(
            "--state-out keeps one state, and prompts of different lengths end at different positions: run them singly"
        )
    fresh = () if session.position else prompts
    started, stream = time.perf_counter(), output_stream()
    steps = session.generate(rows, options)  # refuses what does not fit
    notes = note_lengths(session, fresh)
    generated = _print_tokens(session, steps, len(prompts), stream, pause, is_end=state_out is None)
    ms_per_token = 1e3 * (time.perf_counter() - started) / max(generated.steps, 1)
    if len(generated.texts) > 1:
        lines = (text.rstrip(" ") if session.card.alphabet is None else text for text in generated.texts)
        print(as_shown("\n".join(lines), stream), file=stream)
    words = counted(generated.steps, "token") + ("" if pause else f", {ms_per_token:.2f} ms per token")
    where = "positions of their own" if in_slots else f"position {session.position}"
    note(f"[{session.runtime}: {words}, {where}]")
    if state_out is not None:
        session.save(state_out)
    return RunReport(
        path=str(path),
        runtime=session.runtime,
        rows=_rows(session, prompts, generated, options),
        steps=generated.steps,
        ms_per_token=ms_per_token,
        state=None if state_out is None else str(state_out),
        notes=notes,
    )


def answer_lines(session: Session, options: GenerationOptions) -> None:
    """Take prompts as they are typed, each from a fresh state; what is wrong with one does not end it."""
    stream = output_stream()
    for prompt in typed_prompts(session):
        session.reset(1)
        try:
            steps = session.generate(_prompts(session, (prompt,)), options)
            note_lengths(session, (prompt,))
            _print_tokens(session, steps, 1, stream, 0.0, is_end=True)
        except (CapacityError, InputError) as error:
            note(f"{error}")


def _rows(
    session: Session, prompts: tuple[str, ...], generated: Generated, options: GenerationOptions
) -> tuple[GeneratedRow, ...]:
    """Rows of a report."""
    alphabet = session.card.alphabet
    stops = options.stop_ids if options.stop_ids is not None else alphabet.stop_ids if alphabet else ()
    rows = []
    for index, (text, tokens) in enumerate(zip(generated.texts, generated.tokens, strict=True)):
        ended = bool(tokens and tokens[-1] in stops) or bool(options.stop and text.endswith(options.stop))
        prompt = prompts[index] if prompts else None
        rows.append(GeneratedRow(prompt, text.rstrip(" ") if alphabet is None else text, tokens, ended))
    return tuple(rows)


def _print_tokens(
    session: Session,
    steps: Iterable[GeneratedStep],
    rows: int,
    stream: TextIO,
    pause: float,
    *,
    is_end: bool,
) -> Generated:
    """Take what is generated; a single row is written to the stream as it comes.

    Args:
        is_end: nothing goes on from here: a begun character is shown as a replacement character.
    """
    batch = max(rows, session.batch)
    texts: list[str] = [""] * batch
    tokens: list[list[int]] = [[] for _ in range(batch)]
    count = 0
    for step in steps:
        count += 1
        texts = [text + more for text, more in zip(texts, step.texts, strict=True)]
        for row in np.flatnonzero(step.active):
            tokens[row].append(int(step.tokens[row]))
        if batch == 1:
            stream.write(as_shown(step.text, stream))
            stream.flush()
            time.sleep(pause)
    tails = session.text_tails or (b"",) * batch
    ends = [REPLACEMENT if tail and is_end else "" for tail in tails]
    if batch == 1:
        stream.write(f"{ends[0]}\n")
        stream.flush()
    whole = tuple(text + end for text, end in zip(texts, ends, strict=True))
    return Generated(whole, tuple(map(tuple, tokens)), count)


def _prompts(session: Session, prompts: tuple[str, ...]) -> Prompts:
    if not prompts:
        return None
    if session.card.alphabet is not None:
        return list(prompts)
    rows = [parse_token_ids(prompt.split()) for prompt in prompts]
    if not all(rows):
        raise InputError("a prompt holds no token id: give at least one")
    return [np.array(row, np.int64) for row in rows]


def write_logits(session: Session, input_ids: Path, output: Path, mode: str, *, path: Path) -> RunReport:
    """Teacher-forced logits of token ids, as float32 .npy [B, T, V], whole or not at all.

    Args:
        path: of the folder, for the report.
    """
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
    return RunReport(
        path=str(path), runtime=session.runtime, logits=str(output), shape=tuple(logits.shape), steps=length
    )
