"""Generation: prompts in, one token per row and step out, as an iterator over any session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from causalrn.errors import InputError
from causalrn.runtimes.checks import as_array, check_tokens
from causalrn.runtimes.generated_text import GeneratedTexts
from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.runtimes.slots import Slots
from causalrn.runtimes.snapshot import FloatArray, IntArray
from causalrn.runtimes.token_choice import Stops, choose_tokens
from causalrn.training.card import ModelCard

Prompts = str | Sequence[str] | IntArray | Sequence[IntArray] | None
"""One text, several, token ids [B, T], token ids row by row, or None to go on."""


class Generating(Protocol):
    """What generation needs of a session."""

    card: ModelCard
    capacity: int | None
    max_batch: int | None
    text_tails: tuple[bytes, ...]

    @property
    def position(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def last_logits(self) -> FloatArray | None: ...
    def step(self, tokens: npt.ArrayLike) -> FloatArray: ...
    def prefill(self, tokens: npt.ArrayLike) -> FloatArray: ...
    def reset(self, batch: int | None = None) -> None: ...
    def check_room(self, tokens: int) -> None: ...
    def end(self) -> None: ...
    def slots(self) -> Slots: ...


@dataclass(frozen=True)
class GeneratedStep:
    """One generated token per row.

    Attributes:
        tokens: int64 [B]; what a finished row holds does not count.
        active: bool [B]: rows that were still generating, this token included.
        finished: bool [B]: rows that end with this token or ended before.
        texts: what each row's token adds to its text: markers add nothing, a byte adds its character once it is whole
            (the session keeps a begun one, and going on completes it), a row's end one replacement character where it
            never is; without an alphabet, the token id.
    """

    tokens: IntArray
    active: npt.NDArray[np.bool_]
    finished: npt.NDArray[np.bool_]
    texts: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Text of the first row, which is all there is where one prompt was given."""
        return self.texts[0] if self.texts else ""

    def __str__(self) -> str:
        """As :attr:`text`: ``print(step, end="")`` shows what is generated as it comes."""
        return self.text


def generate(session: Generating, prompts: Prompts, options: GenerationOptions) -> Iterator[GeneratedStep]:
    """Generate after a prompt.

    The session takes every token that is yielded, so at the end its state includes the last one: a snapshot taken
    there goes on with ``prompts=None``. Only a token chosen at the capacity finds no room; nothing goes on from there.
    Which rows of a batch had finished is not part of a state: going on with a batch goes on with all rows.

    Args:
        session: at position 0, or holding a state that the prompts are appended to.
        prompts: one text, a batch of texts, token ids [B, T], a list of token ids, or None to go on from the session's
            state. A text gets the alphabet's markers at position 0 and is appended bare to a state. Prompts of
            different lengths, or more than the session's batch can be, run in slots: they need a
            session at position 0, whose own state stays as it is.
        options: see :class:`GenerationOptions`.

    Raises:
        InputError: prompts that do not fit; CapacityError: a prompt beyond the capacity. Before anything is taken.
    """
    rows = prompt_rows(session, prompts)
    if rows is not None and need_slots(session, rows):
        return generate_ragged(session, rows, options)
    ids = None if rows is None else np.stack(rows)
    limit = _limit(session, 0 if ids is None else ids.shape[1], options)
    stops = Stops(session.card.alphabet, options)
    tails = session.text_tails
    if ids is None:
        logits = session.last_logits
    else:
        if session.position == 0 and session.batch != len(ids):
            session.reset(len(ids))
        logits = session.prefill(ids)[:, -1]
    if logits is None:
        raise InputError("nothing to go on from: give a prompt, or restore a state first")
    texts = GeneratedTexts(session.card.alphabet, session.batch, tails, goes_on=ids is None)
    return _generate(session, logits, limit, options, stops, texts)


def need_slots(session: Generating, rows: Sequence[IntArray]) -> bool:
    """Whether :func:`generate` takes these prompts [T] in slots, which leaves the session's own state as it is."""
    return len({len(row) for row in rows}) > 1 or len(rows) > (session.max_batch or len(rows))


def _generate(
    session: Generating,
    logits: FloatArray,
    limit: int,
    options: GenerationOptions,
    stops: Stops,
    texts: GeneratedTexts,
) -> Iterator[GeneratedStep]:
    finished = np.zeros(session.batch, bool)
    for _ in range(limit):
        tokens = choose_tokens(logits, options, session.position)
        active = ~finished
        finished = finished | stops.reached(tokens)
        room = session.capacity is None or session.position < session.capacity
        if room:
            logits = session.step(tokens)
        else:
            session.end()
        shown = texts.add(tokens, active, finished if room else np.ones_like(finished))
        session.text_tails = texts.tails
        yield GeneratedStep(tokens, active, finished.copy(), shown)
        if finished.all() or not room:
            return


def generate_ragged(
    session: Generating, rows: Sequence[IntArray], options: GenerationOptions
) -> Iterator[GeneratedStep]:
    """Generate after prompts of different lengths, each in a slot of its own; a row that has ended leaves at once.

    Every row gets what it would get alone, and finishes where its own room ends.

    Args:
        rows: token ids [T] of every row.

    Raises:
        InputError, CapacityError: as :func:`generate`.
    """
    if session.position > 0:
        raise InputError(
            "prompts of different lengths, or more than the session takes at once, begin afresh, and it holds a state: "
            "reset it first"
        )
    limits = np.array([_limit(session, len(row), options) for row in rows])
    stops = Stops(session.card.alphabet, options)
    texts = GeneratedTexts(session.card.alphabet, len(rows), (), goes_on=False)
    return _generate_ragged(session, rows, limits, options, stops, texts)


def _generate_ragged(
    session: Generating,
    rows: Sequence[IntArray],
    limits: IntArray,
    options: GenerationOptions,
    stops: Stops,
    texts: GeneratedTexts,
) -> Iterator[GeneratedStep]:
    finished = np.zeros(len(rows), bool)
    with session.slots() as slots:
        numbers = [slots.admit() for _ in rows]
        given = slots.prefill(dict(zip(numbers, rows, strict=True)))
        logits = np.stack([given[number][-1] for number in numbers])
        lengths = np.array([len(row) for row in rows])
        for count in range(1, int(limits.max()) + 1):
            positions = lengths + (count - 1)  # those of rows that have ended do not count
            tokens, active = choose_tokens(logits, options, positions), ~finished
            finished = finished | stops.reached(tokens) | (count >= limits)
            room = np.ones_like(active) if session.capacity is None else positions < session.capacity
            going = np.flatnonzero(active & room & ~finished)
            if len(going):
                taken = zip((numbers[row] for row in going), tokens[going].tolist(), strict=True)
                logits[going] = list(slots.step(dict(taken)).values())
            yield GeneratedStep(tokens, active, finished.copy(), texts.add(tokens, active, finished))
            if finished.all():
                return


def prompt_rows(session: Generating, prompts: Prompts) -> list[IntArray] | None:
    """Token ids [T] of every row, which :func:`generate` takes as well; None where there is no prompt.

    Raises:
        InputError: as :func:`generate`.
    """
    if prompts is None:
        return None
    if isinstance(prompts, np.ndarray) and (prompts.ndim != 2 or prompts.size == 0):
        raise InputError(f"prompts have shape {list(prompts.shape)}: give token ids [B, T]")
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise InputError("there is no prompt: give at least one")
    if isinstance(texts[0], str):
        return [np.array(ids, np.int64) for ids in _encoded(session, texts)]
    rows = [cast(IntArray, as_array(row)) for row in texts]  # checked where they are taken
    if not all(row.ndim == 1 and len(row) for row in rows):
        raise InputError(
            "a prompt of token ids is empty, or no list of them: give token ids [B, T], or a list of rows [T]"
        )
    if len({len(row) for row in rows}) > 1:
        return [check_tokens(row[None], 1, session.card.config.vocabulary)[0] for row in rows]
    return rows


def _encoded(session: Generating, texts: Sequence[str]) -> list[list[int]]:
    alphabet = session.card.alphabet
    if alphabet is None:
        raise InputError("this model has no alphabet: give prompts as token ids, an array [B, T]")
    if not all(texts):
        raise InputError("the prompt is empty")
    return [alphabet.encode_at(text, session.position) for text in texts]


def _limit(session: Generating, prompt_tokens: int, options: GenerationOptions) -> int:
    """How many tokens to generate; the last one needs no position of its own."""
    session.check_room(prompt_tokens)
    if session.capacity is None:
        if options.max_new_tokens is None:
            raise InputError("this model has no capacity: say how many tokens to generate (`max_new_tokens`)")
        return options.max_new_tokens
    room = session.capacity - session.position - prompt_tokens + 1
    return room if options.max_new_tokens is None else min(room, options.max_new_tokens)
