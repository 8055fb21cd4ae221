"""Listening, and ending: what runs comes to its end first."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

import msgspec
import uvicorn

from causalrn.errors import InputError
from causalrn.runtimes.session import Session
from causalrn.serving.http.app import App
from causalrn.serving.http.connections import LimitedProtocol
from causalrn.serving.http.models import ServedModel, serving
from causalrn.serving.http.problems import LOG
from causalrn.serving.http.settings import ServerSettings

_TIDY_S = 30
_SWITCH_S = 0.0005
"""How long the event loop may keep the engine's thread waiting after a call of C, and the other way round."""


def run_server(
    sessions: dict[str, Session],
    settings: ServerSettings,
    told: Callable[[str], None] = lambda url: None,
    *,
    or_any: bool = False,
) -> None:
    """Serve models until SIGTERM or Ctrl-C, and then what runs to its end; a second one ends at once.

    Args:
        sessions: by name of their model; closed at the end.
        told: called with the server's address once it listens.
        or_any: take another port if this is in use.

    Raises:
        InputError: an address that cannot be used.
    """
    with listening(settings, or_any=or_any) as listener, serving(sessions, settings) as models:
        _log_as_json()
        sys.setswitchinterval(_SWITCH_S)
        host, port = listener.getsockname()[:2]
        told(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        Server(server_config(models, settings)).run(sockets=[listener])


def server_config(models: dict[str, ServedModel], settings: ServerSettings) -> uvicorn.Config:
    """How uvicorn is to run the application."""

    async def tidy() -> None:
        for model in models.values():
            try:
                await asyncio.to_thread(model.store.delete_idle)
            except OSError as error:  # of the disk: the server goes on, and tries again
                LOG.warning("idle sessions cannot be deleted: %s", error)

    return uvicorn.Config(
        App(models, settings),
        http=type("_Protocol", (LimitedProtocol,), {"settings": settings}),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(settings.idle_s),
        timeout_graceful_shutdown=int(settings.drain_s),
        backlog=settings.connections,
        callback_notify=tidy,
        timeout_notify=_TIDY_S,
    )


class Server(uvicorn.Server):
    """Ends with exit code 0 after a signal."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends."""
        self.force_exit = self.should_exit
        self.should_exit = True


def listening(settings: ServerSettings, *, or_any: bool = False) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: an address that cannot be used.
    """
    host, port = settings.host, settings.port
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # asyncio turns Nagle's algorithm off where the protocol is named, and else answers take 40 ms more each
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except (OSError, UnicodeError) as error:
        raise InputError(f"`host` {host} is no address of this machine ({error}): choose another one") from None
    try:
        try:
            listener.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not or_any:
                raise
            listener.bind((address[0], 0, *address[2:]))
        listener.listen(settings.connections)
    except OSError as error:
        listener.close()
        raise InputError(f"{host} port {port} cannot be used ({error.strerror}): choose another `port`") from None
    return listener


class _JsonLines(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"time": round(time.time(), 3), "level": record.levelname.lower()}
        fields |= getattr(record, "fields", {"event": "log", "message": record.getMessage()})
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


def _log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for logger, level in ((LOG, logging.INFO), (logging.getLogger("uvicorn"), logging.WARNING)):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
