"""JSON that goes in and out: every entry's type and range; entries that are not here are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Tokens = list[Annotated[int, Meta(ge=0, le=2**31 - 1)]]
Text = Annotated[str, Meta(min_length=1)]
MOST_LOGPROBS = 5
_STOP_TEXTS = 4


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Of a stream: whether its last part holds the usage."""

    include_usage: bool = False


class Generation(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How tokens are chosen: names and defaults are OpenAI's, `top_k` is an addition.

    `seed`: the same seed gives the same answer, whatever else the server does; without one it is drawn, and the header
    `x-causalrn-seed` of the answer says it. `temperature` 0 is greedy. `stop` is no part of the text.
    """

    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = 16
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = 1.0
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = 0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: Text | Annotated[list[Text], Meta(max_length=_STOP_TEXTS)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MOST_LOGPROBS)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None


class CompletionRequest(Generation, kw_only=True):
    """Body of POST /v1/completions.

    `prompt`: a text, several, token ids, or several lists of them. Entries of OpenAI's that mean nothing to these
    models are taken with the values that change nothing.
    """

    model: str
    prompt: str | list[Any]
    n: Annotated[int, Meta(ge=1, le=1024)] | None = 1
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None


class SessionCreate(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/sessions: a model, and what the session takes first."""

    model: str
    prompt: str | Tokens | None = None


class SessionAppend(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/sessions/{id}/append."""

    prompt: Text | Annotated[Tokens, Meta(min_length=1)]


class SessionGenerate(Generation, kw_only=True):
    """Body of POST /v1/sessions/{id}/generate: goes on after `prompt`, or from where the session is."""

    prompt: Text | Annotated[Tokens, Meta(min_length=1)] | None = None


class ChoiceLogprobs(msgspec.Struct):
    """Per token of a choice's text: the token as text, natural logarithms of probabilities, and where it begins."""

    tokens: list[str] = []
    token_logprobs: list[float] = []
    top_logprobs: list[dict[str, float]] = []
    text_offset: list[int] = []


class Choice(msgspec.Struct):
    """One answer, or a part of one in a stream."""

    index: int
    text: str
    logprobs: ChoiceLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class PromptDetails(msgspec.Struct):
    """Of the prompt: tokens that were in the prefix cache."""

    cached_tokens: int = 0


class Usage(msgspec.Struct):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Completion(msgspec.Struct):
    """Answer of /v1/completions and of a session's generate; in a stream, one part of it."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    system_fingerprint: str
    object: Literal["text_completion"] = "text_completion"
    usage: Usage | None = None


class Model(msgspec.Struct):
    """A model that is served."""

    id: str
    created: int
    capacity: int | None
    vocabulary: int
    object: Literal["model"] = "model"
    owned_by: str = "causalrn"


class ModelList(msgspec.Struct):
    """Answer of GET /v1/models."""

    data: list[Model]
    object: Literal["list"] = "list"


class SessionInfo(msgspec.Struct):
    """A session: tokens that it has taken, and how many it can take."""

    id: str
    model: str
    position: int
    capacity: int | None
    object: Literal["session"] = "session"


class Deleted(msgspec.Struct):
    """Answer of DELETE /v1/sessions/{id}."""

    id: str
    deleted: Literal[True] = True
    object: Literal["session"] = "session"


class Health(msgspec.Struct):
    """Answer of /healthz."""

    status: Literal["ok", "failed"]


class ErrorDetail(msgspec.Struct):
    """What is wrong and what to do, in OpenAI's form."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(msgspec.Struct):
    """Body of every answer from 400 on."""

    error: ErrorDetail
