"""A static file server for web bundles, on the loopback interface: the types and headers that browsers want."""

from __future__ import annotations

import contextlib
import errno
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from causalrn.bundle.bundle_folder import Bundle
from causalrn.cli.serve_connections import Connections
from causalrn.errors import InputError

LOOPBACK = "127.0.0.1"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".ts": "text/plain; charset=utf-8",
    ".c": "text/plain; charset=utf-8",
    ".h": "text/plain; charset=utf-8",
    "": "application/octet-stream",
}
_MOST_CONNECTIONS = 32
_WAIT_S = 10.0
_ANSWER_S = 60.0
_HEADERS = {
    "Cache-Control": "no-cache",  # a bundle that was exported again is not mixed with the one before
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # cross-origin isolated: what is measured on the page has finer clocks
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class BundleServer(ThreadingHTTPServer):
    """Serves one folder; a context manager that closes its socket.

    One thread per connection, and so many connections at most: who asks for nothing, or takes no answer, is dropped.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        self.connections = Connections(_MOST_CONNECTIONS, _WAIT_S, _ANSWER_S)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, if there is room."""
        if self.connections.add(request):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self.connections.remove(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called twice a second and after every new connection."""
        self.connections.drop_late()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def serve(self) -> None:
        """Answer until Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            self.serve_forever()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of browsers that go away in the middle of a file."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class BundleHandler(SimpleHTTPRequestHandler):
    """Answers with the files below `directory`."""

    protocol_version = "HTTP/1.1"  # a page loads two dozen small files: one connection serves them,
    disable_nagle_algorithm = True  # and no answer's body waits 40 ms for the acknowledgement of its headers
    extensions_map = _TYPES
    server: BundleServer

    def handle_one_request(self) -> None:
        """Wait for a request for a while, and answer it."""
        self.server.connections.note(self.connection, is_answered=False)
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Read the head of a request."""
        is_request = super().parse_request()
        self.server.connections.note(self.connection, is_answered=True)
        return is_request

    def send_head(self) -> Any:
        """Refuse requests that another site's name led here (DNS rebinding), and listings of folders."""
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0].lower()
        if host not in (LOOPBACK, "localhost"):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "this server answers to 127.0.0.1 and localhost only")
            return None
        if not self._is_inside():
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def _is_inside(self) -> bool:
        """Whether the path can be one, and symbolic links do not lead out of the folder."""
        try:
            return Path(self.translate_path(self.path)).resolve().is_relative_to(self.directory)
        except (ValueError, OSError, RuntimeError):
            return False

    def list_directory(self, path: Any) -> None:
        """There is nothing to see but bundles' pages."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        """Add the headers that all answers have."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep the terminal quiet; browsers show what they load."""


def open_server(path: Path, port: int, *, or_any: bool = False) -> BundleServer:
    """A server for a web bundle, listening.

    Args:
        port: 0 for a free one.
        or_any: take a free one if this is in use.

    Raises:
        BundleError: no bundle, or a damaged one.
        InputError: a bundle of another kind, or a port in use.
    """
    bundle = Bundle.open(path)
    if bundle.manifest.web is None:
        raise InputError(f"{path} is a bundle for {bundle.manifest.target}: `export --target web` writes one to serve")
    handler = partial(BundleHandler, directory=str(path.resolve()))
    try:
        return BundleServer((LOOPBACK, port), handler)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and or_any:
            return BundleServer((LOOPBACK, 0), handler)
        raise InputError(f"port {port} cannot be used ({error.strerror}): choose another one with --port") from None
