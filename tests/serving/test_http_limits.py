"""Slow, vanishing, malformed and hostile clients: limits hold, and others are served meanwhile."""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from causalrn.errors import InputError
from causalrn.serving import Limits
from causalrn.serving.http import running as serving_http
from causalrn.serving.http.running import listening
from causalrn.serving.http.settings import ApiKeys, ServerSettings, read_keys
from causalrn.serving.session_store import SessionStore
from causalrn.serving.texts import ChoiceText
from tests.builders import ROOT
from tests.serving.servers import KEYS, Running, completion_request, head, is_closed, is_refused, running, wait_for

LONG = {"prompt": "a", "max_tokens": 35, "temperature": 0}
"""Comes to no stop before."""
ONE = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def linear(served):
    return {"linear": served["linear"]}


def fine(server, key: str = "") -> None:
    """The server answers others as ever."""
    body = {"model": "linear", "prompt": "abc", "max_tokens": 2, "temperature": 0}
    status, _, answer = server.ask("POST", "/v1/completions", body, key=key)
    assert status == 200, answer


def test_slow_heads_and_bodies_are_dropped(linear) -> None:
    with running(linear, head_s=0.4, body_s=0.4, connections=20) as server:
        slow = [server.connect(head()[:30]) for _ in range(6)]
        slow += [server.connect(head(length=100) + b"{") for _ in range(6)]
        slow += [server.connect() for _ in range(3)]
        slow += [server.connect(b"\r\n") for _ in range(2)]
        fine(server)
        for connection in slow:
            assert is_closed(connection)
        fine(server)


def test_dripping_head_gets_no_more_time(linear) -> None:
    with running(linear, head_s=0.6) as server:
        connection = server.connect(head())
        began = time.monotonic()
        while not is_refused(connection, b"x-a: b\r\n"):
            assert time.monotonic() - began < 15
            time.sleep(0.05)
        fine(server)


def test_heads_without_end_are_dropped(linear) -> None:
    with running(linear, head_bytes=4096) as server:
        assert is_closed(server.connect(head() + b"x-a: " + b"b" * 8000 + b"\r\n"))
        assert is_closed(server.connect(b"GET /" + b"a" * 2_000_000))
        fine(server)


def test_heads_without_end_behind_a_request_are_dropped(linear) -> None:
    with running(linear, head_bytes=4096) as server:
        server.slow_down(0.5)
        connection = server.connect(completion_request(stream=True, **LONG))
        assert connection.recv(10) == b"HTTP/1.1 2"
        connection.sendall(head() + b"x-a: " + b"b" * 8000)
        assert is_closed(connection, within_s=5)


def test_large_bodies_are_refused_before_they_come(linear) -> None:
    with running(linear) as server:
        connection = server.connect(head(length=10_000_000) + b'{"prompt": "')
        assert b"413" in connection.recv(64)
        assert is_closed(connection)
        chunked = head() + b"transfer-encoding: chunked\r\n\r\n"
        connection = server.connect(chunked)
        chunk = b"2000\r\n" + b"a" * 0x2000 + b"\r\n"
        assert any(is_refused(connection, chunk) for _ in range(2000))
        fine(server)


def test_idle_connections_make_room(linear) -> None:
    with running(linear, connections=5) as server:
        idle = [server.connect() for _ in range(12)]
        fine(server)
        assert sum(is_closed(connection, 0.3) for connection in idle) >= 8


def test_busy_connections_are_not_dropped(linear) -> None:
    with running(linear, connections=3) as server:
        server.slow_down(0.1)
        request = completion_request(**LONG, stream=True)
        busy = [server.connect(request) for _ in range(3)]
        for connection in busy:
            connection.recv(16)
        refused = server.connect(request)
        assert b"503" in refused.recv(64)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += busy[0].recv(1 << 16)
        assert b"[DONE]" in received


@pytest.mark.parametrize("choices", [4, 32])
@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_clients_that_take_nothing_are_dropped(linear, choices, connection) -> None:
    """Be the answer larger than what asyncio writes without a pause, or smaller."""
    with running(linear, stuck_s=0.3, idle_s=0.3, sends=4096) as server:
        asked = {"prompt": "a", "max_tokens": 36, "n": choices, "logprobs": 5, "temperature": 1, "seed": 0}
        _, _, answer = server.ask("POST", "/v1/completions", {"model": "linear", **asked})
        assert (len(json.dumps(answer)) > 65536) == (choices == 32)
        generated = server.models["linear"].engine.statistics().generated_tokens
        request = completion_request(**asked).replace(b"\r\n", f"\r\nconnection: {connection}\r\n".encode(), 1)
        server.connect(request, receives=4096)
        wait_for(lambda: server.models["linear"].engine.statistics().generated_tokens == 2 * generated)
        wait_for(lambda: server.count_connections() == 0)
        fine(server)


def test_requests_do_not_pile_up_on_a_connection(linear) -> None:
    with running(linear) as server:
        server.slow_down(0.2)
        connection = server.connect(completion_request(**LONG))
        assert any(is_refused(connection, ONE * 10) for _ in range(100_000))
        fine(server)


@pytest.mark.parametrize("stream", [True, False])
def test_vanished_clients_free_their_slots(linear, stream) -> None:
    with running(linear, limits=Limits(max_slots=2)) as server:
        server.slow_down(0.1)
        gone = [server.connect(completion_request(**LONG, stream=stream)) for _ in range(6)]
        wait_for(lambda: server.models["linear"].engine.statistics().waiting == 4)
        for connection in gone:
            connection.close()
        began = time.monotonic()
        server.wait_until_idle()
        assert time.monotonic() - began < 6 * 35 * 0.1  # not by running to the end
        fine(server)


def test_full_queue_says_when_to_come_again(linear) -> None:
    with running(linear, limits=Limits(max_slots=1, max_waiting=2)) as server:
        server.slow_down(0.1)
        request = completion_request(**LONG, stream=True)
        now = server.models["linear"].engine.statistics
        connections = [server.connect(request)]
        wait_for(lambda: now().running == 1)
        connections += [server.connect(request) for _ in range(2)]
        wait_for(lambda: now().waiting == 2)
        status, headers, answer = server.ask("POST", "/v1/completions", {"model": "linear", "prompt": "abc"})
        assert (status, headers["retry-after"], answer["error"]["code"]) == (429, "1", "queue_full")
        for connection in connections:
            connection.close()
        server.wait_until_idle()
        fine(server)


@pytest.mark.parametrize("stream", [True, False])
def test_late_requests_end(linear, stream) -> None:
    with running(linear, deadline_s=0.3) as server:
        server.slow_down(0.1)
        body = {"model": "linear", **LONG, "stream": stream}
        status, _, answer = server.ask("POST", "/v1/completions", body)
        assert status == (200 if stream else 504)
        error = json.loads(answer.split(b"data: ")[-1]) if stream else answer
        assert error["error"]["code"] == "deadline_exceeded"
        server.wait_until_idle()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"model": "linear", "prompt": "\\ud800"}',
        b'{"model": "linear", "prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"model": "linear", "prompt": "a", "seed": 1e400}',
        b'{"model": "linear", "prompt": [99999999999999999999]}',
        b'{"model": "linear", "prompt": [-1]}',
        b'{"model": "linear", "prompt": "a", "temperature": NaN}',
    ],
)
def test_malformed_bodies_are_refused(server, body) -> None:
    status, _, answer = server.ask("POST", "/v1/completions", body, key=KEYS[0])
    assert status == 400, answer
    assert answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n", b"400"),
        (head("/v1/nothing", 0), b"401"),
        (b"GET /v1/nothing HTTP/1.1\r\nhost: localhost\r\n\r\n", b"401"),
    ],
)
def test_malformed_requests_are_refused(server, data, status) -> None:
    assert status in server.connect(data).recv(64)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/sessions/..%2f..%2fetc", 404),
        ("GET", "/v1/sessions/linear...%2f..%2f", 404),
        ("GET", "/v1/sessions/linear.%00", 404),
    ],
)
def test_unknown_places_are_one_clear_answer(server, method, path, status) -> None:
    given, _, answer = server.ask(method, path, key=KEYS[0])
    assert given == status
    assert answer["error"]["message"]


# --- keys and names ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(linear):
    with running(linear, KEYS) as server:
        yield server


@pytest.mark.parametrize(
    "header", ["", "Bearer wrong", "Bearer ", "Basic abc", f"bearer {KEYS[0]}x", "Bearer \xff\xfe"]
)
def test_wrong_keys_are_refused(server, header) -> None:
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions"), ("GET", "/metrics")):
        status, headers, answer = server.ask(method, path, authorization=header)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert answer["error"]["code"] == "invalid_api_key"
        assert KEYS[0] not in json.dumps(answer)


def test_right_keys_are_taken(server) -> None:
    for key in KEYS:
        fine(server, key)
    assert server.ask("GET", "/healthz")[0] == 200
    assert server.ask("GET", "/openapi.json")[0] == 200


@pytest.mark.parametrize(
    ("host", "status"), [("localhost", 200), ("127.0.0.1:9", 200), ("[::1]:9", 200), ("evil.example", 421)]
)
def test_other_names_lead_nowhere(server, host, status) -> None:
    assert server.ask("GET", "/v1/models", key=KEYS[0], host=host)[0] == status


def test_forms_of_other_sites_are_refused(server) -> None:
    """A page elsewhere may send forms without asking; it may not send JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        status, _, answer = server.ask("POST", "/v1/completions", b'{"model":"linear"}', key=KEYS[0], kind=kind)
        assert (status, answer["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("short\n", "key 1 is no 16 or more"),
        ("# none\n\n", "there is no API key in it"),
        (f"{KEYS[0]}\nschlüssel-schlüssel\n", "key 2 is no 16"),
        (f"{KEYS[0]} {KEYS[1]}\n", "key 1 is no 16"),
    ],
)
def test_bad_key_files_are_refused(tmp_path, content, reason) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=reason) as raised:
        read_keys(path)
    assert str(path) in str(raised.value)


def test_keys_come_from_a_file_or_the_environment(tmp_path, monkeypatch) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(f"# two\n{KEYS[0]}\n  {KEYS[1]}  \n")
    monkeypatch.setenv("CAUSALRN_API_KEYS", f"{KEYS[0]} {KEYS[1]}")
    for keys in (read_keys(path), read_keys(None)):
        assert len(keys) == 2
        assert keys.owner(KEYS[0]) != keys.owner(KEYS[1])
        assert keys.owner("other") is None


def test_other_addresses_need_keys() -> None:
    with pytest.raises(InputError, match="can be reached from elsewhere: give API keys"):
        ServerSettings(host="0.0.0.0")
    ServerSettings(host="0.0.0.0", keys=ApiKeys(KEYS))
    ServerSettings(host="::1")


# --- what is written down, and the end ------------------------------------------------------------------------------


def test_logs_hold_no_secrets(linear, caplog) -> None:
    with running(linear, KEYS) as server, caplog.at_level(logging.INFO, "causalrn.serving"):
        secret = "secretprompt"
        _, _, session = server.ask("POST", "/v1/sessions", {"model": "linear", "prompt": secret}, key=KEYS[0])
        body = {"max_tokens": 12, "prompt": secret, "temperature": 1, "seed": 0}
        _, _, answer = server.ask("POST", f"/v1/sessions/{session['id']}/generate", body, key=KEYS[0])
    fields = [record.fields for record in caplog.records]
    assert [(entry["route"], entry["status"]) for entry in fields] == [
        ("/v1/sessions", 201),
        ("/v1/sessions/{session}/generate", 200),
    ]
    assert fields[1]["completion_tokens"] >= 1
    written = json.dumps(fields)
    text = answer["choices"][0]["text"]
    assert len(text) > 4  # fewer letters may be part of any word
    for hidden in (secret, session["id"], KEYS[0], text):
        assert hidden not in written


def test_engine_that_fails_is_seen(linear) -> None:
    with running(linear) as server:
        slots = server.models["linear"].engine._scheduler._slots

        def broken(*arguments):
            raise MemoryError("no memory is left")

        slots._advance = broken
        status, _, answer = server.ask("POST", "/v1/completions", {"model": "linear", "prompt": "abc"})
        assert (status, answer["error"]["type"]) == (503, "server_error")
        assert server.ask("GET", "/healthz")[::2] == (503, {"status": "failed"})
        status, headers, answer = server.ask("POST", "/v1/completions", {"model": "linear", "prompt": "abc"})
        assert (status, headers["retry-after"]) == (503, "1")


def test_defects_in_a_stream_are_logged(linear, caplog, monkeypatch) -> None:
    def broken(*_) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(ChoiceText, "take", broken)
    with running(linear) as server, caplog.at_level(logging.ERROR, "causalrn.serving"):
        _, _, answer = server.ask("POST", "/v1/completions", {"model": "linear", "stream": True, **LONG})
    assert b"its log says how" in answer
    assert "a defect" in caplog.text


def test_idle_sessions_that_cannot_be_deleted_end_no_server(linear, caplog, monkeypatch) -> None:
    def refuse(store) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(SessionStore, "delete_idle", refuse)
    monkeypatch.setattr(serving_http, "_TIDY_S", 0)
    with running(linear) as server:
        wait_for(lambda: "Read-only file system" in caplog.text)
        fine(server)


def test_draining_ends_what_runs(linear) -> None:
    with running(linear, drain_s=20.0) as server:
        server.slow_down(0.05)
        connection = server.connect(completion_request(**LONG, stream=True))
        received = connection.recv(64)
        server.end()
        while data := connection.recv(1 << 16):
            received += data
    assert b"[DONE]" in received


def test_sigterm_drains_and_exits_with_0(bundles) -> None:
    command = [sys.executable, "-m", "causalrn", "serve", f"linear={bundles['linear']}", "--http", "--port", "0"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "99"},
    )
    line = process.stdout.readline()
    port = int(line.rpartition(":")[2].partition("/")[0])
    fine(Running(port, {}))
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "")
    (entry,) = [json.loads(text) for text in errors.splitlines()]
    assert (entry["event"], entry["status"]) == ("request", 200)


def test_answers_are_not_held_back_until_clients_acknowledge() -> None:
    """asyncio turns Nagle's algorithm off by itself, but for sockets that name no protocol: 40 ms per answer."""

    async def accepted() -> int:
        made: asyncio.Future[asyncio.BaseTransport] = asyncio.get_running_loop().create_future()

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.set_result(transport)

        listener = listening(ServerSettings(port=0))
        async with await asyncio.get_running_loop().create_server(Protocol, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            transport = await made
            delay: int = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            transport.close()
            writer.close()
            await writer.wait_closed()
        return delay

    assert asyncio.run(accepted()) != 0
