"""One running sequence of a request: what of its prompt is left, what it generates, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import numpy as np

from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import FloatArray, IntArray
from causalrn.runtimes.token_choice import draw_tokens
from causalrn.serving.requests import LENGTH, STOP, Logprobs, Request


@dataclass(eq=False)
class RunningSequence:
    """A choice of a request, in a slot.

    Attributes:
        number: of the request.
        prompt: tokens of the prompt, [T].
        ends: how far the calls that are left take the prompt; none once it has been taken.
        taken: tokens of the prompt that have been taken.
        most: tokens that it may generate.
        generated: how many it has.
        token: chosen last and not yet taken; None while there is none.
        reason: why it ends with that token; empty while it goes on.
        recent: what it has generated last, as long as the longest stop.
    """

    number: int
    request: Request
    choice: int
    slot: int
    prompt: IntArray
    ends: list[int]
    taken: int
    most: int
    cached: int = 0
    generated: int = 0
    token: int | None = None
    reason: str = ""
    recent: list[int] = field(default_factory=list)

    @property
    def options(self) -> GenerationOptions:
        """How its tokens are chosen."""
        assert self.request.options is not None, "it generates"
        return self.request.options

    @property
    def is_prefilling(self) -> bool:
        """Whether tokens of the prompt are left."""
        return bool(self.ends)

    def next_prompt_tokens(self) -> IntArray:
        """What the next call takes of the prompt."""
        return self.prompt[self.taken : self.ends[0]]

    def note_call(self) -> None:
        """A call has taken :meth:`next_prompt_tokens`."""
        self.taken = self.ends.pop(0)

    def note_token(self, token: int, stop_ids: tuple[int, ...]) -> None:
        """A token has been chosen."""
        self.token, self.generated = token, self.generated + 1
        stops = self.request.stops
        if stops:
            self.recent = [*self.recent, token][-max(map(len, stops)) :]
        if token in stop_ids or any(tuple(self.recent[-len(stop) :]) == stop for stop in stops):
            self.reason = STOP
        elif self.generated >= self.most:
            self.reason = LENGTH


def call_ends(session: Session, start: int, tokens: int, most: int) -> list[int]:
    """How far each call takes a prompt of so many tokens, from position `start` on.

    A call ends where a chunk of the whole prefill does (:meth:`CellSession.next_chunk`), so that the prompt's logits
    and state have the same bits; a session without chunks takes everything at once.

    Args:
        most: tokens that a call should take; a chunk that is longer is not split.
    """
    ends: list[int] = []
    place, begin = 0, 0
    while place < tokens:
        left = tokens - place
        end = place + (session.next_chunk(start + place, left) if isinstance(session, CellSession) else left)
        if place > begin and end - begin > most:
            ends.append(place)
            begin = place
        place = end
    return [*ends, tokens] if tokens else []


def kept_ends(ends: Items[int]) -> set[int]:
    """After which calls the prefix cache keeps the state: number 1, 2, 4, 8, ..., the last and the one before it.

    A pool of t rows is kept about log t times, and a prompt that shares t tokens finds at least t / 2 of them.
    """
    powers = {1 << n for n in range(len(ends).bit_length())}
    return {end for number, end in enumerate(ends, 1) if number in powers or number >= len(ends) - 1}


def choose_for(going: Items[tuple[RunningSequence, FloatArray]], positions: Items[int]) -> list[int]:
    """The next token of sequences by their logits [V] and positions."""
    logits = np.stack([values for _, values in going])  # [B, V]
    chosen = logits.argmax(-1)
    draws = [n for n, (sequence, _) in enumerate(going) if sequence.options.temperature > 0]
    if draws:
        sequences = [going[n][0] for n in draws]
        rows = [sequence.request.first_row + sequence.choice for sequence in sequences]
        options = [sequence.options for sequence in sequences]
        chosen[draws] = draw_tokens(logits[draws], options, rows, [positions[n] for n in draws])
    tokens: list[int] = chosen.tolist()
    return tokens


def log_probabilities(logits: FloatArray, token: int, top: int) -> Logprobs:
    """Of a token, and of the `top` likeliest ones; ties go to the lowest id."""
    values = logits.astype(np.float64) - logits.max()
    values -= np.log(np.exp(values).sum())
    best = np.argsort(-values, kind="stable")[:top].tolist()
    return Logprobs(float(values[token]), tuple((index, float(values[index])) for index in best))
