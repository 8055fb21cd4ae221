"""`causalrn-export serve`: what browsers get from it, and what it refuses."""

import http.client
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

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


def test_other_folders_are_refused(tmp_path, exact_bundle):
    with pytest.raises(InputError, match="is a bundle for onnx: `export --target web` writes one to serve"):
        open_server(exact_bundle, 0)
    with pytest.raises(BundleError, match=r"no manifest\.json in it"):
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
