"""Errors as answers, in OpenAI's form."""

from __future__ import annotations

import logging

import msgspec
from starlette.responses import Response

from causalrn.errors import CapacityError, CausalRNError, InputError, QueueFullError, ServerClosedError, StateError
from causalrn.serving.http.messages import ErrorAnswer, ErrorDetail
from causalrn.serving.http.models import UnknownModelError
from causalrn.serving.session_store import BusySessionError, UnknownSessionError

LOG = logging.getLogger("causalrn.serving")
_RETRY_S = 1
_INVALID, _SERVER = "invalid_request_error", "server_error"


class AnswerError(Exception):
    """An answer from 400 on.

    Attributes:
        status: of HTTP.
        detail: what it says.
        headers: that go with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = _INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.detail = ErrorDetail(message, kind, param, code)
        self.headers = headers or {}

    @property
    def body(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(ErrorAnswer(self.detail))

    def response(self) -> Response:
        """As an answer."""
        return Response(self.body, self.status, self.headers, "application/json")


_KINDS: tuple[tuple[type[CausalRNError], int, str, str], ...] = (  # the first that fits
    (UnknownModelError, 404, _INVALID, "model_not_found"),
    (UnknownSessionError, 404, _INVALID, "session_not_found"),
    (BusySessionError, 409, _INVALID, "session_busy"),
    (QueueFullError, 429, "rate_limit_error", "queue_full"),
    (ServerClosedError, 503, _SERVER, "shutting_down"),
    (CapacityError, 400, _INVALID, "context_length_exceeded"),
    (StateError, 400, _INVALID, "invalid_state"),
    (InputError, 400, _INVALID, "invalid_value"),
    (CausalRNError, 422, _INVALID, "model_error"),
)
_RETRY_AFTER = (409, 429, 503)


def problem_of(error: Exception) -> AnswerError:
    """The answer to an error of the layers below; what is none of theirs says nothing of itself, but in the log."""
    if isinstance(error, AnswerError):
        return error
    for kind, status, title, code in _KINDS:
        if isinstance(error, kind):
            headers = {"retry-after": str(_RETRY_S)} if status in _RETRY_AFTER else {}
            return AnswerError(status, str(error).replace("`", ""), kind=title, code=code, headers=headers)
    LOG.exception("a request has failed", exc_info=error, extra={"fields": {"event": "failure"}})
    return AnswerError(500, "the server has failed: its log says how", kind=_SERVER, code="internal_error")


def late() -> AnswerError:
    """A request that is past its deadline."""
    return AnswerError(504, "the request took longer than it may: ask for less", kind=_SERVER, code="deadline_exceeded")
