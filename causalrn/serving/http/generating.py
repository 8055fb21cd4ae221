"""From events to OpenAI's completions: whole, or part by part."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Literal

import msgspec

from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.runtimes.snapshot import Snapshot
from causalrn.serving.async_answers import Channel
from causalrn.serving.http.messages import (
    Choice,
    ChoiceLogprobs,
    Completion,
    Generation,
    PromptDetails,
    Usage,
)
from causalrn.serving.http.models import ServedModel
from causalrn.serving.http.problems import late, problem_of
from causalrn.serving.requests import DEADLINE, STOP, Finished, Request, Token, stop_sequences
from causalrn.serving.texts import ChoiceText, Piece, token_text

Keep = Callable[[Snapshot], Awaitable[None]]
"""What takes the state of a request that keeps it."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a body asks for.

    Attributes:
        options: how tokens are chosen; `stops` in token ids.
        logprobs: how many alternatives come with every token; None for no probabilities.
    """

    options: GenerationOptions
    stops: tuple[tuple[int, ...], ...]
    logprobs: int | None

    @classmethod
    def of(cls, model: ServedModel, body: Generation) -> Plan:
        """From a body; null is the default.

        Raises:
            InputError: a stop that the alphabet cannot spell.
        """
        options = GenerationOptions(
            max_new_tokens=16 if body.max_tokens is None else body.max_tokens,
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            top_k=body.top_k or 0,
            seed=secrets.randbits(63) if body.seed is None else body.seed,
        )
        return cls(options, stop_sequences(model.session.card.alphabet, body.stop), body.logprobs)


class _ChoiceParts:
    """One choice as it comes: what is certain gathers until it is taken."""

    def __init__(self, model: ServedModel, plan: Plan, index: int, tail: bytes, before: str) -> None:
        self._alphabet, self._logprobs = model.session.card.alphabet, plan.logprobs
        self._held: list[Token] = []  # of which nothing is certain yet
        self._text, self._length = before, len(before)
        self._shown = ChoiceLogprobs()
        self._reason: Literal["stop", "length"] | None = None
        self.index = index
        self.text = ChoiceText(self._alphabet, plan.stops, tail)

    def add(self, event: Token) -> None:
        """A token has come."""
        piece = self.text.take(event.token)
        if self._logprobs is not None:
            self._held.append(event)
            self._show(piece)
        self._text += piece.text
        self._length += len(piece.text)

    def end(self, event: Finished) -> None:
        """It has ended."""
        goes_on = event.state is not None and event.reason != STOP and event.state.logits is not None
        piece = self.text.end(is_stopped=event.reason == STOP, keeps_tail=goes_on)
        if self._logprobs is not None:
            self._show(piece)
        self._text += piece.text
        self._reason = "stop" if event.reason == STOP else "length"

    def take(self) -> Choice | None:
        """What has gathered since the last time; None where that is nothing."""
        if not (self._text or self._shown.tokens or self._reason):
            return None
        shown = self._shown if self._logprobs is not None else None
        choice = Choice(self.index, self._text, shown, self._reason)
        self._text, self._shown, self._reason = "", ChoiceLogprobs(), None
        return choice

    def _show(self, piece: Piece) -> None:
        certain, self._held = self._held[: len(piece.texts)], self._held[len(piece.texts) :]
        place, shown = self._length, self._shown
        for event, text in zip(certain, piece.texts, strict=True):
            assert event.logprobs is not None
            likeliest = {token_text(self._alphabet, token): value for token, value in event.logprobs.top}
            shown.tokens.append(token_text(self._alphabet, event.token))
            shown.token_logprobs.append(event.logprobs.chosen)
            shown.top_logprobs.append(likeliest)
            shown.text_offset.append(place)
            place += len(text)


class Generating:
    """The answer to one HTTP request.

    Args:
        model, plan: what generates, and how.
        requests: that were submitted, each with as many choices; they count through, prompt by prompt.
        keep: takes the state at the end.
        tail: bytes of a character that the text goes on with.
        before: what the text begins with.

    Attributes:
        usage: tokens so far.
        first_s: seconds to the first token; None before.
        finish: reasons of the choices that have ended.
    """

    def __init__(
        self,
        model: ServedModel,
        plan: Plan,
        requests: Sequence[Request],
        keep: Keep | None = None,
        *,
        tail: bytes = b"",
        before: str = "",
    ) -> None:
        self._model, self._keep, self._begun = model, keep, time.monotonic()
        self._choices = requests[0].choices
        count = len(requests) * self._choices
        self._parts = [_ChoiceParts(model, plan, index, tail, before) for index in range(count)]
        self.id, self.created = f"cmpl-{secrets.token_hex(12)}", int(time.time())
        prompts = sum(len(request.tokens) for request in requests)
        self.usage = Usage(prompts, 0, prompts, PromptDetails())
        self.first_s: float | None = None
        self.finish: list[str] = []

    async def whole(self, channel: Channel) -> Completion:
        """Everything at once.

        Raises:
            CausalRNError: a request has failed; AnswerError: it is late.
        """
        async for events in channel:
            await self._note(events, channel)
        choices = [part.take() or Choice(part.index, "") for part in self._parts]
        return self._completion(choices, self.usage)

    async def stream(self, channel: Channel, *, with_usage: bool) -> AsyncIterator[bytes]:
        """Server-sent events; an error is one of them, and the last."""
        try:
            async for events in channel:
                for part in await self._note(events, channel):
                    if (choice := part.take()) is not None:
                        yield _event(self._completion([choice]))
        except Exception as error:  # the head has gone out: what failed is told here
            yield b"data: " + problem_of(error).body + b"\n\n"
            return
        if with_usage:
            yield _event(self._completion([], self.usage))
        yield b"data: [DONE]\n\n"

    async def _note(self, events: Sequence[Token | Finished], channel: Channel) -> Iterable[_ChoiceParts]:
        """Take what has happened together; gives the choices that it has happened to."""
        concerned: dict[int, _ChoiceParts] = {}
        for event in events:
            part = self._parts[channel.places[event.request] * self._choices + event.choice]
            concerned[part.index] = part
            if isinstance(event, Token):
                part.add(event)
                self.usage.completion_tokens += 1
            else:
                await self._end(part, event)
        self.usage.total_tokens = self.usage.prompt_tokens + self.usage.completion_tokens
        if self.first_s is None and self.usage.completion_tokens:
            self.first_s = time.monotonic() - self._begun
        return concerned.values()

    async def _end(self, part: _ChoiceParts, event: Finished) -> None:
        if event.reason == DEADLINE:
            raise late()
        self.finish.append(event.reason)
        self.usage.prompt_tokens_details.cached_tokens += event.cached_tokens if event.choice == 0 else 0
        part.end(event)
        if self._keep is not None and event.state is not None:
            tails = (part.text.tail,) if part.text.tail else ()
            await self._keep(dataclasses.replace(event.state, text_tails=tails))

    def _completion(self, choices: list[Choice], usage: Usage | None = None) -> Completion:
        return Completion(self.id, self.created, self._model.name, choices, self._model.fingerprint, usage=usage)


def _event(completion: Completion) -> bytes:
    return b"data: " + msgspec.json.encode(completion) + b"\n\n"
