"""The OpenAPI document, from the objects that are read and written."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from causalrn import __version__
from causalrn.serving.http import messages

_STATE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_READ = (401, 404, 408, 421)
_WRITE = (400, 401, 404, 408, 413, 415, 421, 422, 429, 500, 503, 504)
_USE = (*_WRITE, 409)
_SESSION = {"name": "session", "in": "path", "required": True, "schema": {"type": "string"}}
_MODEL = {**_SESSION, "name": "model"}
_WHAT = {
    400: "The request cannot be: its error says why",
    401: "No API key, or a wrong one",
    404: "No such model or session",
    405: "Another method",
    408: "The body did not come in time",
    409: "Another request uses the session",
    413: "The body is too large",
    415: "The body is of another type",
    421: "A name of this server that it does not know",
    422: "The model gave no numbers",
    429: "As much waits as may: try again after `retry-after` seconds",
    500: "The server has failed",
    503: "The server ends, or has too many connections",
    504: "The request took longer than it may",
}


def openapi_document() -> dict[str, Any]:
    """OpenAPI 3.1, as JSON values."""
    schemas = _schemas()
    return {
        "openapi": "3.1.0",
        "info": {"title": "causalrn-export serve", "version": __version__},
        "paths": _paths(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _paths() -> dict[str, Any]:
    one, part = "/v1/sessions/{session}", [_SESSION]
    completion = _answer("Completion", "The answer; with `stream`, parts of it as server-sent events")
    completion["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    made, info = _answer("SessionInfo", "The new session"), _answer("SessionInfo", "The session")
    return {
        "/v1/completions": {"post": _operation("complete", {200: completion}, _WRITE, "CompletionRequest")},
        "/v1/models": {"get": _operation("list_models", {200: _answer("ModelList", "All models")}, _READ)},
        "/v1/models/{model}": {
            "parameters": [_MODEL],
            "get": _operation("describe_model", {200: _answer("Model", "The model")}, _READ),
        },
        "/v1/sessions": {"post": _operation("create_session", {201: made}, _WRITE, "SessionCreate")},
        one: {
            "parameters": part,
            "get": _operation("describe_session", {200: info}, _READ),
            "delete": _operation("delete_session", {200: _answer("Deleted", "It is no more")}, _READ),
        },
        f"{one}/append": {"parameters": part, "post": _operation("append", {200: info}, _USE, "SessionAppend")},
        f"{one}/generate": {
            "parameters": part,
            "post": _operation("generate", {200: completion}, _USE, "SessionGenerate"),
        },
        f"{one}/fork": {"parameters": part, "post": _operation("fork", {201: made}, (*_READ, 429))},
        f"{one}/state": {
            "parameters": part,
            "get": _operation("snapshot", {200: {"description": "A state file", "content": _STATE}}, _READ),
            "put": {**_operation("restore", {200: info}, _USE), "requestBody": {"required": True, "content": _STATE}},
        },
        "/healthz": {
            "get": _operation(
                "health", {200: _answer("Health", "It works"), 503: _answer("Health", "It has failed")}, (421,)
            )
        },
        "/metrics": {"get": _operation("metrics", {200: {"description": "Numbers", "content": _TEXT}}, (401, 421))},
    }


def _operation(name: str, answers: dict[int, Any], problems: tuple[int, ...], body: str = "") -> dict[str, Any]:
    failed = {code: _answer("ErrorAnswer", _WHAT[code]) for code in sorted(problems)}
    operation: dict[str, Any] = {
        "operationId": name,
        "responses": {str(code): answer for code, answer in {**failed, **answers}.items()},
    }
    if body:
        operation["requestBody"] = {"required": True, "content": _content(body)}
    return operation


def _answer(name: str, what: str) -> dict[str, Any]:
    return {"description": what, "content": _content(name)}


def _content(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _schemas() -> dict[str, Any]:
    kinds = [
        kind
        for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == messages.__name__
    ]
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    return schemas
