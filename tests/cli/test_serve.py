"""`causalrn-export serve`: what browsers get from it, and what it refuses."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from causalrn.cli import serve_run
from causalrn.cli.serve_run import open_server
from causalrn.errors import BundleError, InputError
from tests.builders import ROOT
from tests.web_tools import needs_web


@pytest.fixture
def get(web_bundles):
    """Asks a server: (status, headers, body)."""
    with open_server(web_bundles["exact"], 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()

        def ask(path, host=None, method="GET"):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
            connection.request(method, path, headers={"Host": host} if host else {})
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            return answer.status, answer.headers, body

        yield ask
        server.shutdown()
        thread.join()


@needs_web
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", "text/html; charset=utf-8"),
        ("index.html", "text/html; charset=utf-8"),
        ("page.css", "text/css; charset=utf-8"),
        ("causalrn.js", "text/javascript; charset=utf-8"),
        ("verify.mjs", "text/javascript; charset=utf-8"),
        ("engine_simd.wasm", "application/wasm"),
        ("manifest.json", "application/json"),
        ("weights.bin", "application/octet-stream"),
        ("golden.safetensors", "application/octet-stream"),
        ("beside/manifest.json", "application/json"),
    ],
)
def test_files_have_their_types(get, web_bundles, name, kind):
    status, headers, body = get(f"/{name}")
    assert (status, headers["Content-Type"]) == (200, kind)
    assert body == (web_bundles["exact"] / (name or "index.html")).read_bytes()
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-cache"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"


@needs_web
def test_nothing_else_is_served(get):
    for path in ("/missing", "/../conftest.py", "/%2e%2e/%2e%2e/etc/passwd", "/beside/../../linear/manifest.json"):
        assert get(path)[0] == 404
    assert get("/%00")[0] == 404
    assert get("/", host="evil.example")[0] == 421
    assert get("/", host="localhost")[0] == 200
    assert get("/", host="LocalHost:8000")[0] == 200
    assert get("/", method="POST")[0] == 501
    assert get("/manifest.json", method="HEAD")[2] == b""


@needs_web
def test_links_lead_nowhere_else(get, web_bundles):
    link = web_bundles["exact"] / "link"
    link.symlink_to(ROOT)
    try:
        assert get("/link/README.md")[0] == 404
    finally:
        link.unlink()


@needs_web
def test_folder_without_a_page_is_not_listed(get, web_bundles):
    (web_bundles["exact"] / "empty").mkdir()
    try:
        assert get("/empty/")[0] == 404
    finally:
        (web_bundles["exact"] / "empty").rmdir()


@pytest.fixture
def crowd():
    """Connects clients to a server, and closes them at the end."""
    clients = []

    def connect(server, count, say=b""):
        for _ in range(count):
            clients.append(socket.create_connection(("127.0.0.1", server.server_port), timeout=20))
            clients[-1].sendall(say)
        return clients[-count:]

    yield connect
    for client in clients:
        client.close()


@contextlib.contextmanager
def serving(folder, monkeypatch, **limits):
    for name, value in limits.items():
        monkeypatch.setattr(serve_run, name, value)
    with open_server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def answer_of(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("GET", "/manifest.json")
    status = connection.getresponse().status
    connection.close()
    return status


def is_dropped(client):
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


@needs_web
@pytest.mark.parametrize("say", [b"", b"GET /manifest.json HTTP/1.1\r\nHost: local"], ids=["idle", "half a request"])
def test_many_clients_that_ask_for_nothing_leave_room_for_others(web_bundles, crowd, monkeypatch, say):
    before = threading.active_count()
    with serving(web_bundles["exact"], monkeypatch) as server:
        clients = crowd(server, 300, say)
        assert answer_of(server) == 200
        assert threading.active_count() - before <= 2 * 32  # of those that were dropped, some end only now
        assert is_dropped(clients[0])


@needs_web
def test_clients_that_are_late_are_dropped(web_bundles, crowd, monkeypatch):
    head = b"GET /manifest.json HTTP/1.1\r\nHost: localhost\r\n"
    with serving(web_bundles["exact"], monkeypatch, _WAIT_S=0.5) as server:
        idle, half, kept = (crowd(server, 1, say)[0] for say in (b"", head, head + b"\r\n"))
        with contextlib.suppress(ConnectionError):
            for _ in range(200):  # a byte now and then is no request either
                half.sendall(b"X")
                time.sleep(0.02)
        assert is_dropped(idle)
        assert is_dropped(half)
        while kept.recv(1 << 16):  # its answer, and then the end
            pass
        assert answer_of(server) == 200


@needs_web
def test_client_that_takes_no_answer_is_dropped(web_bundles, crowd, monkeypatch):
    large = web_bundles["exact"] / "large.bin"
    large.write_bytes(bytes(32 << 20))
    try:
        with serving(web_bundles["exact"], monkeypatch, _ANSWER_S=0.3) as server:
            before = threading.active_count()
            client = crowd(server, 1, b"GET /large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")[0]
            assert client.recv(10) == b"HTTP/1.1 2"
            for _ in range(500):
                if threading.active_count() == before:
                    break
                time.sleep(0.02)
            assert threading.active_count() == before
    finally:
        large.unlink()


def test_other_folders_are_refused(tmp_path, exact_bundle):
    with pytest.raises(InputError, match="is a bundle for onnx: `export --target web` writes one to serve"):
        open_server(exact_bundle, 0)
    with pytest.raises(BundleError, match=r"it is empty"):
        open_server(tmp_path, 0)


@needs_web
def test_port_in_use(web_bundles):
    with open_server(web_bundles["exact"], 0) as first:
        with pytest.raises(InputError, match=f"port {first.server_port} cannot be used.*--port"):
            open_server(web_bundles["exact"], first.server_port)
        with open_server(web_bundles["exact"], first.server_port, or_any=True) as second:
            assert second.server_port != first.server_port


@needs_web
def test_command_says_where_and_ends_with_ctrl_c(web_bundles):
    command = [sys.executable, "-m", "causalrn", "serve", str(web_bundles["linear"]), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    ) as process:
        line = process.stdout.readline()
        assert "at http://127.0.0.1:" in line
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == ""


def test_mistakes_are_one_line(call, tmp_path):
    code, _, err = call("serve", tmp_path / "nothing")
    assert code == 2
    assert "no such folder" in err
    assert call("serve", tmp_path, "--port", 99999)[0] == 2
