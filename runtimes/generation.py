"""Generation: prompts in, one token per row and step out, as an iterator over any session."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np
import numpy.typing as npt

from causalrn.errors import InputError
from causalrn.runtimes.checks import as_array, check_tokens
from causalrn.runtimes.generated_text import GeneratedTexts
from causalrn.runtimes.slots import Slots
from causalrn.runtimes.snapshot import FloatArray, IntArray
from causalrn.training.card import ModelCard

Prompts = str | Sequence[str] | IntArray | Sequence[IntArray] | None
"""One text, several, token ids [B, T], token ids row by row, or None to go on."""


class Generating(Protocol):
    """What generation needs of a session."""

    card: ModelCard
    capacity: int | None
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
class GenerationOptions:
    """How tokens are chosen and when generation stops.

    Attributes:
        max_new_tokens: most tokens per row; None goes on to the capacity (an error without one).
        temperature: 0 is greedy; else logits are divided by it.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the most likely tokens that together reach this probability; 1 keeps all.
        seed: of the random numbers. A draw depends on seed, row and position only, so a run that was interrupted and
            resumed, or another batch around the same row, draws the same.
        stop: stop a row after its generated text ends with this.
        stop_ids: stop a row after one of these tokens; None takes the alphabet's.

    Raises:
        InputError: a value out of range.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop: str | None = None
    stop_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise InputError(f"max new tokens is {self.max_new_tokens}: it must be at least 1")
        if not np.isfinite(self.temperature) or self.temperature < 0:
            raise InputError(f"temperature is {self.temperature}: it must be finite, 0 (greedy) or more")
        if self.top_k < 0:
            raise InputError(f"top-k is {self.top_k}: it must be 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top-p is {self.top_p}: it must be above 0 and at most 1")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: it must be 0 or more")
        if self.stop == "":
            raise InputError("the stop text is empty")

    def _check_types(self) -> None:
        whole = {"max_new_tokens": self.max_new_tokens, "top_k": self.top_k, "seed": self.seed}
        for name, value in whole.items():
            if value is not None and (not isinstance(value, int | np.integer) or isinstance(value, bool)):
                raise InputError(f"`{name}` is {value!r}: it must be a whole number")
        for name, number in {"temperature": self.temperature, "top_p": self.top_p}.items():
            if not isinstance(number, int | float | np.floating | np.integer) or isinstance(number, bool):
                raise InputError(f"`{name}` is {number!r}: it must be a number")
        if self.stop is not None and not isinstance(self.stop, str):
            raise InputError(f"`stop` is {self.stop!r}: it must be text")


class GenerationSettings(TypedDict, total=False):
    """Fields of :class:`GenerationOptions` as keyword arguments."""

    max_new_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    seed: int
    stop: str | None
    stop_ids: tuple[int, ...] | None


def choose_options(options: GenerationOptions | None, settings: GenerationSettings) -> GenerationOptions:
    """Options from an object, with some of its fields set anew.

    Raises:
        InputError: a field that there is not, or a value out of range.
    """
    unknown = sorted(set(settings) - {field.name for field in dataclasses.fields(GenerationOptions)})
    if unknown:
        raise InputError(
            f"generation has no setting {unknown[0]}: choose of {', '.join(GenerationSettings.__annotations__)}"
        )
    return dataclasses.replace(options or GenerationOptions(), **settings)


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


def generate(session: Generating, prompts: Prompts, options: GenerationOptions) -> Iterator[GeneratedStep]:
    """Generate after a prompt.

    The session takes every token that is yielded, so at the end its state includes the last one: a snapshot taken
    there goes on with ``prompts=None``. Only a token chosen at the capacity finds no room; nothing goes on from there.
    Which rows of a batch had finished is not part of a state: going on with a batch goes on with all rows.

    Args:
        session: at position 0, or holding a state that the prompts are appended to.
        prompts: one text, a batch of texts, token ids [B, T], a list of token ids, or None to go on from the session's
            state. A text gets the alphabet's markers at position 0 and is appended bare to a state. Prompts of
            different lengths run in slots: they need a session at position 0, whose own state stays as it is.
        options: see :class:`GenerationOptions`.

    Raises:
        InputError: prompts that do not fit; CapacityError: a prompt beyond the capacity. Before anything is taken.
    """
    rows = _prompt_rows(session, prompts)
    if rows is not None and len({len(row) for row in rows}) > 1:
        return generate_ragged(session, rows, options)
    ids = None if rows is None else np.stack(rows)
    limit = _limit(session, 0 if ids is None else ids.shape[1], options)
    stops = _Stops(session, options)
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


def _generate(
    session: Generating,
    logits: FloatArray,
    limit: int,
    options: GenerationOptions,
    stops: _Stops,
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
        raise InputError("prompts of different lengths begin afresh, and the session holds a state: reset it first")
    limits = np.array([_limit(session, len(row), options) for row in rows])
    stops = _Stops(session, options)
    texts = GeneratedTexts(session.card.alphabet, len(rows), (), goes_on=False)
    return _generate_ragged(session, rows, limits, options, stops, texts)


def _generate_ragged(
    session: Generating,
    rows: Sequence[IntArray],
    limits: IntArray,
    options: GenerationOptions,
    stops: _Stops,
    texts: GeneratedTexts,
) -> Iterator[GeneratedStep]:
    finished = np.zeros(len(rows), bool)
    with session.slots() as slots:
        numbers = [slots.admit() for _ in rows]
        given = slots.prefill(dict(zip(numbers, rows, strict=True)))
        logits = np.stack([given[number][-1] for number in numbers])
        for count in range(1, int(limits.max()) + 1):
            positions = np.array([slots.position(number) for number in numbers])
            tokens, active = choose_tokens(logits, options, positions), ~finished
            finished = finished | stops.reached(tokens) | (count >= limits)
            room = np.ones_like(active) if session.capacity is None else positions < session.capacity
            going = np.flatnonzero(active & room & ~finished)
            for number, row in slots.step({numbers[r]: int(tokens[r]) for r in going}).items():
                logits[numbers.index(number)] = row
            yield GeneratedStep(tokens, active, finished.copy(), texts.add(tokens, active, finished))
            if finished.all():
                return


class _Stops:
    """Where rows end: at a stop token, or where their last tokens spell the stop text."""

    def __init__(self, session: Generating, options: GenerationOptions) -> None:
        alphabet = session.card.alphabet
        self.ids = options.stop_ids if options.stop_ids is not None else (alphabet.stop_ids if alphabet else ())
        if options.stop is not None and alphabet is None:
            raise InputError("this model has no alphabet: a stop text means nothing to it, use stop token ids")
        self.text = alphabet.encode(options.stop) if options.stop is not None and alphabet is not None else []
        self.rows: dict[int, list[int]] = {}

    def reached(self, tokens: IntArray) -> npt.NDArray[np.bool_]:
        """Which rows end with these tokens, bool [B]."""
        ended: npt.NDArray[np.bool_] = np.isin(tokens, self.ids)
        if self.text:
            for row, token in enumerate(tokens.tolist()):
                self.rows[row] = [*self.rows.get(row, []), token][-len(self.text) :]
                ended[row] |= self.rows[row] == self.text
        return ended


def choose_tokens(logits: FloatArray, options: GenerationOptions, position: int | IntArray) -> IntArray:
    """Choose the next token of every row: logits [B, V] -> int64 [B]. Ties of greedy go to the lowest id.

    Args:
        position: of all rows, or of each of them, [B].
    """
    if options.temperature == 0:
        greedy: IntArray = logits.argmax(-1).astype(np.int64)
        return greedy
    return np.array(
        [
            _draw(row, options, np.random.default_rng([options.seed, index, place]))
            for index, (row, place) in enumerate(zip(logits, np.broadcast_to(position, len(logits)), strict=True))
        ],
        dtype=np.int64,
    )


def _draw(logits: FloatArray, options: GenerationOptions, rng: np.random.Generator) -> int:
    with np.errstate(over="ignore"):  # a tiny temperature is greedy
        scaled = (logits.astype(np.float64) - logits.max()) / options.temperature
    order = np.argsort(-scaled, kind="stable")
    if options.top_k:
        order = order[: options.top_k]
    weights = np.exp(scaled[order] - scaled[order[0]])
    cumulative = np.cumsum(weights / weights.sum())
    kept = int(np.searchsorted(cumulative, options.top_p)) + 1 if options.top_p < 1 else len(order)
    cumulative = cumulative[:kept] / cumulative[min(kept, len(order)) - 1]
    return int(order[min(int(np.searchsorted(cumulative, rng.random(), side="right")), len(cumulative) - 1)])


def _prompt_rows(session: Generating, prompts: Prompts) -> list[IntArray] | None:
    """Token ids of every row; None where there is no prompt."""
    if prompts is None:
        return None
    if isinstance(prompts, np.ndarray) and (prompts.ndim != 2 or prompts.size == 0):
        raise InputError(f"prompts have shape {list(prompts.shape)}: give token ids [B, T]")
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise InputError("there is no prompt: give at least one")
    if isinstance(texts[0], str):
        return [np.array(ids, np.int64) for ids in _encoded(session, texts)]
    rows: list[IntArray] = [as_array(row) for row in texts]  # type: ignore[misc] - checked where they are taken
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
    return [alphabet.prompt(text) if session.position == 0 else alphabet.encode(text) for text in texts]


def _limit(session: Generating, prompt_tokens: int, options: GenerationOptions) -> int:
    """How many tokens to generate; the last one needs no position of its own."""
    session.check_room(prompt_tokens)
    if session.capacity is None:
        if options.max_new_tokens is None:
            raise InputError("this model has no capacity: say how many tokens to generate (`max_new_tokens`)")
        return options.max_new_tokens
    room = session.capacity - session.position - prompt_tokens + 1
    return room if options.max_new_tokens is None else min(room, options.max_new_tokens)
