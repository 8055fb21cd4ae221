"""Continuous batching: requests in, events out; one `advance` is one batched step, with some prompt tokens in it.

Synchronous and deterministic: no threads of its own, no clock, no network. :mod:`causalrn.serving.engine` runs it.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections import deque
from collections.abc import Sequence

import numpy as np

from causalrn.errors import CausalRNError
from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import FloatArray, Snapshot
from causalrn.serving.prefix_cache import PrefixCache
from causalrn.serving.requests import (
    CANCELLED,
    DEADLINE,
    LENGTH,
    TAKEN,
    Event,
    Failed,
    Finished,
    Limits,
    Request,
    Token,
    check_request,
    most_new_tokens,
    needed_bytes,
    prompt_ids,
    start_position,
)
from causalrn.serving.reservations import Reservations
from causalrn.serving.sequences import RunningSequence, call_ends, choose_for, kept_ends, log_probabilities
from causalrn.serving.slot_calls import take_tokens
from causalrn.serving.waiting import WaitingRequests


class Scheduler:
    """Runs requests over the slots of one session.

    Every choice is bit-equal to what `session.generate` gives after the same prompt, with the same options, in a row
    of the same number, alone: on runtimes whose slots are (docs/serving.md). :meth:`submit` and :meth:`cancel` may be
    called by any thread, everything else by one at a time.

    Args:
        session: that runs them; its own state stays as it is.
        limits: what may run and wait.

    Attributes:
        cache: states after beginnings of prompts.
        prompt_tokens: how many were computed so far; those from the cache are not counted.
        generated_tokens: how many so far.

    Example:
        >>> scheduler = Scheduler(session)  # doctest: +SKIP
        >>> number = scheduler.submit(Request(tokens=(0, 3, 4, 1), options=GenerationOptions(max_new_tokens=8)))
        >>> while not scheduler.is_idle:
        ...     for event in scheduler.advance():
        ...         print(event)
    """

    def __init__(self, session: Session, limits: Limits | None = None) -> None:
        self.session, self.limits = session, limits or Limits()
        self.cache = PrefixCache(self.limits.cache_bytes)
        self.prompt_tokens = self.generated_tokens = 0
        self._slots = session.slots()
        self._waiting = WaitingRequests(self.limits)
        self._running: dict[int, list[RunningSequence]] = {}
        self._reserved = Reservations(self.limits)
        self._prefilling: deque[RunningSequence] = deque()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._cancelled: set[int] = set()
        self._events: list[Event] = []
        alphabet = session.card.alphabet
        self._stop_ids = alphabet.stop_ids if alphabet else ()

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._running and not len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences with a slot; those that wait for the state of their prompt, too."""
        return self._reserved.sequences

    @property
    def reserved_bytes(self) -> int:
        """What the states of running requests can come to take."""
        return self._reserved.size_bytes

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        return len(self._waiting)

    def submit(self, request: Request) -> int:
        """Queue a request; its number, which its events carry.

        Raises:
            InputError: a request that cannot run, CapacityError: for its length; QueueFullError: as many wait as may.
        """
        check_request(self.session, self.limits, request)
        with self._lock:
            number = next(self._numbers)
        self._waiting.add(number, request)
        return number

    def cancel(self, number: int) -> None:
        """End a request at the next :meth:`advance`; one that has ended, or never was, is no error."""
        with self._lock:
            self._cancelled.add(number)

    def advance(self, now: float = 0.0) -> list[Event]:
        """End what is late or cancelled, admit what waits, take one step of everything that runs; gives what happened.

        Args:
            now: `time.monotonic()`; deadlines before it have passed.

        Raises:
            Exception: what is no error of one request; the scheduler is of no use then.
        """
        self._end_late(now)
        self._admit_waiting()
        self._step()
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Release all slots; the session stays open."""
        self._slots.close()

    def _end_late(self, now: float) -> None:
        with self._lock:
            cancelled, self._cancelled = frozenset(self._cancelled), set()
        for number, request in self._waiting.late(now, cancelled):
            reason = CANCELLED if number in cancelled else DEADLINE
            self._events += [Finished(number, choice, reason) for choice in range(request.choices)]
        for number, sequences in list(self._running.items()):
            deadline = sequences[0].request.deadline
            if number in cancelled or (deadline is not None and now >= deadline):
                reason = CANCELLED if number in cancelled else DEADLINE
                self._end_request(number, reason)

    def _end_request(self, number: int, reason: str) -> None:
        """End all choices that still run; those that wait for their prompt's state, too."""
        sequences = self._running[number]
        choices = range(1, sequences[0].request.choices) if sequences[0].is_prefilling else ()
        self._events += [Finished(number, choice, reason) for choice in choices]
        for sequence in list(sequences):
            self._finish(sequence, reason)

    def _admit_waiting(self) -> None:
        """Whose turn it is waits until there is room for it: what is small does not pass what is large for ever."""
        while (turn := self._waiting.first(self._reserved.by_client)) is not None:
            number, request = turn
            needed = needed_bytes(self.session, request)
            if not self._reserved.has_room(request.choices, needed):
                return
            self._waiting.remove(number, request.client)
            try:
                self._admit(number, request, needed)
            except CausalRNError as error:  # of its state
                self._events.append(Failed(number, error))

    def _admit(self, number: int, request: Request, needed: int) -> None:
        tokens, state = prompt_ids(request), request.state
        ends = call_ends(self.session, start_position(request), len(tokens), self.limits.chunk_tokens)
        cached = self.cache.find(request.client, tokens, ends) if state is None and ends else None
        slot = self._slots.admit(state if cached is None else cached)
        taken = 0 if cached is None else cached.position
        most = most_new_tokens(self.session, request)
        left = [end for end in ends if end > taken]
        sequence = RunningSequence(number, request, 0, slot, tokens, left, taken, most, taken)
        self._running[number] = [sequence]
        self._reserved.add(number, request, needed)
        if left:
            self._prefilling.append(sequence)
        else:
            self._begin(sequence)

    def _begin(self, leader: RunningSequence) -> None:
        """A prompt has been taken: its other choices get slots, and all choose their first token."""
        sequences = self._running[leader.number]
        try:
            state = self._slots.snapshot(leader.slot) if leader.request.choices > 1 else None
            for choice in range(1, leader.request.choices):
                slot = self._slots.admit(state)
                sequences.append(dataclasses.replace(leader, choice=choice, slot=slot, ends=[], recent=[]))
        except CausalRNError as error:
            self._fail(leader, error)
            return
        if leader.request.options is None:
            for sequence in list(sequences):
                self._finish(sequence, TAKEN)
            return
        logits = self._slots.last_logits(leader.slot)
        assert logits is not None, "check_request has seen to it"
        self._choose([(sequence, logits) for sequence in sequences])

    def _step(self) -> None:
        """One call of all slots: a token of each that generates, and some prompts' tokens."""
        stepping = [s for group in self._running.values() for s in group if s.token is not None]
        prompts = self._next_prompts()
        calls = {s.slot: np.array([s.token]) for s in stepping} | {s.slot: s.next_prompt_tokens() for s in prompts}
        given, failed = take_tokens(self._slots, calls)
        for sequence in (*stepping, *prompts):
            if sequence.slot in failed and sequence.number in self._running:
                self._fail(sequence, failed[sequence.slot])
        whole = [sequence for sequence in stepping if sequence.number in self._running]
        ended = [sequence for sequence in whole if sequence.reason]  # their last token is part of the state now
        self._choose([(sequence, given[sequence.slot]) for sequence in whole if not sequence.reason])
        for sequence in ended:
            self._finish(sequence, sequence.reason)
        for sequence in prompts:
            if sequence.number in self._running:
                self._note_prompt(sequence)

    def _next_prompts(self) -> list[RunningSequence]:
        """Prompts whose turn it is: the next call of each, while their tokens fit in; at least one."""
        chosen: list[RunningSequence] = []
        room = self.limits.prefill_tokens
        for sequence in self._prefilling:
            room -= len(sequence.next_prompt_tokens())
            if chosen and room < 0:
                break
            chosen.append(sequence)
        self._prefilling.rotate(-len(chosen))
        return chosen

    def _note_prompt(self, sequence: RunningSequence) -> None:
        self.prompt_tokens += len(sequence.next_prompt_tokens())
        sequence.note_call()
        request = sequence.request
        ends = call_ends(self.session, start_position(request), len(sequence.prompt), self.limits.chunk_tokens)
        if request.state is None and self.limits.cache_bytes and sequence.taken in kept_ends(ends):
            tokens = sequence.prompt[: sequence.taken]
            self.cache.keep(request.client, tokens, self._slots.snapshot(sequence.slot))
        if not sequence.is_prefilling:
            self._prefilling.remove(sequence)
            self._begin(sequence)

    def _choose(self, going: Sequence[tuple[RunningSequence, FloatArray]]) -> None:
        """Choose the next token of sequences by their logits [V]."""
        if not going:
            return
        chosen = choose_for(going, [self._slots.position(sequence.slot) for sequence, _ in going])
        for (sequence, logits), best in zip(going, chosen, strict=True):
            request = sequence.request
            asked = request.logprobs
            logprobs = None if asked is None else log_probabilities(logits, best, asked)
            self._events.append(Token(sequence.number, sequence.choice, best, logprobs))
            self.generated_tokens += 1
            sequence.note_token(best, self._stops(sequence.options))
            if self._slots.position(sequence.slot) == self.session.capacity:
                self._finish(sequence, sequence.reason or LENGTH)  # the token finds no room
            elif sequence.reason and not request.keeps_state:
                self._finish(sequence, sequence.reason)

    def _stops(self, options: GenerationOptions) -> tuple[int, ...]:
        return self._stop_ids if options.stop_ids is None else options.stop_ids

    def _finish(self, sequence: RunningSequence, reason: str) -> None:
        """End a choice, and its request with the last one."""
        state = None
        if sequence.request.keeps_state and reason not in (CANCELLED, DEADLINE):
            state = self._state(sequence)
        self._events.append(Finished(sequence.number, sequence.choice, reason, state, sequence.cached))
        self._release(sequence)

    def _state(self, sequence: RunningSequence) -> Snapshot:
        """Of a sequence that has ended; a token without room leaves nothing to go on from."""
        state = self._slots.snapshot(sequence.slot)
        ends_full = sequence.token is not None and state.position < self._position_after(sequence)
        return dataclasses.replace(state, logits=None) if ends_full else state

    def _position_after(self, sequence: RunningSequence) -> int:
        return start_position(sequence.request) + len(sequence.prompt) + sequence.generated

    def _fail(self, sequence: RunningSequence, error: Exception) -> None:
        self._events.append(Failed(sequence.number, error))
        for other in list(self._running[sequence.number]):
            self._release(other)

    def _release(self, sequence: RunningSequence) -> None:
        self._slots.release(sequence.slot)
        if sequence.is_prefilling:
            self._prefilling.remove(sequence)
        sequences = self._running[sequence.number]
        sequences.remove(sequence)
        if not sequences:
            del self._running[sequence.number]
            self._reserved.end(sequence.number)
