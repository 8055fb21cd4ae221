"""Reading requests: no more bytes than they may have, in no more time, and only what they can be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar

import msgspec
from starlette.requests import Request

from causalrn.serving.http.problems import AnswerError
from causalrn.serving.http.settings import ServerSettings

_T = TypeVar("_T")
_R = TypeVar("_R")


class ClientGoneError(Exception):
    """The client has left: nobody waits for an answer."""


async def read_body(request: Request, settings: ServerSettings, kind: str, most: int) -> bytes:
    """All of a body.

    Args:
        kind: its content type.
        most: bytes.

    Raises:
        AnswerError: another content type, too large, or too slow.
        ClientGoneError: the client has left.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != kind:
        raise AnswerError(415, f"the body is {given or 'of no type'}: send it as {kind}", code="unsupported_media_type")
    size = request.headers.get("content-length", "0")
    if size.isdigit() and int(size) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_s):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                body += message.get("body", b"")
                if len(body) > most:
                    raise _too_large(most)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise AnswerError(
            408, "the body did not come in time: send it faster", code="timeout", headers={"connection": "close"}
        ) from None


async def read_json(request: Request, settings: ServerSettings, kind: type[_T]) -> _T:
    """A JSON body as an object.

    Raises:
        AnswerError: as :func:`read_body`; no JSON, or entries that cannot be.
        ClientGoneError: the client has left.
    """
    body = await read_body(request, settings, "application/json", settings.body_bytes)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        what, _, place = str(error).replace("`", "").partition(" - at $.")
        raise AnswerError(
            400, f"{place}: {what}" if place else what, param=place or None, code="invalid_value"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AnswerError(400, f"the body is no JSON: {error}", code="invalid_json") from None


async def while_connected(request: Request, work: Awaitable[_R]) -> _R:
    """The result of some work, which ends when the client leaves.

    Raises:
        ClientGoneError: it has left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _too_large(most: int) -> AnswerError:
    headers = {"connection": "close"}
    return AnswerError(413, f"the body has more than {most:,} bytes: send less", code="too_large", headers=headers)
