"""POST /v1/completions, GET /v1/models."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from causalrn.errors import InputError
from causalrn.serving.http.bodies import read_json, while_connected
from causalrn.serving.http.generating import Generating, Plan
from causalrn.serving.http.messages import CompletionRequest, Generation, ModelList
from causalrn.serving.http.models import ServedModel, find_model
from causalrn.serving.http.problems import AnswerError
from causalrn.serving.http.settings import ServerSettings
from causalrn.serving.requests import Request

_EVENTS = "text/event-stream"
_STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class Completions:
    """The endpoints without state.

    Args:
        models: by name.
    """

    def __init__(self, models: dict[str, ServedModel], settings: ServerSettings) -> None:
        self._models, self._settings = models, settings

    async def list_models(self, request: HttpRequest) -> Response:
        """All models."""
        return json_response(ModelList([model.description for model in self._models.values()]))

    async def describe_model(self, request: HttpRequest) -> Response:
        """One model."""
        return json_response(find_model(self._models, request.path_params["model"]).description)

    async def complete(self, request: HttpRequest) -> Response:
        """Generate after prompts."""
        body = await read_json(request, self._settings, CompletionRequest)
        if body.logit_bias:
            raise AnswerError(400, "logit_bias means nothing here: leave it out", param="logit_bias")
        model = find_model(self._models, body.model)
        plan = Plan.of(model, body)
        prompts, choices = model.encode_all(body.prompt), body.n or 1
        if len(prompts) * choices > self._settings.choices:
            most = self._settings.choices
            raise InputError(f"{len(prompts)} prompts with n = {choices} are more than {most} choices: ask for fewer")
        requests = [
            Request(
                tokens=prompt,
                options=plan.options,
                stops=plan.stops,
                choices=choices,
                logprobs=plan.logprobs,
                client=request.state.owner,
                deadline=time.monotonic() + self._settings.deadline_s,
            )
            for prompt in prompts
        ]
        generating = Generating(model, plan, requests)
        return await answer(request, model, body, plan, requests, generating)


async def answer(
    http: HttpRequest,
    model: ServedModel,
    body: Generation,
    plan: Plan,
    requests: list[Request],
    generating: Generating,
    cleanup: contextlib.AsyncExitStack | None = None,
) -> Response:
    """Submit requests and answer: at once, or as a stream, whose client may leave.

    Args:
        cleanup: closed once all has been answered, or the client has left.

    Raises:
        CausalRNError: a request that cannot be submitted, or fails; AnswerError: it is late.
    """
    stack = cleanup or contextlib.AsyncExitStack()
    http.state.record["model"] = model.name
    http.state.record["generating"] = generating
    headers = {"x-causalrn-seed": str(plan.options.seed)}
    try:
        channel = await stack.enter_async_context(model.answers.channel(requests))
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            return _ClosingStream(generating.stream(channel, with_usage=with_usage), headers, stack)
        result = await while_connected(http, generating.whole(channel))
    except BaseException:
        await stack.aclose()
        raise
    await stack.aclose()
    return json_response(result, headers=headers)


class _ClosingStream(StreamingResponse):
    """Server-sent events; however they end, even before the first of them, a stack is closed."""

    def __init__(self, parts: AsyncIterator[bytes], headers: dict[str, str], stack: contextlib.AsyncExitStack) -> None:
        super().__init__(parts, headers=_STREAM_HEADERS | headers, media_type=_EVENTS)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


def json_response(value: msgspec.Struct, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An object as JSON."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")
