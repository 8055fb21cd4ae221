"""What goes into the scheduler and what comes out: requests, limits, events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from causalrn.bundle.alphabet import Alphabet
from causalrn.errors import CapacityError, InputError
from causalrn.runtimes.checks import as_array, check_tokens
from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import IntArray, Snapshot
from causalrn.serving.state_cost import state_bytes

STOP, LENGTH, TAKEN = "stop", "length", "taken"
CANCELLED, DEADLINE = "cancelled", "deadline"
"""Reasons for which a choice finishes: a stop was generated, so many tokens were; nothing was to be generated; ..."""


@dataclass(frozen=True)
class Limits:
    """What a scheduler may take.

    Attributes:
        max_slots: most sequences that run at once.
        state_bytes: most memory of their states, each counted as large as it can become.
        max_waiting: most requests that wait for a slot; a further one is refused.
        max_waiting_per_client: the same, of one client.
        chunk_tokens: most tokens of a prompt that one step takes; also the distance of what the prefix cache keeps.
        prefill_tokens: most tokens of all prompts that one step takes beside the tokens that are generated.
        cache_bytes: most memory of the prefix cache; 0 for none.

    Raises:
        InputError: a value that cannot be.
    """

    max_slots: int = 256
    state_bytes: int = 1 << 30
    max_waiting: int = 1024
    max_waiting_per_client: int = 512
    chunk_tokens: int = 64
    prefill_tokens: int = 256
    cache_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name == "cache_bytes" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"`{name}` is {value!r}: it must be a whole number, {least} or more")


@dataclass(frozen=True)
class Request:
    """One prompt, and what to do after it.

    Attributes:
        tokens: ids of the prompt, [T]; none goes on from `state`.
        options: how tokens are chosen and how many; None takes the prompt and generates nothing. Its `stop` is not
            used: see `stops`.
        stops: token ids that end a choice once it has generated them in a row: see
            :func:`causalrn.serving.stop_sequences`.
        choices: how many answers to the same prompt; choice i draws as row `first_row` + i of a batch would.
        first_row: see there.
        state: a sequence's to go on from, of this model.
        logprobs: how many of the likeliest tokens come with every token, with their logarithmic probabilities; None
            leaves probabilities out.
        keeps_state: the last event of every choice has its state, the last token included.
        client: whose it is: clients take turns, and share no cache.
        deadline: of `time.monotonic()`, after which it ends as it is.
    """

    tokens: IntArray | tuple[int, ...] = ()
    options: GenerationOptions | None = None
    stops: tuple[tuple[int, ...], ...] = ()
    choices: int = 1
    first_row: int = 0
    state: Snapshot | None = field(default=None, repr=False)
    logprobs: int | None = None
    keeps_state: bool = False
    client: str = ""
    deadline: float | None = None


class Logprobs(NamedTuple):
    """Natural logarithms of probabilities before temperature, top-k and top-p: of the token, and of the likeliest."""

    chosen: float
    top: tuple[tuple[int, float], ...]


class Token(NamedTuple):
    """A token that a choice has generated."""

    request: int
    choice: int
    token: int
    logprobs: Logprobs | None = None


class Finished(NamedTuple):
    """A choice has ended; the request has once all of its choices have.

    `reason` is "stop", "length", "taken" (nothing was to be generated), "cancelled" or "deadline"; `state` is there
    where the request keeps it and came to its end; `cached_tokens` of the prompt were in the prefix cache.
    """

    request: int
    choice: int
    reason: str
    state: Snapshot | None = None
    cached_tokens: int = 0


class Failed(NamedTuple):
    """A request has ended with an error, with all of its choices."""

    request: int
    error: Exception


Event = Token | Finished | Failed


def stop_sequences(alphabet: Alphabet | None, stop: str | Sequence[str] | None) -> tuple[tuple[int, ...], ...]:
    """Stop texts as token ids.

    Args:
        stop: one text, several, or none.

    Raises:
        InputError: a text that is empty, or that the alphabet cannot spell.
    """
    texts = (stop,) if isinstance(stop, str) else stop or ()
    if texts and alphabet is None:
        raise InputError("this model has no alphabet: a stop text means nothing to it, use stop token ids")
    if not all(texts):
        raise InputError("a stop text is empty")
    return tuple(tuple(alphabet.encode(text)) for text in texts if alphabet is not None)


def most_new_tokens(session: Session, request: Request) -> int:
    """How many tokens a choice can generate at most; the last one needs no position of its own.

    Raises:
        InputError: neither the model nor the request has a bound.
    """
    if request.options is None:
        return 0
    wanted, start = request.options.max_new_tokens, start_position(request) + len(request.tokens)
    if session.capacity is None:
        if wanted is None:
            raise InputError("this model has no capacity: say how many tokens to generate (`max_new_tokens`)")
        return wanted
    room = session.capacity - start + 1
    return room if wanted is None else min(room, wanted)


def start_position(request: Request) -> int:
    """Position at which a request's prompt begins."""
    return 0 if request.state is None else request.state.position


def needed_bytes(session: Session, request: Request) -> int:
    """Memory that the states of all choices can come to need."""
    end = start_position(request) + len(request.tokens) + most_new_tokens(session, request)
    return request.choices * state_bytes(session, end if session.capacity is None else min(end, session.capacity))


def check_request(session: Session, limits: Limits, request: Request) -> None:
    """Check all of a request that can be before it runs.

    Raises:
        InputError: token ids, choices or a state that cannot be, or more than the limits ever allow.
        CapacityError: a prompt that is longer than the model's capacity.
    """
    if len(request.tokens):
        check_tokens(as_array(request.tokens).reshape(1, -1), 1, session.card.config.vocabulary)
    elif request.options is not None and (request.state is None or request.state.logits is None):
        raise InputError("nothing to go on from: give a prompt, or a state with logits")
    if request.state is not None and request.state.batch != 1:
        raise InputError(f"the state is of {request.state.batch} sequences: give one sequence's")
    end = start_position(request) + len(request.tokens)
    if session.capacity is not None and end > session.capacity:
        raise CapacityError(
            f"{len(request.tokens)} more positions after {start_position(request)} exceed the capacity of "
            f"{session.capacity}: use a shorter prompt, or a model with more positions"
        )
    if not 1 <= request.choices <= limits.max_slots:
        raise InputError(f"choices is {request.choices}: it must be 1 to {limits.max_slots}, the number of slots")
    if (needed := needed_bytes(session, request)) > limits.state_bytes:
        raise InputError(
            f"the request's states can take {needed:,} bytes, more than the budget of {limits.state_bytes:,}: "
            "ask for fewer tokens or choices"
        )


def prompt_ids(request: Request) -> IntArray:
    """The prompt, int64 [T]."""
    return np.asarray(request.tokens, np.int64)
