"""From events to OpenAI's completions: whole, or part by part."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec

from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.runtimes.snapshot import Snapshot
from causalrn.serving.http.answers import Channel
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
from causalrn.serving.requests import DEADLINE, STOP, Event, Failed, Finished, Request, Token, stop_sequences
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
        texts = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
        options = GenerationOptions(
            max_new_tokens=16 if body.max_tokens is None else body.max_tokens,
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            top_k=body.top_k or 0,
            seed=secrets.randbits(63) if body.seed is None else body.seed,
        )
        return cls(options, stop_sequences(model.session.card.alphabet, texts), body.logprobs)


class _ChoiceParts:
    """One choice as it comes."""

    def __init__(self, model: ServedModel, plan: Plan, index: int, tail: bytes, before: str) -> None:
        self._alphabet = model.session.card.alphabet
        self._logprobs = plan.logprobs
        self._held: list[Token] = []
        self._before, self._length = before, 0
        self.index = index
        self.text = ChoiceText(self._alphabet, plan.stops, tail)

    def take(self, event: Token) -> Choice | None:
        """What a token adds; None where nothing is certain yet."""
        self._held.append(event)
        piece = self.text.take(event.token)
        return self._choice(piece) if piece.texts else None

    def end(self, event: Finished) -> Choice:
        """The last part."""
        goes_on = event.state is not None and event.reason != STOP and event.state.logits is not None
        piece = self.text.end(is_stopped=event.reason == STOP, keeps_tail=goes_on)
        choice = self._choice(piece)
        choice.finish_reason = "stop" if event.reason == STOP else "length"
        return choice

    def _choice(self, piece: Piece) -> Choice:
        certain, self._held = self._held[: len(piece.texts)], self._held[len(piece.texts) :]
        shown = None
        if self._logprobs is not None:
            shown = ChoiceLogprobs()
            place = self._length + len(self._before)
            for event, text in zip(certain, piece.texts, strict=True):
                self._show(shown, event, place)
                place += len(text)
        text, self._before = self._before + piece.text, ""
        self._length += len(text)
        return Choice(self.index, text, shown)

    def _show(self, shown: ChoiceLogprobs, event: Token, place: int) -> None:
        assert event.logprobs is not None
        shown.tokens.append(token_text(self._alphabet, event.token))
        shown.token_logprobs.append(event.logprobs.chosen)
        shown.top_logprobs.append({token_text(self._alphabet, token): value for token, value in event.logprobs.top})
        shown.text_offset.append(place)


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
            AnswerError: a request has failed or is late.
        """
        texts: dict[int, list[Choice]] = {part.index: [] for part in self._parts}
        async for choices in self._choices_of(channel):
            for choice in choices:
                texts[choice.index].append(choice)
        return self._completion([_joined(parts) for parts in texts.values()], self.usage)

    async def stream(self, channel: Channel, *, with_usage: bool) -> AsyncIterator[bytes]:
        """Server-sent events; an error is one of them, and the last."""
        try:
            async for choices in self._choices_of(channel):
                for choice in _merged(choices):
                    yield _event(self._completion([choice]))
        except Exception as error:  # the head has gone out: what failed is told here
            yield b"data: " + problem_of(error).body + b"\n\n"
            return
        if with_usage:
            yield _event(self._completion([], self.usage))
        yield b"data: [DONE]\n\n"

    async def _choices_of(self, channel: Channel) -> AsyncIterator[list[Choice]]:
        first = {number: place * self._choices for place, number in enumerate(channel.numbers)}
        async for events in channel:
            choices = [await self._choice(event, first[event.request]) for event in events]
            yield [choice for choice in choices if choice is not None]

    async def _choice(self, event: Event, first: int) -> Choice | None:
        if isinstance(event, Failed):
            raise event.error
        part = self._parts[first + event.choice]
        if isinstance(event, Token):
            self.first_s = time.monotonic() - self._begun if self.first_s is None else self.first_s
            self.usage.completion_tokens += 1
            self.usage.total_tokens += 1
            return part.take(event)
        if event.reason == DEADLINE:
            raise late()
        self.finish.append(event.reason)
        self.usage.prompt_tokens_details.cached_tokens += event.cached_tokens if event.choice == 0 else 0
        choice = part.end(event)
        if self._keep is not None and event.state is not None:
            tails = (part.text.tail,) if part.text.tail else ()
            await self._keep(dataclasses.replace(event.state, text_tails=tails))
        return choice

    def _completion(self, choices: list[Choice], usage: Usage | None = None) -> Completion:
        return Completion(self.id, self.created, self._model.name, choices, self._model.fingerprint, usage=usage)


def _event(completion: Completion) -> bytes:
    return b"data: " + msgspec.json.encode(completion) + b"\n\n"


def _merged(choices: Sequence[Choice]) -> list[Choice]:
    """What has come of one choice together is one part."""
    parts: dict[int, list[Choice]] = {}
    for choice in choices:
        parts.setdefault(choice.index, []).append(choice)
    return [_joined(group) for group in parts.values()]


def _joined(parts: Sequence[Choice]) -> Choice:
    """Parts of one choice as one."""
    if len(parts) == 1:
        return parts[0]
    shown = [part.logprobs for part in parts if part.logprobs is not None]
    logprobs = ChoiceLogprobs(
        tokens=[token for part in shown for token in part.tokens],
        token_logprobs=[value for part in shown for value in part.token_logprobs],
        top_logprobs=[top for part in shown for top in part.top_logprobs],
        text_offset=[place for part in shown for place in part.text_offset],
    )
    text = "".join(part.text for part in parts)
    return Choice(parts[0].index, text, logprobs if shown else None, parts[-1].finish_reason)
