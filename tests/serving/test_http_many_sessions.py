"""A client with as many sessions as it may have: others are served, memory has its limit, nothing is left behind."""

import http.client
import json

import pytest

from causalrn.runtimes import open_session
from causalrn.serving.session_store import StoreLimits
from tests.serving.servers import KEYS, running

MOST = 10_000
"""Of one client, by default."""
SPOKEN = 500
"""Of so many sessions one begins with a prompt."""
LIMITS = StoreLimits(memory_bytes=1 << 20)


class Client:
    """One connection that is kept: thousands of new ones would take longer than what is asked."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}

    def ask(self, method: str, path: str, body=None):
        """Status, and the answer as a value."""
        self._connection.request(method, path, None if body is None else json.dumps(body), self._headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def create(self, **body) -> str:
        status, answer = self.ask("POST", "/v1/sessions", {"model": "linear", **body})
        assert status == 201, answer
        return f"/v1/sessions/{answer['id']}"

    def close(self) -> None:
        self._connection.close()


def prompt_of(number: int) -> str:
    return "abcdefgh"[: 1 + number // SPOKEN % 8]


@pytest.mark.slow
@pytest.mark.cases(0)  # most of a minute
def test_ten_thousand_sessions_hold_their_limits(served) -> None:
    with running({"linear": served["linear"]}, KEYS, store=LIMITS) as server:
        mine, yours = (Client(server.port, key) for key in KEYS)
        store = server.models["linear"].store
        paths, most_bytes = [], 0
        for number in range(MOST):
            paths.append(mine.create(**({"prompt": prompt_of(number)} if number % SPOKEN == 0 else {})))
            most_bytes = max(most_bytes, store.memory_bytes)
        assert (len(set(paths)), len(store)) == (MOST, MOST)
        assert most_bytes <= LIMITS.memory_bytes < store.memory_bytes + store.disk_bytes
        status, answer = mine.ask("POST", "/v1/sessions", {"model": "linear"})
        assert (status, answer["error"]["code"]) == (429, "queue_full")
        assert "this client has 10,000 sessions" in answer["error"]["message"]

        paths_of_another = [yours.create(prompt="abc")]
        assert yours.ask("GET", paths[0])[0] == 404
        check_spoken(served["linear"], mine, paths)

        for client, made in ((mine, paths), (yours, paths_of_another)):
            assert all(client.ask("DELETE", path)[0] == 200 for path in made)
            client.close()
        assert (len(store), store.memory_bytes, store.disk_bytes) == (0, 0, 0)
        assert not [*store._folder.glob("*/*")]
        server.wait_until_idle()


def check_spoken(bundle, client: Client, paths: list[str]) -> None:
    """Sessions that have lain on disk meanwhile go on as if they were alone."""
    with open_session(bundle) as session:
        for number in range(0, MOST, SPOKEN):
            session.reset(1)
            steps = session.generate(prompt_of(number), max_new_tokens=6, temperature=1.0, seed=number)
            expected = "".join(step.text for step in steps)
            body = {"max_tokens": 6, "temperature": 1, "seed": number}
            status, answer = client.ask("POST", f"{paths[number]}/generate", body)
            assert status == 200, answer
            assert answer["choices"][0]["text"] == expected
