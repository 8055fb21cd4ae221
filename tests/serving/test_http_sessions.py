"""Sessions over HTTP: what they generate equals one uninterrupted run, wherever their state has been meanwhile."""

import json
import threading

import pytest
from safetensors.numpy import load

from causalrn.bundle.alphabet import Alphabet
from causalrn.bundle.bundle_folder import seal_bundle
from causalrn.export.c99.c99_exporter import COptions, export_c
from causalrn.runtimes import open_session
from causalrn.serving.session_store import StoreLimits
from tests.builders import RECITED, reciting_model
from tests.c_tools import checkpoint_of
from tests.serving.servers import KEYS, Running, head, running, wait_for

OCTETS = "application/octet-stream"


@pytest.fixture(scope="module")
def server(served):
    with running(served, KEYS) as server:
        yield server


@pytest.fixture(scope="module")
def single(served):
    with open_session(served["linear"]) as session:
        yield session


class Session:
    """A session of the first client."""

    def __init__(self, server: Running, key: str = KEYS[0], **body) -> None:
        self.server, self.key = server, key
        status, _, self.info = server.ask("POST", "/v1/sessions", {"model": "linear", **body}, key=key)
        assert status == 201, self.info
        self.path = f"/v1/sessions/{self.info['id']}"

    def ask(self, method, part="", body=None, status=200, **settings):
        settings = {"key": self.key, **settings}
        given, _, answer = self.server.ask(method, self.path + part, body, **settings)
        assert given == status, answer
        return answer

    def values(self) -> dict[str, list[float]]:
        """Its state and logits; the file's metadata is in no order."""
        return {name: value.ravel().tolist() for name, value in load(self.ask("GET", "/state")).items()}

    def generate(self, **body) -> str:
        return str(self.ask("POST", "/generate", {"temperature": 1, "seed": 4, **body})["choices"][0]["text"])


def alone(session, prompt: str, most: int) -> str:
    session.reset(1)
    return "".join(step.text for step in session.generate(prompt, max_new_tokens=most, temperature=1.0, seed=4))


def test_session_goes_on_as_one_run(server, single) -> None:
    whole = alone(single, "abcdef", 12)
    session = Session(server, prompt="abcdef")
    assert session.info["position"] == 8
    parts = [session.generate(max_tokens=count) for count in (1, 4, 3, 4)]
    assert "".join(parts) == whole
    assert session.ask("GET")["position"] == 20


def test_appended_text_equals_one_prompt(server, single) -> None:
    single.reset(1)
    single.prefill([[0, 3, 4, 1]])
    single.prefill([[5, 6, 7]])
    expected = "".join(step.text for step in single.generate(None, max_new_tokens=6, temperature=1.0, seed=4))
    session = Session(server)
    assert session.info["position"] == 0
    assert session.ask("POST", "/append", {"prompt": "ab"})["position"] == 4
    assert session.ask("POST", "/append", {"prompt": [5, 6]})["position"] == 6
    assert session.generate(prompt="e", max_tokens=6) == expected


def test_forks_go_their_own_ways(server) -> None:
    session = Session(server, prompt="abcdef")
    info = session.ask("POST", "/fork", status=201)
    fork = Session(server)
    fork.path = f"/v1/sessions/{info['id']}"
    first = session.generate(max_tokens=8)
    assert fork.generate(max_tokens=8, seed=5) != first
    other = Session(server, prompt="abcdef")
    assert other.generate(max_tokens=8) == first
    assert session.ask("GET")["position"] == 16


def test_state_files_come_and_go(server, single, served, tmp_path) -> None:
    session = Session(server, prompt="abcdef")
    session.generate(max_tokens=3)
    content = session.ask("GET", "/state")
    rest = session.generate(max_tokens=5)
    restored = Session(server)
    assert restored.ask("PUT", "/state", content, kind=OCTETS)["position"] == 11
    assert restored.generate(max_tokens=5) == rest
    path = tmp_path / "state.safetensors"
    path.write_bytes(content)
    single.load(path)  # and out of the server
    assert "".join(s.text for s in single.generate(None, max_new_tokens=5, temperature=1.0, seed=4)) == rest


def test_foreign_and_damaged_states_are_refused(server, served) -> None:
    session = Session(server, prompt="abc")
    before, own = session.values(), session.ask("GET", "/state")
    other = Session(server, model="exact", prompt="abc")
    for content in (other.ask("GET", "/state"), own[:200], b"", b"x" * 4000):
        answer = session.ask("PUT", "/state", content, kind=OCTETS, status=400)
        assert answer["error"]["code"] == "invalid_state"
        assert "/" not in answer["error"]["message"]  # no path of the server
    assert session.values() == before


def test_deleted_session_is_gone(server) -> None:
    session = Session(server)
    assert session.ask("DELETE")["deleted"]
    for method, part in (("GET", ""), ("GET", "/state"), ("POST", "/fork"), ("DELETE", "")):
        assert session.ask(method, part, status=404)["error"]["code"] == "session_not_found"


def test_sessions_are_their_clients_alone(server) -> None:
    session = Session(server, prompt="abc")
    asked = [
        ("GET", "", None),
        ("POST", "/append", {"prompt": "a"}),
        ("POST", "/generate", {"max_tokens": 1}),
        ("POST", "/fork", None),
        ("GET", "/state", None),
        ("DELETE", "", None),
    ]
    for method, part, body in asked:
        theirs = session.ask(method, part, body, status=404, key=KEYS[1])
        never = server.ask(method, f"/v1/sessions/linear.{'x' * 32}{part}", body, key=KEYS[1])
        assert (never[0], never[2]) == (404, theirs)  # whether it is there cannot be told
    assert session.ask("GET")["position"] == 5


def test_two_requests_do_not_share_a_session(served) -> None:
    with running(served) as server:
        session = Session(server, key="", prompt="abc")
        server.slow_down(0.05)
        content = json.dumps({"max_tokens": 30, "seed": 0, "stream": True}).encode()  # comes to no stop before
        first = server.connect(head(f"{session.path}/generate", len(content)) + content)
        first.recv(64)
        answer = session.ask("POST", "/append", {"prompt": "a"}, status=409)
        assert answer["error"]["code"] == "session_busy"
        first.close()  # who leaves leaves the session as it was
        wait_for(lambda: server.ask("POST", f"{session.path}/append", {"prompt": "a"})[0] == 200)
        assert session.ask("GET")["position"] == 6


def test_session_is_nobody_elses_until_its_state_has_been_replaced(served, monkeypatch) -> None:
    begun, gate = threading.Event(), threading.Event()
    with running({"linear": served["linear"]}) as server:
        store = server.models["linear"].store
        replace = store.replace

        def slow(*arguments) -> None:
            begun.set()
            assert gate.wait(20)
            replace(*arguments)

        monkeypatch.setattr(store, "replace", slow)
        path = f"{Session(server, key='').path}/append"
        content = json.dumps({"prompt": "ab"}).encode()
        leaving = server.connect(head(path, len(content)) + content)
        assert begun.wait(20)
        leaving.close()
        wait_for(lambda: server.count_connections() == 0)
        assert server.ask("POST", path, {"prompt": "c"})[0] == 409
        gate.set()
        wait_for(lambda: server.ask("POST", path, {"prompt": "c"})[0] == 200)
        assert server.ask("GET", path.removesuffix("/append"))[2]["position"] == 5


def test_failed_request_leaves_the_session_as_it_was(served) -> None:
    with running(served, deadline_s=2.0) as server:
        session = Session(server, key="", prompt="abcdef")
        before = session.values()
        server.slow_down(0.2)
        late = session.ask("POST", "/generate", {"max_tokens": 30, "seed": 4}, status=504)  # comes to no stop before
        assert late["error"]["code"] == "deadline_exceeded"
        assert session.ask("POST", "/append", {"prompt": "a" * 40}, status=400)["error"]["param"] is None
        assert session.values() == before


def test_evicted_sessions_go_on_bit_for_bit(served) -> None:
    with running(served) as server:
        expected = [Session(server, key="", prompt="abc"[: n + 1]).generate(max_tokens=9) for n in range(3)]
    with running(served, store=StoreLimits(memory_bytes=800)) as server:
        sessions = [Session(server, key="", prompt="abc"[: n + 1]) for n in range(3)]
        store = server.models["linear"].store
        assert store.disk_bytes > 0
        assert store.memory_bytes <= 800
        for _ in range(2):  # back and forth
            assert [session.ask("GET")["position"] for session in sessions] == [3, 4, 5]
        assert [session.generate(max_tokens=9) for session in sessions] == expected


@pytest.mark.parametrize("keys", [KEYS, ()], ids=["keys", "no keys"])
def test_kept_sessions_outlive_the_server(served, tmp_path, keys) -> None:
    key = keys[0] if keys else ""
    with running(served, keys, state_dir=tmp_path) as server:
        session, other = (Session(server, key, prompt="abcdef") for _ in range(2))
        session.generate(max_tokens=3)
        other.generate(max_tokens=3)
        expected = other.generate(max_tokens=6)
    assert (tmp_path / "linear").stat().st_mode & 0o077 == 0
    with running(served, keys, state_dir=tmp_path) as server:
        session.server = server
        assert session.generate(max_tokens=6) == expected
        if keys:
            session.ask("GET", status=404, key=keys[1])


def test_begun_characters_are_completed(tmp_path) -> None:
    checkpoint = checkpoint_of(reciting_model(), tmp_path / "run", Alphabet("bytes"))
    folder = tmp_path / "bundle"
    folder.mkdir()
    seal_bundle(folder, export_c(checkpoint, folder, COptions()))
    whole = RECITED.decode(errors="replace")
    with running({"linear": folder}) as server:
        session = Session(server, key="")
        session.ask("POST", "/append", {"prompt": [0]})
        texts = [session.generate(max_tokens=1, temperature=0) for _ in range(len(RECITED))]
    assert "".join(texts) == whole.rstrip("\N{REPLACEMENT CHARACTER}")


def test_sessions_have_limits(served) -> None:
    with running(served, KEYS, store=StoreLimits(max_sessions=5, max_sessions_per_client=3)) as server:
        mine = [Session(server) for _ in range(3)]
        for key, count, reason in ((KEYS[0], 0, "this client has 3"), (KEYS[1], 2, "there are 5 sessions")):
            for _ in range(count):
                Session(server, key=key)
            status, headers, answer = server.ask("POST", "/v1/sessions", {"model": "linear"}, key=key)
            assert (status, headers["retry-after"]) == (429, "1")
            assert reason in answer["error"]["message"]
        mine[0].ask("DELETE")
        Session(server)
