"""Servers in threads of the test process, and raw connections to them."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causalrn.runtimes import open_session
from causalrn.serving.http.models import ServedModel, serving
from causalrn.serving.http.running import Server, listening, server_config
from causalrn.serving.http.settings import ApiKeys, ServerSettings

KEYS = ("key-of-the-first-client", "key-of-the-second-client")


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    port: int
    models: dict[str, ServedModel]
    end: Callable[[], None] = lambda: None
    count_connections: Callable[[], int] = lambda: 0
    connections: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = None, *, key: str = "", kind: str = "application/json", **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers, and the body: JSON as values."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        content = body if isinstance(body, bytes | str | None) else json.dumps(body)
        given = {"content-type": kind, **headers} | ({"authorization": f"Bearer {key}"} if key else {})
        connection.request(method, path, content, given)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return answer.status, dict(answer.headers), json.loads(content) if is_json else content

    def complete(self, **body: Any) -> dict[str, Any]:
        """A completion's body."""
        status, _, answer = self.ask("POST", "/v1/completions", {"model": "linear", **body})
        assert status == 200, answer
        completion: dict[str, Any] = answer
        return completion

    def connect(self, data: bytes = b"", receives: int | None = None) -> socket.socket:
        """A raw connection that has sent something, with room for so many bytes that it has not read."""
        connection = socket.socket()
        connection.settimeout(20)
        if receives is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        connection.connect(("127.0.0.1", self.port))
        self.connections.append(connection)
        connection.sendall(data)
        return connection

    def slow_down(self, seconds: float, model: str = "linear") -> None:
        """Have every step of a model take so long at least."""
        slots = self.models[model].engine._scheduler._slots
        quick = type(slots)._advance

        def slow(*arguments):
            time.sleep(seconds)
            return quick(slots, *arguments)

        slots._advance = slow

    def wait_until_idle(self, model: str = "linear") -> None:
        """Nothing runs or waits; within seconds, or the test fails."""
        wait_for(lambda: (s := self.models[model].engine.statistics()).running == s.waiting == 0)


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)


@contextlib.contextmanager
def running(
    folders: dict[str, Path], keys: tuple[str, ...] = (), *, sends: int | None = None, **settings: Any
) -> Iterator[Running]:
    """A server of some bundles, in a thread; the system keeps so many bytes of an answer that is not read."""
    chosen = ServerSettings(port=0, keys=ApiKeys(keys), **{"drain_s": 1.0, **settings})
    sessions = {name: open_session(folder) for name, folder in folders.items()}
    with listening(chosen) as listener, serving(sessions, chosen) as models:
        if sends is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sends)
        server = Server(server_config(models, chosen))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_for(lambda: server.started)

        def end() -> None:
            server.should_exit = True

        shown = Running(listener.getsockname()[1], models, end, lambda: len(server.server_state.connections))
        try:
            yield shown
        finally:
            end()
            thread.join()
            for connection in shown.connections:
                connection.close()


def head(path: str = "/v1/completions", length: int | None = None, method: str = "POST") -> bytes:
    """The head of a request with a body of so many bytes, or an unfinished head."""
    begin = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return begin.encode() + (b"" if length is None else f"content-length: {length}\r\n\r\n".encode())


def completion_request(**body: Any) -> bytes:
    """A whole request in bytes."""
    content = json.dumps({"model": "linear", **body}).encode()
    return head(length=len(content)) + content


def is_closed(connection: socket.socket, within_s: float = 15.0) -> bool:
    """Whether the other side closes a connection, whatever it says before."""
    connection.settimeout(within_s)
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def is_refused(connection: socket.socket, data: bytes) -> bool:
    """Whether the other side takes no more."""
    try:
        connection.sendall(data)
    except OSError:
        return True
    return False
