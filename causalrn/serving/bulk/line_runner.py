"""Lines through a scheduler: as many at once as slots and memory allow, and their answers in the lines' order."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from causalrn.errors import InputError, NonFiniteError
from causalrn.runtimes.closing import Closing
from causalrn.runtimes.session import Session
from causalrn.serving.bulk.lines import Answer, Defaults, Line, compact, line_id, read_prompt, request_of
from causalrn.serving.requests import STOP, Event, Failed, Finished, Limits, Token
from causalrn.serving.scheduler import Scheduler
from causalrn.serving.texts import ChoiceText

_AHEAD = 4
"""Lines that are read ahead or wait for an earlier one's answer, in times of the slots."""
_AHEAD_BYTES = 64 << 20
_TOKEN_BYTES = 8


@dataclass(frozen=True)
class Batch:
    """What became of some lines that follow one another.

    Attributes:
        lines: to be written, in order.
        errors: lines that could not run.
    """

    lines: tuple[bytes, ...] = ()
    errors: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


@dataclass
class _Going:
    """A line that has been read and not been given back."""

    answer: Answer
    text: ChoiceText | None = None
    tokens: list[int] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    size_bytes: int = 0
    is_done: bool = False


class LineRunner(Closing):
    """Runs lines on a session. What a line gives depends on itself, its number and the settings alone.

    Args:
        session: that runs them; its own state stays as it is.
        defaults: settings of lines that have none.
        limits: slots and memory.
    """

    def __init__(self, session: Session, defaults: Defaults, limits: Limits) -> None:
        self._session, self._defaults = session, defaults
        most = _AHEAD * limits.max_slots
        limits = dataclasses.replace(limits, max_waiting=most, max_waiting_per_client=most)
        self._scheduler = Scheduler(session, limits)
        self._most = most
        self._queue: deque[_Going] = deque()
        self._by_number: dict[int, _Going] = {}
        self._bytes = 0

    def close(self) -> None:
        """Release the slots; the session stays open."""
        self._scheduler.close()

    def run(self, lines: Iterator[Line]) -> Iterator[Batch]:
        """Answers in the order of the lines, after every step; a step that completes none gives an empty batch.

        Lines are read as there is room for them: neither they nor their answers have to fit into memory.

        Raises:
            CausalRNError: what is no error of one line, e.g. a GPU that fails.
        """
        is_end = False
        while not (is_end and not self._queue):
            is_end = is_end or self._fill(lines)
            prompts, generated = self._scheduler.prompt_tokens, self._scheduler.generated_tokens
            for event in self._scheduler.advance():
                self._take(event)
            done = self._take_done()
            yield Batch(
                tuple(answer.encode() for answer in done),
                sum(answer.error is not msgspec.UNSET for answer in done),
                self._scheduler.prompt_tokens - prompts,
                self._scheduler.generated_tokens - generated,
            )

    def _fill(self, lines: Iterator[Line]) -> bool:
        """Submit lines while there is room; True at their end."""
        while len(self._queue) < self._most and self._bytes < _AHEAD_BYTES:
            line = next(lines, None)
            if line is None:
                return True
            self._submit(line)
        return False

    def _submit(self, line: Line) -> None:
        going = _Going(Answer(line.index))
        self._queue.append(going)
        alphabet = self._session.card.alphabet
        try:
            prompt = read_prompt(line.content)
            going.answer.id = compact(prompt.id)
            request = request_of(prompt, line.index, self._defaults, alphabet)
            number = self._scheduler.submit(request)
        except InputError as error:
            if going.answer.id is msgspec.UNSET:
                going.answer.id = line_id(line.content)
            self._fail(going, error)
            return
        going.text = None if alphabet is None else ChoiceText(alphabet, request.stops)
        going.size_bytes = len(line.content or b"") + _TOKEN_BYTES * len(request.tokens)
        self._bytes += going.size_bytes
        self._by_number[number] = going

    def _take(self, event: Event) -> None:
        going = self._by_number[event.request]
        if isinstance(event, Token):
            going.tokens.append(event.token)
            if going.text is not None:
                going.parts.append(going.text.take(event.token).text)
            return
        del self._by_number[event.request]
        if isinstance(event, Failed):
            self._fail(going, event.error)
        else:
            _finish(going, event)

    def _fail(self, going: _Going, error: Exception) -> None:
        if not isinstance(error, InputError | NonFiniteError):
            raise error
        going.answer.error = " ".join(str(error).split())
        going.is_done = True

    def _take_done(self) -> list[Answer]:
        done = []
        while self._queue and self._queue[0].is_done:
            going = self._queue.popleft()
            self._bytes -= going.size_bytes
            done.append(going.answer)
        return done


def _finish(going: _Going, event: Finished) -> None:
    answer = going.answer
    answer.text = None
    if going.text is not None:
        going.parts.append(going.text.end(is_stopped=event.reason == STOP).text)
        answer.text = "".join(going.parts)
    answer.tokens, answer.finish_reason = going.tokens, event.reason
    going.is_done = True
