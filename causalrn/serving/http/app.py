"""The application: who may ask, where to, what is counted and logged, and errors as answers."""

from __future__ import annotations

import secrets
import time
from typing import Any

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from causalrn.serving.http.bodies import ClientGoneError
from causalrn.serving.http.completions import Completions, json_response
from causalrn.serving.http.generating import Generating
from causalrn.serving.http.messages import Health
from causalrn.serving.http.metrics import Metrics
from causalrn.serving.http.models import ServedModel
from causalrn.serving.http.openapi import openapi_document
from causalrn.serving.http.problems import LOG, AnswerError, problem_of
from causalrn.serving.http.sessions import Sessions
from causalrn.serving.http.settings import ServerSettings, is_loopback

_OPEN = ("/healthz", "/openapi.json")
_HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}
ANYONE = "anyone"
"""The one client of a server without keys."""
_CLIENT_GONE = 499
"""Status in logs and metrics where nobody was left to take an answer."""


class App:
    """The server as an ASGI application.

    Args:
        models: by name; closing them is the caller's.
    """

    def __init__(self, models: dict[str, ServedModel], settings: ServerSettings) -> None:
        self._models, self._settings = models, settings
        self._metrics = Metrics(models)
        self._document = msgspec.json.encode(openapi_document())
        completions, sessions = Completions(models, settings), Sessions(models, settings)
        one = "/v1/sessions/{session}"
        self._router = Router(
            [
                Route("/v1/completions", completions.complete, methods=["POST"]),
                Route("/v1/models", completions.list_models, methods=["GET"]),
                Route("/v1/models/{model}", completions.describe_model, methods=["GET"]),
                Route("/v1/sessions", sessions.create, methods=["POST"]),
                Route(one, sessions.describe, methods=["GET"]),
                Route(one, sessions.delete, methods=["DELETE"]),
                Route(f"{one}/append", sessions.append, methods=["POST"]),
                Route(f"{one}/generate", sessions.generate, methods=["POST"]),
                Route(f"{one}/fork", sessions.fork, methods=["POST"]),
                Route(f"{one}/state", sessions.snapshot, methods=["GET"]),
                Route(f"{one}/state", sessions.restore, methods=["PUT"]),
                Route("/healthz", self._health, methods=["GET"]),
                Route("/metrics", self._show_metrics, methods=["GET"]),
                Route("/openapi.json", self._openapi, methods=["GET"]),
            ],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever fails becomes an answer, too."""
        assert scope["type"] == "http", "the server speaks HTTP alone"
        answering = _Answering(scope, send)
        self._metrics.open_requests.inc()
        try:
            self._admit(scope)
            await self._router(scope, receive, answering.send)
        except ClientGoneError:
            answering.status = _CLIENT_GONE
        except Exception as error:
            await self._fail(error, scope, receive, answering)
        finally:
            self._metrics.open_requests.dec()
            self._note(scope, answering)

    def _admit(self, scope: Scope) -> None:
        """Check the server's name, and the client's key.

        Raises:
            AnswerError: one of them is wrong.
        """
        headers = Headers(scope=scope)
        scope["app"] = self  # so that the router raises what it finds wrong
        scope["state"] = {"owner": ANYONE, "record": {}}
        if is_loopback(self._settings.host) and not is_loopback(_host_name(headers.get("host", ""))):
            raise AnswerError(421, "this server answers to localhost and 127.0.0.1 only", code="misdirected")
        if scope["path"] in _OPEN or not len(self._settings.keys):
            return
        kind, _, key = headers.get("authorization", "").partition(" ")
        owner = self._settings.keys.owner(key.strip()) if kind.lower() == "bearer" else None
        if owner is None:
            raise AnswerError(
                401,
                "no API key, or a wrong one: send it as Authorization: Bearer KEY",
                kind="authentication_error",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        scope["state"]["owner"] = owner

    async def _fail(self, error: Exception, scope: Scope, receive: Receive, answering: _Answering) -> None:
        if isinstance(error, HTTPException):
            allowed = dict(error.headers or {})
            problem = AnswerError(error.status_code, error.detail.lower(), code="no_such_endpoint", headers=allowed)
        else:
            problem = problem_of(error)
        if answering.has_begun:
            raise error  # half an answer: the connection is closed
        await problem.response()(scope, receive, answering.send)

    def _note(self, scope: Scope, answering: _Answering) -> None:
        """Count and log: no prompt, no text, no key, no session's id."""
        route = getattr(scope.get("route"), "path", "none")
        self._metrics.requests.labels(route, scope["method"], answering.status).inc()
        self._metrics.seconds.labels(route).observe(answering.seconds)
        state = scope.get("state", {})
        fields: dict[str, Any] = {
            "event": "request",
            "id": answering.id,
            "route": route,
            "method": scope["method"],
            "status": answering.status,
            "client": state.get("owner", "")[:8],
            "duration_ms": round(answering.seconds * 1000, 1),
        }
        record = state.get("record", {})
        generating = record.pop("generating", None)
        if isinstance(generating, Generating):
            fields |= record | _numbers(generating)
            if generating.first_s is not None:
                self._metrics.first_seconds.labels(record["model"]).observe(generating.first_s)
        LOG.info("request", extra={"fields": fields})

    async def _health(self, request: Request) -> Response:
        failed = any(model.engine.failure is not None for model in self._models.values())
        return json_response(Health("failed" if failed else "ok"), 503 if failed else 200)

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def _openapi(self, request: Request) -> Response:
        return Response(self._document, media_type="application/json")


class _Answering:
    """An answer on its way: its status, and how long it takes."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.id = secrets.token_hex(8)
        self.status = 500
        self.has_begun = False
        self._send, self._begun = send, time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the request's head was whole."""
        return time.monotonic() - self._begun

    async def send(self, message: Message) -> None:
        """Pass on what is sent; all answers have some headers."""
        if message["type"] == "http.response.start":
            self.status, self.has_begun = message["status"], True
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.id
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


def _numbers(generating: Generating) -> dict[str, Any]:
    usage, first = generating.usage, generating.first_s
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.prompt_tokens_details.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "first_token_ms": None if first is None else round(first * 1000, 1),
        "finish": generating.finish,
    }


def _host_name(host: str) -> str:
    """Without the port."""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name.strip("[]").lower()
